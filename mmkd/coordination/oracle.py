"""An oracle: a participant with a large student and no data, which answers the samples that peers send it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import decode_jpeg, encode_jpeg

from mmkd.cohort.cohort import Cohort, check_student
from mmkd.coordination.delivery import Post
from mmkd.coordination.lessons import check_kind
from mmkd.data.base import PeerData
from mmkd.data.samples import take_private
from mmkd.encoding.samples import pack
from mmkd.functional.detection.boxes import EMPTY, settle
from mmkd.functional.random import key, keyed
from mmkd.knowledge.base import Heard, Knowledge, Targets
from mmkd.knowledge.detections import Answers, SharedDetections
from mmkd.knowledge.shared_logits import SharedLogits
from mmkd.students.base import Student
from mmkd.types import Batches, ConfigError, Payload, PeerName, Predictions, Step, Taught, Views

PIECE = 32
"""Samples in one forward."""


class Oracle:
    """Teaches every peer on the peer's own samples, which leave it for that: teacher-student distillation.

    A peer sends all of its training samples once, before the first local step that reads any of them, and
    gets what the oracle says of each. From then on its own loss is ``alpha`` times that of the labels plus
    ``1 - alpha`` times that of the answers (``alpha`` is the knowledge's); with 0 no label is read.

    Args:
        student: makes the oracle's student from the data's number of classes; it never trains.
        knowledge: what the oracle says: ``SharedDetections``, ``DenseDetections``, or ``SharedLogits`` at
            temperature 1. Graph, consensus and exchange have no part in it.
        name: of the participant, for the ledger.
        jpeg: quality at which frames are compressed before they are sent, 1 to 100; as they are if left out.
        still: whether cameras do not move. It then looks at all frames of a camera before it answers, and
            says of each box where such boxes are in the mean of them (``functional.detection.boxes.settle``).
        precision: in which it computes, in Lightning's words; ``bf16-mixed`` is faster where the hardware has
            it.

    Raises:
        ConfigError: a student cannot learn such answers.
    """

    def __init__(
        self,
        student: Callable[[int], Student],
        knowledge: Knowledge,
        *,
        name: str = "oracle",
        jpeg: int | None = None,
        still: bool = False,
        precision: Literal["32-true", "bf16-mixed"] = "32-true",
    ) -> None:
        plain = (
            isinstance(knowledge, SharedLogits) and knowledge.temperature == 1 and knowledge.into == "main"
        )
        if not (plain or isinstance(knowledge, Answers)):
            raise ConfigError(
                "an oracle says SharedDetections, DenseDetections, or SharedLogits of main heads at"
                f" temperature 1; not {type(knowledge).__name__}"
            )
        if jpeg is not None and not 1 <= jpeg <= 100:
            raise ConfigError(f"oracle.jpeg is {jpeg}; it is a quality, between 1 and 100")
        self._overlap = knowledge.overlap if still and isinstance(knowledge, SharedDetections) else None
        if still and self._overlap is None:
            raise ConfigError(
                f"oracle.still is about boxes, which {type(knowledge).__name__} does not say; leave it out"
            )
        self._make, self.knowledge, self.name, self.jpeg = student, knowledge, name, jpeg
        self._half = precision == "bf16-mixed"
        self._answers: dict[
            PeerName, tuple[Tensor, Taught]
        ] = {}  # ids in their order, and what was said of each

    def join(self, cohort: Cohort, data: PeerData, post: Post) -> None:
        """Take part in a cohort's training.

        Raises:
            ConfigError: a peer has its name, or it reads what a peer does not see.
        """
        if self.name in cohort.names:
            raise ConfigError(
                f"the oracle and a peer are both called '{self.name}'; give the oracle another name"
            )
        self._cohort, self._data, self._post = cohort, data, post
        with keyed(key(data.seed, self.name, "init")):
            self._student = self._make(cohort.num_classes).eval().requires_grad_(False)
        # On a CPU convolutions in bfloat16 are twice as fast so; nobody has to get the same bits.
        self._student.to(memory_format=torch.channels_last)
        check_student(self._student, self.name, cohort.num_classes)
        check_kind(self.knowledge, cohort)
        sees = "+".join(self._student.modalities)
        for peer, modality in cohort.roster[0].items():
            if modality != sees:
                raise ConfigError(
                    f"the oracle reads '{sees}' and cannot answer '{peer}', which sees '{modality}'"
                )
        self._flops = 0.0

    @torch.no_grad()
    def prepare(self) -> None:
        """Training begins: look whether students can learn what it says.

        Raises:
            ConfigError: they cannot.
        """
        device = self._cohort.device
        shapes: dict[PeerName, Predictions] = {}
        self._student.to(device)
        for _, group in self._cohort.rows():
            sample: Any = take_private(self._data.private(group.names[0], "train"), torch.arange(1), 0)
            x = tree_map(lambda t: t.to(device), sample.x)
            was_training = group.training
            shapes |= dict.fromkeys(group.names[:1], group.eval().predict([0], x))
            group.train(was_training)
            shapes[self.name] = _of_one(self._student.predict(x))
        # Boxes travel one by one, so that it may say more of them than peers do.
        alone = isinstance(self.knowledge, SharedDetections)
        for those in [{name: said} for name, said in shapes.items()] if alone else [shapes]:
            self.knowledge.check(those)
        self._answers = tree_map(lambda t: t.to(device), self._answers)  # those of a checkpoint

    def tell(self, step: Step) -> Step:
        """The step, with what the oracle says of the samples that are read."""
        round_ = self._cohort.timetable.round_of(step.tick)
        return step._replace(private=[self.beside(batches, round_) for batches in step.private])

    def beside(self, batches: Batches, round_: int) -> Batches:
        """Peers' own samples, with what the oracle says of them."""
        parts = []
        for peer, ids in zip(batches.peers, batches.ids, strict=True):
            if peer not in self._answers:
                self._answers[peer] = self._ask(peer, round_)
            known, told = self._answers[peer]
            rows = torch.searchsorted(known, ids)
            parts.append((told.values[rows], told.weight[rows], told.keep))
        told = Taught(*(torch.stack(leaves) for leaves in zip(*parts, strict=True)))
        y = batches.y
        if self.knowledge.keep == 0:  # nobody reads them
            y = torch.full_like(y, EMPTY) if y.is_floating_point() else torch.zeros_like(y)
        return batches._replace(told=told, y=y)

    @torch.no_grad()
    def _ask(self, peer: PeerName, round_: int) -> tuple[Tensor, Taught]:
        """One peer's samples go to the oracle, and its answers come back."""
        samples: Any = self._data.private(peer, "train")
        device, ids, said = self._cohort.device, [], []
        student = self._student.to(device)
        for start in range(0, len(samples), PIECE):
            batch = take_private(samples, torch.arange(start, min(start + PIECE, len(samples))), 0)
            sent = self._sent(batch.x)
            inbox = self._post.gather("samples", round_, {peer: sent}, [peer], None, self.name)
            x = tree_map(lambda t: t.to(device), self._received(inbox[peer]))
            if not self._flops:
                with FlopCounterMode(display=False) as count:
                    student.predict(tree_map(lambda t: t[:1], x))
                self._flops = float(count.get_total_flops())
            with torch.autocast(device.type, torch.bfloat16, enabled=self._half):
                answer = student.predict(x)
            if self._half:  # what is said of it is computed in single precision
                answer = tree_map(Tensor.float, answer)
            ((name, values),) = self.knowledge.speak(_of_one(answer)).items()
            self._post.ledger.compute(self.name, len(batch.ids) * self._flops)
            ids.append(batch.ids.to(device))
            said.append(values)
        if self._overlap is not None:
            said = list(_settled(torch.cat(said, 1), self._overlap).split(PIECE, 1))
        told, weights = [], []
        for values in said:
            letter, targets = self._answer(name, values)
            self._post.spread(self.knowledge.kind, round_, letter, [peer], self.name)
            told.append(targets.values[0])
            weights.append(targets.weight[0])
        known, order = torch.cat(ids).sort()
        keep = told[0].new_tensor(self.knowledge.keep)
        return known, Taught(torch.cat(told)[order], torch.cat(weights)[order], keep)

    def _answer(self, name: str, values: Tensor) -> tuple[dict[str, Tensor], Targets]:
        """What it says of samples as it travels, and what a peer makes of that."""
        knowledge, wire = self.knowledge, self.knowledge.wire
        logits, boxes = knowledge.is_logits(name), isinstance(knowledge, SharedDetections)
        # Boxes travel one by one, for most slots are empty.
        rows = values[0].unflatten(-1, (-1, 6)).flatten(0, 1) if boxes else values[0]
        encoded = wire.encode(rows, logits=logits)
        letter = pack(encoded, rows[:, 5] >= 0) if boxes else encoded
        arrived = wire.decode(encoded, rows.shape[-1], logits=logits).view(values.shape)
        one = torch.ones(1, 1, dtype=torch.bool, device=values.device)
        heard = {name: Heard(arrived, one.expand(1, values.shape[1]))}
        return letter, knowledge.listen(heard, one, ~one)[name]

    def _sent(self, x: Views) -> dict[str, Tensor]:
        """What a peer sends of its samples.

        Raises:
            ConfigError: they are to be compressed and are no frames of bytes.
        """
        if self.jpeg is None:
            return {"x": x} if isinstance(x, Tensor) else dict(x)
        if not isinstance(x, Tensor) or x.dtype != torch.uint8 or x.dim() != 4:
            raise ConfigError("oracle.jpeg compresses frames of bytes; leave it out for these samples")
        return {str(i): encode_jpeg(frame.cpu(), self.jpeg) for i, frame in enumerate(x)}

    def _received(self, payload: Payload) -> Views:
        tensors = dict(payload.tensors)
        if self.jpeg is None:
            return tensors["x"] if list(tensors) == ["x"] else tensors
        return torch.stack([decode_jpeg(tensors[str(i)]) for i in range(len(tensors))])

    def edges(self, peers: Sequence[PeerName]) -> list[tuple[str, str]]:
        """Who sends to whom."""
        return [edge for peer in peers for edge in ((peer, self.name), (self.name, peer))]

    def state_dict(self) -> dict[str, Any]:
        """Its answers, which are not asked for twice."""
        return {peer: [known, *told] for peer, (known, told) in self._answers.items()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on with the answers of a saved run."""
        self._answers = {peer: (known, Taught(*told)) for peer, (known, *told) in saved.items()}


def _settled(said: Tensor, limit: float) -> Tensor:
    """Boxes ``[1, samples, slots * 6]`` of one camera's frames, settled."""
    rows = said[0].unflatten(-1, (-1, 6))
    places = settle(rows[..., :4], rows[..., 4], rows[..., 5].long(), limit)
    return torch.cat([places, rows[..., 4:]], -1).flatten(-2)[None]


def _of_one(predictions: Predictions) -> Predictions:
    """With a peer axis."""
    return Predictions(*(t[None] for t in predictions))
