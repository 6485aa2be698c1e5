"""FedAvg (McMahan et al. 2017): x <- x + eta_g sum_k p_k (y_k - x)."""

from __future__ import annotations

from typing import Any

from mmkd.federated.base import Aggregation
from mmkd.federated.round import Round
from mmkd.functional.mixing import mix, neighbourhood_average
from mmkd.functional.trees import Tree, add, subtract, zeros
from mmkd.transport import Compression
from mmkd.types import ConfigError


class FedAvg(Aggregation):
    """Each peer takes the p-weighted mean of its own weights and those that it hears.

    Through a hub or on a complete graph all become the same and this is FedAvg; on any other graph it is
    its neighbourhood form. Its relatives change local gradients (``correct``), what a round's
    displacements add up to (``direction``), or the step that the hub takes along it (``advance``).

    Args:
        server_lr: eta_g, the hub's learning rate.
        server_momentum: beta of m <- beta m + Delta, x <- x + eta_g m (FedAvgM, Hsu et al. 2019).
        compression: of the displacements that peers send.
        **kwargs: of ``Aggregation``.
    """

    def __init__(
        self,
        *,
        server_lr: float = 1.0,
        server_momentum: float = 0.0,
        compression: Compression | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if server_lr <= 0:
            raise ConfigError(f"aggregation.server_lr must be above 0, not {server_lr}")
        if not 0 <= server_momentum < 1:
            raise ConfigError(f"aggregation.server_momentum must lie in [0, 1), not {server_momentum}")
        self.server_lr, self.server_momentum, self.compression = server_lr, server_momentum, compression

    @property
    def agrees(self) -> bool:
        """Plain averaging needs no common x, so it works on every graph."""
        plain = self.server_lr == 1 and self.server_momentum == 0 and self.compression is None
        return type(self) is not FedAvg or not plain

    def begin(self, x: Tree, round: Round) -> None:
        """Remember where all stand."""
        if self.agrees:
            self.state["x"] = {name: leaf[:1].clone() for name, leaf in x.items()}

    def finish(self, y: Tree, round: Round) -> Tree:
        """The mean of those who were here, or a step of the hub along what they say."""
        if not self.agrees:
            heard = round.send(self.kind, y)
            if round.agree:
                return round.answer(self.kind, mix(heard, round.share))
            return mix(heard, neighbourhood_average(round.adjacency, round.p[round.rows]))
        x = self.state["x"]
        heard = self.say(self.kind, subtract(y, x), round, self.compression)
        return round.answer(self.kind, self.advance(x, self.direction(heard, round)))

    def direction(self, delta: Tree, round: Round) -> Tree:
        """What displacements ``[present, ...]`` add up to, ``[1, ...]``."""
        return mix(delta, round.share)

    def advance(self, x: Tree, delta: Tree) -> Tree:
        """The hub's step."""
        if self.server_momentum:
            m = self.state.setdefault("m", zeros(x, 1))
            delta = self.state["m"] = add(delta, m, self.server_momentum)
        return add(x, delta, self.server_lr)
