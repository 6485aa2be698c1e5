"""How figures of many peers are named in a log."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mmkd.types import Modality, PeerName

LISTED = 1000
"""Peers up to which a figure is logged for each; of more, how it is spread among them."""
QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1.0}
"""The shares of peers at which a figure is logged, by the names in the log."""


def by_peer(what: str, figures: Mapping[PeerName, float]) -> dict[str, float]:
    """One figure of every peer by the name under which it is logged.

    Thousands of curves are of no use to anybody, and take a logger longer than peers take to train.
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
