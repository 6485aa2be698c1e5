"""Gossip: no hub, no common weights, only neighbours."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mmkd.federated.base import Aggregation, linear_optimizers
from mmkd.federated.round import Round, Setting
from mmkd.functional.mixing import metropolis_weights, mix, push_weights
from mmkd.functional.trees import Tree, add, put, subtract, zeros
from mmkd.transport import Compression
from mmkd.types import ConfigError


class Gossip(Aggregation):
    """D-PSGD (Lian et al. 2017) with Metropolis-Hastings weights W on any undirected graph.

    Args:
        order: ``adapt_first`` is x <- W y; ``combine_first`` is x <- W x + (y - x), where peers average
            what they had before local work.
        compression: peers send compressed differences to replicas x^ that their neighbours keep, and
            x <- y + gamma (W x^ - x^) (CHOCO-SGD, Koloskova et al. 2019, algorithm 2).
        gamma: step towards the neighbours' replicas, with compression.
        **kwargs: of ``Aggregation``.
    """

    def __init__(
        self,
        order: Literal["adapt_first", "combine_first"] = "adapt_first",
        *,
        compression: Compression | None = None,
        gamma: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if compression is not None and order == "combine_first":
            raise ConfigError("Gossip compresses with order adapt_first")
        self.order, self.compression, self.gamma = order, compression, gamma

    def check(self, setting: Setting) -> None:
        """Replicas go stale when a peer is not there to hear."""
        super().check(setting)
        if self.compression is not None and setting.sampled:
            raise ConfigError("compressed Gossip needs every peer in every round; leave participation out")

    def begin(self, x: Tree, round: Round) -> None:
        """Remember where each stands."""
        if self.order == "combine_first":
            self.state["x"] = {name: leaf.clone() for name, leaf in x.items()}

    def finish(self, y: Tree, round: Round) -> Tree:
        """Average with neighbours."""
        matrix = metropolis_weights(round.adjacency)
        if self.compression is not None:
            replicas = self.state.setdefault("replicas", zeros(y, round.size))
            heard = round.send(self.kind, subtract(y, replicas), self.compression)
            replicas = self.state["replicas"] = add(replicas, heard)
            return add(y, subtract(mix(replicas, matrix), replicas), self.gamma)
        if self.order == "adapt_first":
            return mix(round.send(self.kind, y), matrix)
        x = self.state.pop("x")
        return add(mix(round.send(self.kind, x), matrix), subtract(y, x))


class GradientTracking(Aggregation):
    """x <- W (x - eta s), s <- W s + g(x+) - g(x): every s follows the mean gradient.

    Unlike D-PSGD it comes to rest at the optimum of the mean objective at a constant rate (Di Lorenzo
    and Scutari 2016; Nedic et al. 2017, DIGing in its adapt-then-combine form). One local step a round.
    """

    corrects: ClassVar[bool] = True

    def check(self, setting: Setting) -> None:
        """One plain step of everybody."""
        super().check(setting)
        linear_optimizers(setting, "GradientTracking", momentum=False)
        if set(setting.steps) != {1}:
            raise ConfigError("GradientTracking takes one local step a round: set schedule.local_steps to 1")
        if setting.sampled:
            raise ConfigError("GradientTracking needs every peer in every round; leave participation out")

    def begin(self, x: Tree, round: Round) -> None:
        """Trackers begin as the first gradient."""
        if "s" not in self.state:
            self.state |= {"s": zeros(x, round.size), "g": zeros(x, round.size)}

    def correct(self, g: Tree, rows: Int[Tensor, " stepping"], round: Round) -> Tree:
        """S + g - g_before."""
        s = {name: self.state["s"][name] + leaf - self.state["g"][name] for name, leaf in g.items()}
        self.state["g"] |= {name: leaf.clone() for name, leaf in g.items()}
        self.state["s"] |= {name: leaf.clone() for name, leaf in s.items()}
        return s

    def finish(self, y: Tree, round: Round) -> Tree:
        """Weights and trackers are averaged alike."""
        matrix = metropolis_weights(round.adjacency)
        self.state["s"] = mix(round.send("trackers", self.state["s"]), matrix)
        return mix(round.send(self.kind, y), matrix)


MASS = "mass"
"""The number that travels with the weights in push-sum."""


class PushSum(Aggregation):
    """Stochastic gradient push (Assran et al. 2019) on directed graphs.

    z <- A (z + y - x), w <- A w, x = z / w, where A's columns sum to 1: a peer gives equal parts to all
    who hear it and to itself. It needs to know how many hear it, and nothing of who.
    """

    def begin(self, x: Tree, round: Round) -> None:
        """Everybody begins with mass 1."""
        if "w" not in self.state:
            some = next(iter(x.values()))
            self.state["w"] = {MASS: torch.ones(round.size, 1, dtype=some.dtype, device=some.device)}
        self.state["x"] = {name: leaf.clone() for name, leaf in x.items()}

    def finish(self, y: Tree, round: Round) -> Tree:
        """Weights and mass are pushed alike."""
        x, w = self.state.pop("x"), self.state["w"]
        mass = w[MASS] if len(round.rows) == round.size else w[MASS][round.rows.to(w[MASS].device)]

        def shaped(leaf: Tensor, mass: Tensor) -> Tensor:
            return mass.view(-1, *[1] * (leaf.dim() - 1))

        z = {name: leaf * shaped(leaf, mass) + y[name] - leaf for name, leaf in x.items()}
        pushed = mix(round.send(self.kind, z | {MASS: mass}), push_weights(round.adjacency))
        mass = pushed.pop(MASS)
        put(w, round.rows, {MASS: mass})
        return {name: leaf / shaped(leaf, mass) for name, leaf in pushed.items()}
