"""Precision of detectors: average precision as COCO has it, and precision and recall at one score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from mmkd.bounds import Share, bounded
from mmkd.functional.detection.boxes import KNOWN, UNLABELLED, centred, iou
from mmkd.types import PeerName

OVERLAP = 0.5
"""Least IoU with an object at which a detection has found it, for precision and recall."""


@bounded
class Detections:
    """Detections and objects of every peer, collected until their metrics are computed.

    ``map50`` is the average precision at an IoU of 0.5 and ``map`` its mean over IoUs of 0.5, 0.55, ... 0.95,
    both the mean over the classes of which there are objects, with the 100 surest detections of a class in a
    frame. ``precision`` and ``recall`` count detections at least as sure as the threshold, over all classes
    together: in descending order of score, each finds the object of its class that it overlaps most among
    those not yet found, if by an IoU of at least 0.5.

    Args:
        threshold: score from which on a detection counts for precision and recall.

    Raises:
        ConfigError: the threshold is no score.
    """

    def __init__(self, threshold: Share = 0.5) -> None:
        self._threshold = threshold
        self._curves: dict[PeerName, MeanAveragePrecision] = {}
        self._counts: dict[PeerName, Tensor] = {}

    def update(
        self,
        names: Sequence[PeerName],
        said: Float[Tensor, "peers batch slots 6"],
        y: Float[Tensor, "batch rows 5"],
    ) -> None:
        """Count one batch that all peers named have read.

        Args:
            names: the peers.
            said: ``x1, y1, x2, y2, score, class`` of each of their detections, in any order; class ``EMPTY``
                where there is none. A detection that is not finite is none.
            y: ``x1, y1, x2, y2, class`` of objects; class ``EMPTY`` where there is none, ``KNOWN`` for an
                annotated area. In a frame with such areas, a detection whose centre is in none of them does
                not count. Nor does one that overlaps an ``UNLABELLED`` object by an IoU of at least 0.5, and
                by more than any other.
        """
        # Kept as tensors, because the library reads numbers one by one, in double precision.
        said, y = said.detach().cpu().double(), y.detach().cpu().double()
        real, objects = _real(said, y), y[..., 4] >= 0
        sure = real & (said[..., 4] >= self._threshold)
        found = _found(said, sure, y).sum(1)
        counts = torch.stack([found, sure.sum((1, 2)), objects.sum().expand(len(said))], -1)
        truth = [_boxes(row[there]) for row, there in zip(y, objects, strict=True)]
        for name, row, own, count in zip(names, said, real, counts, strict=True):
            if name not in self._curves:
                self._curves[name] = _curve()
                self._counts[name] = torch.zeros_like(count)
            self._counts[name] += count
            self._curves[name].update([_boxes(f[there]) for f, there in zip(row, own, strict=True)], truth)

    def compute(self) -> dict[PeerName, dict[str, float]]:
        """Metrics of every peer; the counts begin anew.

        Undefined metrics are left out: for a peer that was shown no object all but ``precision``, and that,
        too, if it detected nothing. A peer that was shown objects and detects none
        has precision 0.
        """
        metrics: dict[PeerName, dict[str, float]] = {}
        for name, count in self._counts.items():
            found, detections, objects = count.tolist()
            metrics[name] = {}
            if objects:
                curve = self._curves[name].compute()
                metrics[name] |= {"map50": float(curve["map_50"]), "map": float(curve["map"])}
                metrics[name]["recall"] = found / objects
            if objects or detections:
                metrics[name]["precision"] = found / max(1, detections)
        self._curves, self._counts = {}, {}
        return metrics


def errors(
    said: Float[Tensor, "frames slots 6"], y: Float[Tensor, "frames rows 5"], *, threshold: float = 0.5
) -> Int[Tensor, " frames"]:
    """How many errors a detector makes in each frame: objects that it misses, and detections that find none.

    What counts, and what finds what, is as for precision and recall of ``Detections``.

    Args:
        said: as of ``Detections.update``, of one detector.
        y: the objects.
        threshold: score from which on a detection counts.
    """
    said, y = said[None].detach().cpu().double(), y.detach().cpu().double()
    sure = _real(said, y) & (said[..., 4] >= threshold)
    return (y[..., 4] >= 0).sum(1) + sure[0].sum(1) - 2 * _found(said, sure, y)[0]


def _curve() -> MeanAveragePrecision:
    curve = MeanAveragePrecision(
        # COCO's thresholds. The library's own are in float32, where an IoU of 0.8 is less than 0.8.
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
        backend="faster_coco_eval",  # the other one, in Python, takes ten times as long
        sync_on_compute=False,  # a process has metrics of its own peers alone
    )
    curve.warn_on_many_detections = False  # COCO's limit of a hundred of a class in a frame is meant
    return curve


def _boxes(rows: Float[Tensor, "boxes columns"]) -> dict[str, Tensor]:
    """Boxes as the library reads them, from rows that end in a class, with or without a score before it."""
    named = {"boxes": rows[:, :4], "labels": rows[:, -1].long()}
    return named | {"scores": rows[:, 4]} if rows.shape[1] == 6 else named


def _real(
    said: Float[Tensor, "peers batch slots 6"], y: Float[Tensor, "batch rows 5"]
) -> Bool[Tensor, "peers batch slots"]:
    """Which detections are some, and count."""
    real = (said[..., 5] >= 0) & said.isfinite().all(-1)
    return real & _annotated(said[..., :4], y) & ~_unlabelled(said[..., :4], y)


def _annotated(
    boxes: Float[Tensor, "peers batch slots 4"], y: Float[Tensor, "batch rows 5"]
) -> Bool[Tensor, "peers batch slots"]:
    """Whether the centre of a box is in an annotated area, or its frame is annotated throughout."""
    y = y[:, (y[..., 4] == KNOWN).any(0)]  # rows that are an area in any frame, which are few
    areas = y[..., 4] == KNOWN
    centre = centred(boxes)[..., None, :2]
    inside = ((centre >= y[:, None, :, :2]) & (centre <= y[:, None, :, 2:4])).all(-1) & areas[:, None]
    return inside.any(-1) | ~areas.any(-1)[:, None]


def _unlabelled(
    boxes: Float[Tensor, "peers batch slots 4"], y: Float[Tensor, "batch rows 5"]
) -> Bool[Tensor, "peers batch slots"]:
    """Whether a box is that of an object without a label, and overlaps no labelled object more."""
    others, labelled = y[..., 4] == UNLABELLED, y[..., 4] >= 0
    if not others.any():
        return torch.zeros(boxes.shape[:3], dtype=torch.bool)
    near = iou(boxes, y[..., :4].expand(len(boxes), -1, -1, -1))
    other, own = (near.masked_fill(~which[:, None], 0.0).amax(-1) for which in (others, labelled))
    return (other >= OVERLAP) & (other > own)


def _found(
    said: Float[Tensor, "peers batch slots 6"],
    sure: Bool[Tensor, "peers batch slots"],
    y: Float[Tensor, "batch rows 5"],
) -> Int[Tensor, "peers batch"]:
    """How many objects of each frame each peer finds by the detections of which it is sure."""
    y = y.flip(1).expand(len(said), -1, -1, -1)  # of equal overlaps COCO takes the last object
    left = y[..., 4] >= 0
    found = torch.zeros(said.shape[:2], dtype=torch.long)
    if not left.any():
        return found
    order = said[..., 4].masked_fill(~sure, -1.0).argsort(dim=-1, descending=True, stable=True)
    for place in order.unbind(-1)[: int(sure.sum(-1).max())]:
        one = said.gather(2, place[..., None, None].expand(-1, -1, 1, 6))
        near = iou(one[..., :4], y[..., :4])[..., 0, :]
        best, nearest = near.masked_fill(~left | (one[..., 5] != y[..., 4]), -1.0).max(-1)
        hit = sure.gather(2, place[..., None]) & (best >= OVERLAP)[..., None]
        found += hit[..., 0]
        left = left.scatter(2, nearest[..., None], left.gather(2, nearest[..., None]) & ~hit)
    return found
