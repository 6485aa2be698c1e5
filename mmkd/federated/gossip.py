"""Gossip: peers average weights with their neighbours, without a hub: D-PSGD, gradient tracking, push-sum."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mmkd.bounds import SomeShare, bounded
from mmkd.encoding import Compression
from mmkd.federated.base import Aggregation, linear_optimizers, of_those_there
from mmkd.federated.round import Round, Setting
from mmkd.functional.mixing import Mixing, metropolis_mixing, push_mixing
from mmkd.functional.trees import Tree, add, add_, pick, put, scale_rows_, subtract, zeros
from mmkd.types import ConfigError, PeerName


@bounded
class Neighbours(Aggregation):
    """The base of gossip: peers hear their neighbours alone. Repeated, it leads to the uniform mean of all.

    Args:
        compression: peers send compressed differences to replicas that their neighbours keep, and move by
            gamma (W x^ - x^) (CHOCO-SGD, Koloskova et al. 2019, algorithm 2). A replica is the memory of
            what was left out, so ``error_feedback`` of the compression makes no difference here.
        gamma: step towards the neighbours' replicas; without compression there are none.
        among: of ``Aggregation``; ``weights`` are those of the graph.
        buffers: of ``Aggregation``.
        optimizer_state: of ``Aggregation``.
    """

    def __init__(
        self,
        *,
        compression: Compression | None = None,
        gamma: SomeShare = 0.5,
        among: Literal["modality", "fleet", "all"] | dict[str, list[PeerName]] = "modality",
        buffers: Literal["average", "local"] = "average",
        optimizer_state: Literal["reset", "keep"] = "reset",
    ) -> None:
        super().__init__(among=among, weights="uniform", buffers=buffers, optimizer_state=optimizer_state)
        self.compression, self.gamma = compression, gamma

    def check(self, setting: Setting) -> None:
        """Refuse a hub, and compression where neighbours change: their replicas would be out of date."""
        super().check(setting)
        name = type(self).__name__
        if setting.hub:
            raise ConfigError(f"{name} needs no hub: choose topology Complete, Ring or another graph")
        if self.compression is not None and (setting.sampled or not setting.fixed):
            raise ConfigError(
                f"compressed {name} needs the same neighbours in every round: leave participation out, and"
                " choose a graph that stays"
            )

    def mixing(self, round: Round) -> Mixing:
        """Metropolis-Hastings weights of the round's graph."""
        return metropolis_mixing(round.graph)

    def average(self, statistics: Tree, round: Round) -> Tree:
        """Neighbours average statistics as they average weights."""
        return round.mix(self.kind, statistics, self.mixing(round))

    @property
    def in_step(self) -> bool:
        """Whether all have to be in the same round: only for replicas, which follow what each has sent."""
        return self.compression is not None

    def exchange(self, kind: str, tree: Tree, mixing: Mixing, round: Round) -> Tree:
        """The rows of ``tree`` after each was averaged with its neighbours'."""
        if self.compression is None:
            return round.mix(kind, tree, mixing)
        replicas = self.state.setdefault(f"{kind} replicas", zeros(tree, round.size))
        change = subtract(tree, replicas)
        mixed = round.mix(kind, change, mixing, compression=self.compression, memory=replicas)
        return add(tree, subtract(mixed, replicas), self.gamma)


class Gossip(Neighbours):
    """D-PSGD (Lian et al. 2017) with Metropolis-Hastings weights W on any undirected graph.

    Args:
        order: ``adapt_first`` is x <- W y; ``combine_first`` is x <- W x + (y - x), where peers average
            what they had before local work.
        **kwargs: of ``Neighbours``.
    """

    def __init__(self, order: Literal["adapt_first", "combine_first"] = "adapt_first", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = order

    def check(self, setting: Setting) -> None:
        """Refuse directed graphs, for W is symmetric."""
        super().check(setting)
        undirected(setting, "Gossip")

    def begin(self, x: Tree, round: Round) -> None:
        """Remember the weights with which each peer begins."""
        if self.order == "combine_first":
            self.state |= {"x": {name: leaf.clone() for name, leaf in x.items()}, "began": {"": round.rows}}

    def finish(self, y: Tree, round: Round) -> Tree:
        """Average weights with those of neighbours."""
        if self.order == "adapt_first":
            return self.exchange(self.kind, y, self.mixing(round), round)
        x = of_those_there(self.state.pop("x"), self.state.pop("began"), round)
        return add(self.exchange(self.kind, x, self.mixing(round), round), subtract(y, x))


def undirected(setting: Setting, name: str) -> None:
    """Refuse a graph on which somebody hears a peer that does not hear it."""
    if not setting.undirected:
        raise ConfigError(f"{name} needs an undirected graph; on a directed one choose PushSum")


class GradientTracking(Neighbours):
    """x <- W (x - eta s), s <- W s + g(x+) - g(x): every s follows the mean gradient.

    Unlike D-PSGD it comes to rest at the optimum of the mean objective at a constant rate (Di Lorenzo
    and Scutari 2016; Nedic et al. 2017, DIGing in its adapt-then-combine form). One local step a round.
    Compressed, weights and trackers have replicas of their own (C-GT, Liao et al. 2022).
    """

    corrects: ClassVar[bool] = True

    in_step = True

    def check(self, setting: Setting) -> None:
        """Refuse anything but one step of plain SGD of every peer in every round."""
        super().check(setting)
        undirected(setting, "GradientTracking")
        linear_optimizers(setting, "GradientTracking", momentum=False)
        if set(setting.steps) != {1}:
            raise ConfigError("GradientTracking takes one local step a round: set schedule.local_steps to 1")
        if setting.sampled:
            raise ConfigError("GradientTracking needs every peer in every round; leave participation out")

    def begin(self, x: Tree, round: Round) -> None:
        """Begin trackers as the first gradients, in the first round."""
        if "s" not in self.state:
            self.state |= {"s": zeros(x, round.size), "g": zeros(x, round.size)}

    def correct(self, g: Tree, rows: Int[Tensor, " stepping"], round: Round) -> Tree:
        """Trackers s + g - g_before, in place of gradients."""
        tracked, before = (pick({n: self.state[part][n] for n in g}, rows) for part in ("s", "g"))
        s = {name: tracked[name] + leaf - before[name] for name, leaf in g.items()}
        put(self.state["g"], rows, g)
        put(self.state["s"], rows, s)
        return s

    def finish(self, y: Tree, round: Round) -> Tree:
        """Average weights and trackers with those of neighbours."""
        mixing = self.mixing(round)
        self.state["s"] = self.exchange("trackers", self.state["s"], mixing, round)
        return self.exchange(self.kind, y, mixing, round)


MASS = "mass"
"""Name of the number w that peers send with their weights in push-sum."""


class PushSum(Neighbours):
    """Stochastic gradient push (Assran et al. 2019) on directed graphs.

    z <- A (z + y - x), w <- A w, x = z / w, where A's columns sum to 1: a peer gives equal parts to all
    who hear it and to itself. It needs to know how many peers hear it, but not which. Compressed, z has
    replicas (Taheri et al. 2020), and the one number w is sent as it is.
    """

    in_step = True

    def check(self, setting: Setting) -> None:
        """Refuse averages of statistics in several processes, where their weights are not sent."""
        super().check(setting)
        if self.buffers == "average" and not setting.whole:
            raise ConfigError(
                "PushSum averages statistics only within one process: set aggregation.buffers to local"
            )

    def begin(self, x: Tree, round: Round) -> None:
        """Begin with w = 1 for every peer, in the first round."""
        if "w" not in self.state:
            some = next(iter(x.values()))
            self.state["w"] = {MASS: torch.ones(round.size, 1, dtype=some.dtype, device=some.device)}
        self.state |= {"x": {name: leaf.clone() for name, leaf in x.items()}, "began": {"": round.rows}}

    def finish(self, y: Tree, round: Round) -> Tree:
        """Push z and w, and return their quotient x."""
        x = of_those_there(self.state.pop("x"), self.state.pop("began"), round)
        push = push_mixing(round.graph)
        before = pick(self.state["w"], round.rows)[MASS].flatten()
        z = {name: leaf.clone() for name, leaf in x.items()}
        scale_rows_(z, before)
        add_(z, subtract(y, x))
        z = self.exchange(self.kind, z, push, round)
        if self.compression is not None:  # w must take the same steps as z
            push = push.lazy(self.gamma)
        mass = round.mix(self.kind, {MASS: before[:, None]}, push)[MASS]
        put(self.state["w"], round.rows, {MASS: mass})
        scale_rows_(z, 1 / mass.flatten())
        given = push.share * before.double().cpu()[push.place]
        self._worth = Mixing(push.place, given / given.sum(1, keepdim=True))
        return z

    def mixing(self, round: Round) -> Mixing:
        """Shares of what a peer's new weights are averaged from: A w / sum A w."""
        return self._worth
