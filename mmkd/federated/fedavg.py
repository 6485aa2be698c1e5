"""FedAvg (McMahan et al. 2017): x <- x + eta_g sum_k p_k (y_k - x)."""

from __future__ import annotations

from typing import Any, ClassVar

from mmkd.bounds import BelowOne, Positive, bounded
from mmkd.encoding import Compression
from mmkd.federated.base import Aggregation, counted_once
from mmkd.federated.round import Round, Setting
from mmkd.functional.mixing import mix, neighbourhood_mixing
from mmkd.functional.trees import Tree, add, subtract, zeros
from mmkd.rates import Rate
from mmkd.types import ConfigError


@bounded
class FedAvg(Aggregation):
    """Each peer takes the p-weighted mean of its own weights and those that it hears.

    Through a hub or on a complete graph all become the same and this is FedAvg; on any other graph it is
    its neighbourhood form. Its relatives change local gradients (``correct``), what a round's
    displacements add up to (``direction``), or the step that the hub takes along it (``advance``).

    Args:
        server_lr: eta_g, the hub's learning rate.
        server_rate: multiplies it, round by round.
        server_momentum: beta of m <- beta m + Delta, x <- x + eta_g m (FedAvgM, Hsu et al. 2019).
        compression: of the displacements that peers send.
        answers: compression of what the hub sends. It sends differences to what it has sent so far, and
            so sends later what was left out (MCM, Philippenko and Dieuleveut 2021); its own x stays exact.
        **kwargs: of ``Aggregation``.
    """

    renormalises: ClassVar[bool] = True
    """Whether p is renormalised over the peers that take part."""

    def __init__(
        self,
        *,
        server_lr: Positive = 1.0,
        server_rate: Rate | None = None,
        server_momentum: BelowOne = 0.0,
        compression: Compression | None = None,
        answers: Compression | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.server_lr, self.server_rate, self.server_momentum = server_lr, server_rate, server_momentum
        self.compression, self.answers = compression, answers

    @property
    def agrees(self) -> bool:
        """Whether a common x is needed: not by plain averaging, which works on every graph."""
        exact = self.compression is None and self.answers is None and self.server_rate is None
        return type(self) is not FedAvg or not exact or (self.server_lr, self.server_momentum) != (1, 0)

    def check(self, setting: Setting) -> None:
        """Refuse weights of which those present may have none, and draws that count sizes of data twice."""
        super().check(setting)
        if self.answers is not None and not setting.hub:
            raise ConfigError("aggregation.answers compresses what a hub says: choose topology Star")
        if self.answers is not None and setting.sampled and not setting.whole:
            raise ConfigError(
                "aggregation.answers are differences to what a process may have missed: leave them or"
                " participation out where some peers are in other processes"
            )
        if self.renormalises:
            counted_once(setting)

    def begin(self, x: Tree, round: Round) -> None:
        """Remember the weights with which the round begins."""
        if self.agrees:
            self.state["x"] = {name: leaf[:1].clone() for name, leaf in x.items()}

    def finish(self, y: Tree, round: Round) -> Tree:
        """The mean of those who took part, or a step of the hub along their displacements."""
        if not self.agrees:
            return self.average(y, round)
        x = self.state["x"]
        heard = self.say(self.kind, self.displacement(y, round), round, self.compression)
        moved = self.advance(self.state.get("hub", x), self.direction(heard, round), round)
        if self.answers is not None:
            self.state["hub"] = moved
        return self.tell(self.kind, moved, round, x)

    def average(self, statistics: Tree, round: Round) -> Tree:
        """The p-weighted mean of a peer's own statistics and those that it hears."""
        if round.agree:
            return round.mix(self.kind, statistics, round.share)
        return round.mix(self.kind, statistics, neighbourhood_mixing(round.graph, round.p[round.rows]))

    def tell(self, kind: str, tree: Tree, round: Round, told: Tree | None = None) -> Tree:
        """Send the hub's answer, compressed if wanted; what peers know then (before it, ``told`` or zero)."""
        if self.answers is None:
            return round.answer(kind, tree)
        told = told if told is not None else self.state.get(f"{kind} told", zeros(tree, 1))
        known = round.answer(kind, tree, compression=self.answers, told=told)
        if kind != self.kind:  # what peers know of weights are their weights
            self.state[f"{kind} told"] = known
        return known

    def displacement(self, y: Tree, round: Round) -> Tree:
        """Displacements that peers send after their local work, ``[present, ...]``."""
        return subtract(y, self.state["x"])

    def direction(self, delta: Tree, round: Round) -> Tree:
        """The sum of displacements ``[present, ...]``, weighted, ``[1, ...]``."""
        return mix(delta, round.share)

    def advance(self, x: Tree, delta: Tree, round: Round) -> Tree:
        """The hub's new weights: a step from ``x`` along the sum of displacements."""
        if self.server_momentum:
            m = self.state.setdefault("m", zeros(x, 1))
            delta = self.state["m"] = add(delta, m, self.server_momentum)
        return add(x, delta, self.step(round))

    def step(self, round: Round) -> float:
        """eta_g in this round."""
        return self.server_lr * (
            self.server_rate.factor(round.number) if self.server_rate is not None else 1.0
        )
