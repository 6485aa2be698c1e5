"""Names of peers' metrics in a log, and their means."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mmkd.types import Modality, PeerName

LISTED = 1000
"""Up to this many peers, a number is logged for each peer; of more, its quantiles over peers are."""
QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1.0}
"""The quantiles over peers that are logged, by the names in the log."""


def by_peer(what: str, figures: Mapping[PeerName, float]) -> dict[str, float]:
    """One number of every peer, or its quantiles over many peers, by the name in the log.

    Thousands of curves are of no use, and logging them takes longer than training.
    """
    if len(figures) <= LISTED:
        return {f"peer/{name}/{what}": value for name, value in figures.items()}
    values = torch.tensor(list(figures.values()), dtype=torch.float64)
    spread = values.quantile(values.new_tensor(list(QUANTILES.values()))).tolist()
    return {f"peers/{what}/{name}": value for name, value in zip(QUANTILES, spread, strict=True)}


def with_means(
    metrics: Mapping[PeerName, Mapping[str, float]], modalities: Mapping[PeerName, Modality], split: str
) -> dict[str, float]:
    """Metrics of every peer, their means over all, and over each modality if there are several."""
    flat: dict[str, float] = {}
    kinds = dict.fromkeys(kind for own in metrics.values() for kind in own)
    sorts = sorted({modalities[name] for name in metrics})
    for kind in kinds:
        values = {name: own[kind] for name, own in metrics.items() if kind in own}
        flat |= by_peer(f"{split}/{kind}", values)
        flat[f"{split}/{kind}"] = sum(values.values()) / len(values)
        for modality in sorts if len(sorts) > 1 else ():
            of = [value for name, value in values.items() if modalities[name] == modality]
            if of:
                flat[f"{split}/{modality}/{kind}"] = sum(of) / len(of)
    return flat
