"""An oracle: a participant with a large student and no data, which answers the samples that peers send it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode
from torchvision.io import decode_jpeg, encode_jpeg

from mmkd.bounds import Bound, bounded
from mmkd.cohort.fleet import check_student
from mmkd.cohort.peers import Peers
from mmkd.coordination.delivery import Delivery
from mmkd.coordination.refusals import check_kind
from mmkd.coordination.speaking import finite_rows, sure
from mmkd.data.base import PeerData
from mmkd.data.padding import as_tensors, of_tensors
from mmkd.data.reader import pieces
from mmkd.functional.detection.boxes import EMPTY, settle
from mmkd.functional.random import key, keyed
from mmkd.knowledge.base import Heard, Statement, Statements
from mmkd.knowledge.detections import PseudoLabels, SharedDetections
from mmkd.knowledge.losses import KullbackLeibler
from mmkd.knowledge.shared_logits import SharedLogits
from mmkd.students.base import Student
from mmkd.transport import Stack
from mmkd.types import Batches, ConfigError, DivergedError, PeerName, Predictions, Step, Target, Views

PIECE = 32
"""How many samples go through one forward pass."""


@bounded
class Oracle:
    """A teacher of every peer on the peer's own samples, which are sent to it: teacher-student distillation.

    A peer sends all of its training samples once, before the first local step that reads any of them, and
    gets what the oracle says of each. From then on its own loss is ``alpha`` times that of the labels plus
    ``1 - alpha`` times that of the answers (``alpha`` is the knowledge's); with 0 no label is read.

    Args:
        student: makes the oracle's student from the data's number of classes; it never trains.
        knowledge: what the oracle answers: ``SharedDetections``, ``DenseDetections``, or ``SharedLogits`` at
            temperature 1. Samples of which it is less sure than its ``confident`` get no answer. Settings of
            an exchange among peers are refused.
        name: of the participant, for the ledger.
        jpeg: quality, 1 to 100, at which frames are compressed to be sent; not compressed if left out.
        still: whether cameras do not move. Then it predicts all frames of a camera before it answers, and
            moves each box to the mean of such boxes in other frames (``functional.detection.boxes.settle``).
        precision: in which it computes, in Lightning's words; ``bf16-mixed`` is faster where the hardware has
            it.

    Raises:
        ConfigError: a student cannot learn such answers.
    """

    def __init__(
        self,
        student: Callable[[int], Student],
        knowledge: Statements,
        *,
        name: str = "oracle",
        jpeg: Annotated[int, Bound(1, 100)] | None = None,
        still: bool = False,
        precision: Literal["32-true", "bf16-mixed"] = "32-true",
    ) -> None:
        plain = (
            isinstance(knowledge, SharedLogits) and knowledge.temperature == 1 and knowledge.into == "main"
        )
        if not (plain or isinstance(knowledge, PseudoLabels)):
            raise ConfigError(
                "an oracle says SharedDetections, DenseDetections, or SharedLogits of main heads at"
                f" temperature 1; not {type(knowledge).__name__}"
            )
        _check_unread(knowledge)
        self.overlap = knowledge.overlap if still and isinstance(knowledge, SharedDetections) else None
        if still and self.overlap is None:
            raise ConfigError(
                f"oracle.still is about boxes, which {type(knowledge).__name__} does not say; leave it out"
            )
        self.student, self.knowledge, self.name, self.jpeg = student, knowledge, name, jpeg
        self.half = precision == "bf16-mixed"

    def edges(self, peers: Sequence[PeerName]) -> list[tuple[str, str]]:
        """The directed edges (sender, receiver): each peer to the oracle, and back."""
        return [edge for peer in peers for edge in ((peer, self.name), (self.name, peer))]


class AskedOracle:
    """The oracle of a cohort: gets samples of the peers, and answers with targets.

    Args:
        oracle: its settings.
        peers: of the cohort.
        data: holds their samples.
        delivery: carries samples and answers.
        saved: ``state_dict`` of a saved run; None for a new run.

    Raises:
        ConfigError: a peer has its name, it reads a modality that a peer lacks, or students cannot learn its
            answers.
    """

    def __init__(
        self,
        oracle: Oracle,
        peers: Peers,
        data: PeerData,
        delivery: Delivery,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self.knowledge, self.name = oracle.knowledge, oracle.name
        if self.name in peers.names:
            raise ConfigError(
                f"the oracle and a peer are both called '{self.name}'; give the oracle another name"
            )
        self._oracle, self._peers, self._data, self._delivery = oracle, peers, data, delivery
        with keyed(key(data.seed, self.name, "init")):
            self._student = oracle.student(peers.num_classes).eval().requires_grad_(False)
        # On a CPU this makes convolutions in bfloat16 twice as fast; its bits need not be reproduced.
        self._student.to(memory_format=torch.channels_last)
        self._student.to(peers.device)
        if peers.dtype == torch.float64:
            self._student.double()
        check_student(self._student, self.name, peers.num_classes)
        check_kind(self.knowledge, peers)
        sees = "+".join(self._student.modalities)
        for peer, modality in peers.modalities.items():
            if modality != sees:
                raise ConfigError(
                    f"the oracle reads '{sees}' and cannot answer '{peer}', which sees '{modality}'"
                )
        self._check_predictions()
        self._flops = 0.0
        # For each peer the ids of its samples, in their order, and their targets.
        self._answers: dict[PeerName, tuple[Tensor, Target]] = {}
        for peer, (known, values, weight) in (saved or {}).items():
            target = Target(values.to(peers.device), weight.to(peers.device))
            self._answers[peer] = known.to(peers.device), target

    @torch.no_grad()
    def _check_predictions(self) -> None:
        """Refuse an oracle whose predictions the students cannot learn."""
        shapes: dict[PeerName, Predictions] = {}
        with self._peers.evaluating():
            for group in self._peers.groups:
                sample = self._data.reader(group.names[0], "train").batch(torch.arange(1), 0)
                x = self._peers.to_device(sample.x)
                shapes[group.names[0]] = group.predict([0], x)
                shapes[self.name] = _of_one(self._student.predict(x))
        # Boxes are sent one by one, so the oracle may predict more of them than peers do.
        alone = isinstance(self.knowledge, SharedDetections)
        for those in [{name: said} for name, said in shapes.items()] if alone else [shapes]:
            self.knowledge.check(those)

    def tell(self, step: Step) -> Step:
        """The step, with the oracle's answers as targets of the samples that are read."""
        round_ = self._peers.timetable.round_of(step.tick)
        return step._replace(private=[self.beside(batches, round_) for batches in step.private])

    def beside(self, batches: Batches, round_: int) -> Batches:
        """Private batches with the oracle's answers as targets; without labels if these have no weight."""
        values, weights = [], []
        for peer, ids in zip(batches.peers, batches.ids, strict=True):
            if peer not in self._answers:
                self._answers[peer] = self._ask(peer, round_)
            known, target = self._answers[peer]
            rows = torch.searchsorted(known, ids)
            values.append(target.values[rows])
            weights.append(target.weight[rows])
        target, alpha = Target(torch.stack(values), torch.stack(weights)), self.knowledge.keep
        if alpha == 0:
            return batches._replace(target=target, y=None, labelled=None)
        return batches._replace(target=target, keep=target.values.new_full((len(batches.peers),), alpha))

    @torch.no_grad()
    def _ask(self, peer: PeerName, round_: int) -> tuple[Tensor, Target]:
        """Send one peer's samples to the oracle and get its answers."""
        reader = self._data.reader(peer, "train")
        ids, statements, certain = [], list[Statement](), []
        for places in pieces(len(reader), PIECE):
            batch = reader.batch(places, 0)
            sent = Stack([peer], {n: t[None] for n, t in self._sent(batch.x).items()}, [self.name])
            arrived = self._carried("samples", round_, sent)
            answer = self._predictions(self._peers.to_device(self._received(arrived)))
            ((name, statement),) = self.knowledge.speak(_of_one(answer)).items()
            if not bool(finite_rows(statement.values, logits=statement.logits).all()):
                raise DivergedError(f"what '{self.name}' answers is not finite: give it other weights")
            certain.append(sure(self.knowledge, _of_one(answer)))
            self._delivery.ledger.compute(self.name, len(batch.ids) * self._flops)
            ids.append(batch.ids.to(self._peers.device))
            statements.append(statement)
        if self._oracle.overlap is not None:
            boxes = _settled(
                torch.cat([statement.values for statement in statements], 1), self._oracle.overlap
            )
            statements = [Statement(values) for values in boxes.split(PIECE, 1)]
        pairs = zip(statements, certain, strict=True)
        targets = [self._answer(name, statement, mask, peer, round_) for statement, mask in pairs]
        known, order = torch.cat(ids).sort()
        values = torch.cat([target.values[0] for target in targets])
        weight = torch.cat([target.weight[0] for target in targets])
        return known, Target(values[order], weight[order])

    def _carried(self, kind: str, round_: int, sent: Stack) -> Stack:
        """What arrives of one row; peers and their oracle are in one process.

        Raises:
            ConfigError: the transport loses it.
        """
        arrived = self._delivery.deliver(kind, round_, [sent])
        if not arrived:
            raise ConfigError(
                f"the transport lost '{kind}' that '{sent.senders[0]}' sent to '{sent.receivers[0]}' in round"
                f" {round_}; peers and their oracle are in one process, so nothing between them may be lost"
            )
        return arrived[0]

    def _predictions(self, x: Views) -> Predictions:
        """Predictions of the oracle's student, computed in the oracle's precision."""
        if not self._flops:
            with FlopCounterMode(display=False) as count:
                self._student.predict(tree_map(lambda t: t[:1], x))
            self._flops = float(count.get_total_flops())
        with torch.autocast(self._peers.device.type, torch.bfloat16, enabled=self._oracle.half):
            answer = self._student.predict(x)
        if self._oracle.half:  # answers are computed from it in single precision
            answer = tree_map(Tensor.float, answer)
        return answer

    def _answer(
        self,
        name: str,
        statement: Statement,
        certain: Bool[Tensor, "1 samples"],
        peer: PeerName,
        round_: int,
    ) -> Target:
        """Send an answer to the peer; returns the target that it makes of it, ``[1, samples, ...]``.

        Samples of which the oracle is not sure are not answered, and their targets have no weight.
        """
        knowledge, (values, logits) = self.knowledge, statement
        boxes = isinstance(knowledge, SharedDetections)
        # Boxes are sent one by one, because most slots are empty.
        rows = values.unflatten(-1, (-1, 6)).flatten(1, 2) if boxes else values
        parts = knowledge.wire.encode(rows, logits=logits)
        spoken = rows[..., 5] >= 0 if boxes else None if bool(certain.all()) else certain
        sent = Stack([self.name], parts, [peer], None, spoken, ("",) if logits else ())
        arrived = self._carried(knowledge.kind, round_, sent)
        answer = knowledge.wire.decode(arrived.tensors, rows.shape[-1], logits=logits)
        if boxes and arrived.spoken is not None:  # slots that were not sent are empty
            answer = torch.where(arrived.spoken[..., None], answer, answer.new_tensor([0.0] * 5 + [EMPTY]))
        one = torch.ones(1, 1, dtype=torch.bool, device=values.device)
        spoke = one.expand(1, values.shape[1]) if boxes or arrived.spoken is None else arrived.spoken
        heard = {name: Heard(answer.view(values.shape), spoke)}
        return knowledge.listen(heard, one, ~one)[name]

    def _sent(self, x: Views) -> dict[str, Tensor]:
        """The tensors in which a peer sends its samples.

        Raises:
            ConfigError: samples are to be compressed, but are no frames of bytes.
        """
        if self._oracle.jpeg is None:
            return as_tensors(x)
        if not isinstance(x, Tensor) or x.dtype != torch.uint8 or x.dim() != 4:
            raise ConfigError("oracle.jpeg compresses frames of bytes; leave it out for these samples")
        return {str(i): encode_jpeg(frame.cpu(), self._oracle.jpeg) for i, frame in enumerate(x)}

    def _received(self, arrived: Stack) -> Views:
        tensors = {name: tensor[0] for name, tensor in arrived.tensors.items()}
        if self._oracle.jpeg is None:
            return of_tensors(tensors)
        return torch.stack([decode_jpeg(tensors[str(i)]) for i in range(len(tensors))])

    def state_dict(self) -> dict[str, Any]:
        """The answers so far, so that a resumed run does not ask again."""
        return {peer: [known, *target[:2]] for peer, (known, target) in self._answers.items()}


def _check_unread(knowledge: Statements) -> None:
    """Refuse settings of exchanges among peers, which have no effect on an oracle.

    Raises:
        ConfigError: such a setting.
    """
    settings = {n: getattr(knowledge, n) for n in ("teachers", "recall", "digest")}
    settings |= {"pool": knowledge.pool - 1, "pretrain": knowledge.pretrain}
    if isinstance(knowledge, SharedLogits):  # students learn its answers with a loss of their own
        settings["loss"] = type(knowledge.distance) is not KullbackLeibler
    for name, given in settings.items():
        if given:
            raise ConfigError(
                f"oracle.knowledge.{name} has no effect: an oracle answers once, and students learn its"
                " answers by their own taught_loss; leave it out"
            )


def _settled(detections: Tensor, limit: float) -> Tensor:
    """Boxes ``[1, samples, slots * 6]`` of one camera's frames, moved by ``settle``."""
    rows = detections[0].unflatten(-1, (-1, 6))
    places = settle(rows[..., :4], rows[..., 4], rows[..., 5].long(), limit)
    return torch.cat([places, rows[..., 4:]], -1).flatten(-2)[None]


def _of_one(predictions: Predictions) -> Predictions:
    """Predictions with a peer axis of one peer."""
    kind: Any = type(predictions)
    one: Predictions = kind(*(t[None] for t in predictions))
    return one
