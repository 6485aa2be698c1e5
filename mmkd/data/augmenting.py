"""Batches whose samples are changed while students learn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mmkd.augmentation import Augmentation
from mmkd.augmentation.base import changed
from mmkd.types import Batch, Batches, ConfigError, Modality, Public


def augmented(
    batches: Batches, modality: Modality, augment: Mapping[Modality, Sequence[Augmentation]]
) -> Batches:
    """Private batches of peers that read one modality, changed by the random streams of their steps.

    Raises:
        ConfigError: samples have no fixed shape, or labels are boxes, which would have to move with them.
    """
    if not augment:
        return batches
    _refuse_boxes(None if batches.y is None else batches.y.dim() - 1)
    keys = torch.tensor(batches.keys)
    return batches._replace(x=changed(batches.x, modality, keys, batches.size, augment))


def augmented_alone(
    batch: Batch, modality: Modality, augment: Mapping[Modality, Sequence[Augmentation]]
) -> Batch:
    """The batch of a student that trains alone, changed as in a cohort."""
    if not augment:
        return batch
    _refuse_boxes(None if batch.y is None else batch.y.dim())
    return batch._replace(x=changed(batch.x, modality, torch.tensor(batch.key), len(batch.ids), augment))


def augmented_public(
    public: Public, stream: int, augment: Mapping[Modality, Sequence[Augmentation]]
) -> Public:
    """Public samples as students learn from them in a step; all peers of a modality see the same."""
    keys, size = torch.tensor(stream), len(public.ids)
    views = {m: changed(view, m, keys, size, augment) for m, view in public.views.items()}
    return public._replace(views=views)


def _refuse_boxes(dimensions: int | None) -> None:
    if dimensions == 3:
        raise ConfigError("data.augment changes frames and not the boxes in them: leave it out for detectors")
