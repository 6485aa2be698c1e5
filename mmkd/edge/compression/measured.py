"""What a file is worth on a device: how well it does on test samples, how large and how fast it is."""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from mmkd.data.base import PeerData
from mmkd.data.reader import pieces
from mmkd.edge.exporting import export
from mmkd.edge.formats import FORMATS, Run
from mmkd.edge.graph import Graph
from mmkd.edge.validating import read
from mmkd.evaluation.kinds import scores_of
from mmkd.students.base import Classifier, Student
from mmkd.types import Classes, ConfigError, Detections, PeerName, Predictions, Tags, Values, Views

SAMPLES = 256
"""Samples on which a file and its student are compared, and as many by which 8 bits are calibrated."""
PIECE = 256
"""Samples that a file reads at once."""
THRESHOLD = 0.5
"""Score of a detection from which on it counts for precision and recall."""


class Measured(NamedTuple):
    """What was found of a file on one core of this machine."""

    score: float  # of test samples, by the metric of such students
    bytes: int
    median_ms: float
    p95_ms: float
    peak_mib: float
    model_mib: float
    gzip: int  # bytes of the file behind gzip, by which zeros are seen


def measured(student: Student, data: PeerData, peer: PeerName, form: str) -> Measured:
    """Export a student into a folder that does not stay, and measure the file.

    Args:
        student: of the peer.
        data: hold its samples.
        peer: whose it is.
        form: ``onnx`` or ``int8``, which is calibrated on validation samples.

    Raises:
        ConfigError: the student cannot be exported, or there are no samples to test or calibrate on.
    """
    test = first(data, peer, "test")
    calibration = first(data, peer, "val") if form == "int8" else None
    with TemporaryDirectory() as folder:
        done = export(student, test, Path(folder) / "device", formats=[form], calibration=calibration)
        path = done.folder / FORMATS[form].file
        score = score_of(FORMATS[form].load(path), student, data, peer)
        packed = len(gzip.compress(path.read_bytes(), mtime=0))
    return Measured(score, done.size[form], **done.measured[form], gzip=packed)


def first(data: PeerData, peer: PeerName, split: str) -> Views:
    """The first samples of a split, as the student reads them.

    Raises:
        ConfigError: there are none, or only one.
    """
    count = len(data.reader(peer, split))
    if count < 2:
        needs = "8 bits are calibrated on" if split == "val" else "an export needs"
        raise ConfigError(f"peer '{peer}' has {count} {split} samples, and {needs} at least two")
    return read(data, peer, split, torch.arange(min(count, SAMPLES))).x


def score_of(run: Run, student: Student, data: PeerData, peer: PeerName) -> float:
    """How well what a file says of the peer's test samples agrees with their labels, by the main metric."""
    classes = int(getattr(student, "num_classes", data.num_classes))
    scores, graph, prior = scores_of(student.gives, classes, "main", THRESHOLD, None), Graph(student), None
    if isinstance(student, Classifier):
        scores.observe(peer, data.label_counts(peer))
        prior = student.private_logits(torch.zeros(classes))[None]
    reader = data.reader(peer, "test")
    for places in pieces(len(reader), PIECE):
        batch = reader.batch(places, 0)
        assert batch.y is not None
        scores.count([peer], _predictions(student.gives, run(graph.arguments(batch.x))), batch.y, prior)
    return scores.metrics("test")[peer][scores.main]


def _predictions(kind: type[Predictions], outputs: list[Tensor]) -> Predictions:
    """What a graph has given, as one peer's predictions along a peer axis."""
    given = outputs[0][None]
    if kind is Classes:
        return Classes(given, given.new_empty(1, 0, *given.shape[1:]), given.new_empty(*given.shape[:2], 0))
    if kind is Detections:
        return Detections(given, given.new_empty(*given.shape[:2], 1, 0))
    return Tags(given) if kind is Tags else Values(given)
