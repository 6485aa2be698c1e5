"""FedAvg (McMahan et al. 2017): x <- sum_k p_k y_k."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.federated.base import Aggregation
from mmkd.functional.mixing import mix, neighbourhood_average


class FedAvg(Aggregation):
    """Each peer takes the p-weighted mean of its own weights and those that it hears.

    Through a hub or on a complete graph the mixing matrix has rank one and this is FedAvg; on any
    other graph it is its neighbourhood form.
    """

    def combine(
        self,
        weights: Mapping[str, Float[Tensor, "peers ..."]],
        adjacency: Bool[Tensor, "peers peers"],
        p: Float[Tensor, " peers"],
    ) -> dict[str, Float[Tensor, "peers ..."]]:
        """The p-weighted mean of each neighbourhood."""
        return mix(dict(weights), neighbourhood_average(adjacency, p))
