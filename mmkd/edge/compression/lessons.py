"""Lessons while a student is compressed: from its own whole self, its neighbours, or what it was told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils._pytree import tree_map

from mmkd.data.base import PeerData
from mmkd.data.blocks import Order
from mmkd.data.reader import pieces
from mmkd.data.samples import view_of
from mmkd.edge.graph import Graph
from mmkd.edge.questions import CHANCES
from mmkd.encoding.messages import decode
from mmkd.functional.consensus import mean_probability
from mmkd.functional.distillation import kd
from mmkd.knowledge.base import Heard
from mmkd.knowledge.detections import SharedDetections
from mmkd.students.base import Classifier, Student
from mmkd.students.detection import DetectionStudent
from mmkd.types import Batch, ConfigError, PeerName, Target, Views

TEMPERATURE = 2.0
"""By which the logits of teachers and of the student are divided."""
PIECE = 256
"""Samples that a teacher reads at once."""

Lesson = Callable[[Student, Batch, int], Float[Tensor, ""]]
"""The loss of a student against what others say, beside a private batch in a local step of that number."""


@dataclass(frozen=True)
class Told:
    """Samples of which somebody has said something."""

    views: Callable[[Tensor], Views | None]  # as the student reads them, by their places
    chances: Float[Tensor, "samples classes"]  # at the temperature
    seen: Bool[Tensor, " samples"]  # of which the student has a view, and somebody has said something
    temperature: float
    order: Order  # in which steps read them

    def __call__(self, student: Student, batch: Batch, step: int) -> Float[Tensor, ""]:
        """``T^2 KL`` on the samples of a step (Hinton et al. 2015); the private batch is not read."""
        assert isinstance(student, Classifier)
        places, _ = self.order(range(step, step + 1))
        x, seen = self.views(places), self.seen[places]
        if x is None:  # nobody can see any of them
            return torch.zeros(())
        return kd(
            student(x)[None], self.chances[places][None], temperature=self.temperature, seen=seen[None]
        )[0]


def from_itself(teacher: Student, data: PeerData, peer: PeerName) -> Lesson:
    """What the whole student says of private and of public samples, which weigh alike.

    If it detects, the boxes that it finds in private frames.

    Raises:
        ConfigError: it is neither a classifier nor a detector.
    """
    teacher.requires_grad_(False)
    if isinstance(teacher, DetectionStudent):
        return _boxes_of(teacher)
    _refuse_others(teacher, peer)
    public = _public([peer], {peer: teacher}, data, peer)

    def lesson(student: Student, batch: Batch, step: int) -> Float[Tensor, ""]:
        assert isinstance(student, Classifier)
        own = (teacher(batch.x) / TEMPERATURE).softmax(-1)
        private = kd(student(batch.x)[None], own[None], temperature=TEMPERATURE)[0]
        return (private + public(student, batch, step)) / 2

    return lesson


def from_neighbours(students: dict[PeerName, Student], data: PeerData, peer: PeerName) -> Lesson:
    """The mean of what all other peers of the run say of public samples, each of its own view of them.

    Raises:
        ConfigError: there are no others, or somebody is no classifier.
    """
    others = [name for name in students if name != peer]
    if not others:
        raise ConfigError(f"'{peer}' is alone and has no neighbours to learn from: choose self")
    for name in (peer, *others):
        _refuse_others(students[name], name)
    return _public(others, students, data, peer)


def from_answers(path: Path, student: Student, data: PeerData, peer: PeerName, example: Views) -> Lesson:
    """What others have answered to a device, from the file that ``Cascade.save`` has written.

    Raises:
        ConfigError: there is no such file, or it holds something else than answers about what the student
            reads.
    """
    _refuse_others(student, peer)
    assert isinstance(student, Classifier)
    if not path.is_file():
        raise ConfigError(
            f"distil is '{path}', and there is no such file: choose none, self or neighbours, or give what"
            " Cascade.save has written"
        )
    graph = Graph(student)
    try:
        found = dict(decode(path.read_bytes()).tensors)
    except ValueError as error:
        raise ConfigError(f"{path} holds no answers: {error}") from error
    wanted = dict(zip(graph.inputs, graph.arguments(example), strict=True))
    chances = found.pop(CHANCES, torch.empty(0))
    if chances.shape[1:] != (student.num_classes,) or {n: _kind(t) for n, t in found.items()} != {
        n: _kind(t) for n, t in wanted.items()
    }:
        raise ConfigError(
            f"{path} holds no answers about what '{peer}' reads: {', '.join(wanted)}, of"
            f" {student.num_classes} classes"
        )
    right = (chances >= 0).all(-1) & ((chances.sum(-1) - 1).abs() < 1e-3)
    if len(chances) == 0 or not bool(right.all()) or any(len(t) != len(chances) for t in found.values()):
        raise ConfigError(f"{path} is broken: its numbers are no probabilities, one row a sample")

    def views(places: Tensor) -> Views:
        parts = {name: tensor[places] for name, tensor in found.items()}
        return parts if graph.several else parts[graph.inputs[0]]

    # Probabilities are said at a temperature of their own, which nobody can take back.
    everything = torch.ones(len(chances), dtype=torch.bool)
    return Told(views, chances, everything, 1.0, _order(data, f"heard by {peer}", len(chances)))


@torch.no_grad()
def _public(
    speakers: Sequence[PeerName], students: dict[PeerName, Student], data: PeerData, peer: PeerName
) -> Told:
    """The mean of what some peers say of public samples, for one who sees them its own way."""
    reader = data.public_reader("train")
    parts, seen = [], []
    for places in pieces(len(reader), PIECE):
        public = reader.batch(places)
        logits, spoke = [], []
        for name in speakers:
            view, there = view_of(public, data.peers[name])
            student = students[name]
            assert isinstance(student, Classifier)
            blank = torch.zeros(len(places), student.num_classes)
            logits.append(blank if view is None else student(view))
            spoke.append(there)
        heard = torch.ones(1, len(speakers), dtype=torch.bool)
        mean, anybody = mean_probability(
            torch.stack(logits), heard, torch.stack(spoke), temperature=TEMPERATURE
        )
        parts.append(mean[0])
        seen.append(anybody[0] & view_of(public, data.peers[peer])[1])
    if not bool(torch.cat(seen).any()):
        raise ConfigError(
            f"'{peer}' sees none of the public samples: it can learn nothing from what is said of them"
        )

    def views(places: Tensor) -> Views | None:
        return view_of(reader.batch(places), data.peers[peer])[0]

    order = _order(data, f"public of {peer}", len(reader))
    return Told(views, torch.cat(parts), torch.cat(seen), TEMPERATURE, order)


def _boxes_of(teacher: DetectionStudent) -> Lesson:
    """Boxes that a detector finds in private frames, as it would tell other peers about them."""
    knowledge = SharedDetections()
    alone = torch.ones(1, 1, dtype=torch.bool)

    def lesson(student: Student, batch: Batch, step: int) -> Float[Tensor, ""]:
        assert isinstance(student, DetectionStudent)
        with torch.no_grad():
            spoken = knowledge.speak(tree_map(lambda t: t[None], teacher.eval().predict(batch.x)))
        heard = {"boxes": Heard(spoken["boxes"].values, torch.ones(1, len(batch.ids), dtype=torch.bool))}
        target = knowledge.listen(heard, alone, alone)["boxes"]
        return student.taught_loss(batch.x, Target(target.values[0], target.weight[0]))

    return lesson


def _order(data: PeerData, what: str, size: int) -> Order:
    batch = min(data.public_batch_size, size)
    return Order(data.seed, f"compression\x1f{what}", size, batch, size // batch)


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape[1:], tensor.dtype


def _refuse_others(student: Student, peer: PeerName) -> None:
    if not isinstance(student, Classifier):
        raise ConfigError(
            f"'{peer}' has a {type(student).__name__}, which says no probabilities of classes: heal it"
            " without distillation, or, if it detects, from self"
        )
