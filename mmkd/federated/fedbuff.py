"""FedBuff (Nguyen et al. 2022): a hub that waits for some updates of whichever peers; old ones count less."""

from __future__ import annotations

from typing import Any

import torch

from mmkd.bounds import AtLeastZero, Count, bounded
from mmkd.federated.base import of_those_there
from mmkd.federated.fedavg import FedAvg
from mmkd.federated.round import Round, Setting
from mmkd.functional.mixing import mix
from mmkd.functional.trees import Tree, add, scale_rows_, subtract, zeros
from mmkd.types import ConfigError

SINCE = "since"
"""Name of the number of the hub's weights from which an update begins, sent with the update."""


@bounded
class FedBuff(FedAvg):
    """x <- x + (eta_g / K) sum_K (1 + tau_k)^-a Delta_k, once K updates have come (algorithm 1).

    tau counts how often x has moved since the peer began the update. A peer that hears nothing goes on from
    its own weights, and sends what it has learned since it spoke last. Where processes wait for nobody
    (``late: asynchronous`` of a network), slow peers hold up nobody; where all are in one round, each update
    is new, and with K not above the peers this is FedAvg with equal weights.

    Args:
        buffer: K, how many updates the hub waits for; those that come at once are counted together.
        staleness: a; at 0 an old update counts like a new one.
        **kwargs: of ``FedAvg``, but for ``weights``, which are equal, and compression.
    """

    def __init__(self, buffer: Count = 4, staleness: AtLeastZero = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.compression is not None or self.answers is not None or self.weights != "samples":
            raise ConfigError(
                "FedBuff weighs all updates alike and sends them whole: leave weights and compression out"
            )
        self.weights = "uniform"
        self.buffer, self.staleness = buffer, staleness

    @property
    def in_step(self) -> bool:
        """Whether all have to be in the same round: no, for updates say where they begin."""
        return False

    def check(self, setting: Setting) -> None:
        """Refuse graphs without a hub, for nobody else keeps a buffer."""
        super().check(setting)
        if not setting.hub:
            raise ConfigError("FedBuff needs a hub that keeps a buffer: choose topology Star")

    def begin(self, x: Tree, round: Round) -> None:
        """Remember the weights with which each peer begins; the hub begins with those in common."""
        if "x" not in self.state:
            one = next(iter(x.values())).new_zeros(1, 1, dtype=torch.float64)
            self.state |= {"x": {name: leaf[:1].clone() for name, leaf in x.items()}, "moved": {"": one}}
            self.state |= {"sum": zeros(x, 1), "held": {"": one.clone()}}
        began = {name: leaf.clone() for name, leaf in x.items()}
        self.state |= {"began": began, "there": {"": round.rows}}

    def finish(self, y: Tree, round: Round) -> Tree:
        """Send updates, and get the hub's weights, which may not have moved."""
        began = of_those_there(self.state.pop("began"), self.state.pop("there"), round)
        moved = self.state["moved"][""]
        since = round.heard(SINCE, {"": torch.zeros_like(moved)})[""]
        update = {**subtract(y, began), SINCE: since.expand(len(round.rows), 1)}
        heard = dict(round.send(self.kind, update))
        age = (moved - heard.pop(SINCE)).clamp(min=0).flatten()  # below 0 after a hub's restart
        there = (round.counted > 0).to(age)
        share = there * (1 + age) ** -self.staleness
        self.state["sum"] = add(self.state["sum"], mix(heard, share.cpu()[None]))
        self.state["held"][""] = self.state["held"][""] + there.sum()
        if float(held := self.state["held"][""]) >= self.buffer:
            step = self.state["sum"]
            scale_rows_(step, 1 / held.flatten())
            self.state |= {"x": self.advance(self.state["x"], step, round), "sum": zeros(step, 1)}
            self.state |= {"moved": {"": moved + 1}, "held": {"": torch.zeros_like(moved)}}
        x = round.answer(self.kind, self.state["x"])
        round.answer(SINCE, self.state["moved"])
        return x
