"""An oracle teaches peers on their own samples: against loops by hand, and what it costs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from mmkd.callbacks import DecentralizedCallback, Recorder
from mmkd.cohort import Cohort, Fleet
from mmkd.coordination.oracle import PIECE, Oracle
from mmkd.data import Samples
from mmkd.data.blocks import PrivateBatches
from mmkd.federated import FedAvg, FedLin
from mmkd.functional.detection.anchors import map_distance
from mmkd.functional.detection.boxes import EMPTY, settle
from mmkd.functional.random import keyed
from mmkd.knowledge import (
    DenseDetections,
    MultiHeadDistillation,
    Prototypes,
    SharedDetections,
    SharedLogits,
)
from mmkd.knowledge.losses import LogitMatching
from mmkd.participation import Sampled
from mmkd.schedule import Schedule
from mmkd.students import DetectionStudent
from mmkd.students.base import Student
from mmkd.students.detectors.base import BoxTargets
from mmkd.topology import Star
from mmkd.transport import LocalTransport
from mmkd.types import Batch, ConfigError, Detections, Predictions
from tests.frames import HEIGHT, WIDTH, Frames
from tests.grids import each_once
from tests.tiny import CLASSES, FEATURES, Ear, Eye, Kill, TinyData, TinyDataDouble, fit, sgd, trainer

RATE = 0.01
SMALL = {"backbone": "test_efficientnet", "channels": 16, "convs": 1, "strides": [8, 16]}
PIXELS = 3 * HEIGHT * WIDTH
"""Bytes of a frame."""
LOOK = 2 * PIXELS
"""FLOPs of a look of ``Seer``: a multiply-add for each of them."""
SURE, DOUBTFUL = 0.75, 0.2
"""Scores of what ``Seer`` says: above the threshold, and between it and doubt."""


def camera(num_classes: int, **kwargs: Any) -> DetectionStudent:
    return DetectionStudent(num_classes, **{"settings": SMALL, "optimizer": sgd(RATE), **kwargs})


def cameras(count: int = 2, make: Callable[..., Student] = camera) -> dict[str, Fleet]:
    return {"cameras": Fleet(make, count)}


class Seer(Student):
    """Finds what is bright in a frame, doubts a corner, and dismisses another; remembers what it saw."""

    modalities = ("image",)
    gives = Detections

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def look(self, frame: Tensor) -> list[list[float]]:
        rows, columns = ((frame > 150).any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
        nothing, doubt = [0.0, 0.0, 0.0, 0.0, 0.0, EMPTY], [0.0, 0.0, 4.0, 4.0, DOUBTFUL, 0.0]
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, SURE, 0.0] if rows else nothing
        return [found, doubt, [60.0, 0.0, 64.0, 4.0, 0.1, 0.0]]

    def predict(self, x: Tensor) -> Predictions:
        self.seen.append(x)
        grey = (x.float().movedim(1, -1) @ torch.full((3, 1), 1 / 3))[..., 0]
        said = torch.tensor([self.look(frame) for frame in grey])
        return Detections(said, said.new_empty(len(said), 1, 0))

    def private_loss(self, batch: Batch) -> Tensor:
        raise AssertionError("an oracle does not learn")


class Blind(Seer):
    """Sees nothing."""

    def look(self, frame: Tensor) -> list[list[float]]:
        return [[0.0, 0.0, 0.0, 0.0, 0.0, EMPTY]]


def oracle(alpha: float = 0.0, student: Student | None = None, **kwargs: Any) -> Oracle:
    seer = student or Seer()
    return Oracle(lambda n: seer, SharedDetections(alpha=alpha), **kwargs)


class Run(NamedTuple):
    cohort: Cohort
    callback: DecentralizedCallback
    start: dict[str, Any]  # the students before anything happened
    data: Any

    def state(self, peer: str = "cameras/0") -> dict[str, Tensor]:
        return self.cohort.student(peer).state_dict()

    def sent(self, kind: str) -> dict[tuple[str, str, str], int]:
        """Bytes by sender, receiver and direction, if all was sent in one round."""
        entries = [e for e in self.callback.ledger.entries() if e.kind == kind]
        assert len({e.round for e in entries}) <= 1
        return {(e.sender, e.receiver, e.direction): e.bytes for e in entries}


def run(
    asked: Oracle | None,
    peers: dict[str, Fleet] | None = None,
    *,
    ticks: int = 2,
    data: Any = None,
    classes: int = 1,
    vectorize: Any = "never",
    double: bool = False,
    init: Any = "own",
    **method: Any,
) -> Run:
    cohort = Cohort(peers or cameras(), classes, init=init, vectorize=vectorize)
    cohort = cohort.double() if double else cohort
    start = {name: copy.deepcopy(cohort.student(name)).train() for name in cohort.names}
    every = 1 if method.get("knowledge") is not None else None
    plan = Schedule(local_steps=ticks, rounds_per_epoch=1, block=1, knowledge_every=every)
    callback = DecentralizedCallback(oracle=asked, schedule=plan, **method)
    data = data or Frames(batch_size=4)
    fit(cohort, callback, data, max_epochs=1, limit_val_batches=0)
    return Run(cohort, callback, start, data)


@cache
def two_steps() -> Run:
    """Cameras that are told in the usual way."""
    return run(oracle())


def by_hand(made: Run, peer: str, loss: Callable[[Any, Batch], Tensor], ticks: int = 2) -> dict[str, Tensor]:
    """A peer that learns by itself, from its own samples and a loss."""
    student, batches = made.start[peer], PrivateBatches(made.data, peer)
    optimizer = student.configure_optimizers()
    for step in range(ticks):
        batch = batches[step]
        optimizer.zero_grad()
        with keyed(batch.key):
            loss(student, batch).backward()
        optimizer.step()
    return student.state_dict()


def found(student: DetectionStudent, outputs: Any, said: Tensor, weight: Tensor) -> Tensor:
    """The detector's own loss, if boxes are to be found: corners first and class last."""
    return student.detector.loss(outputs, BoxTargets(said[..., :4], said[..., -1].long(), weight))


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[n], two[n]) for n in one)


def close(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float = 2e-6) -> None:
    """All but what a peer knows of its labels; if not told, in single precision."""
    for name in one.keys() - {"log_prior"}:
        torch.testing.assert_close(one[name], two[name], atol=tolerance, rtol=tolerance, msg=name)
        assert one[name].isfinite().all()


# --- what is learned -------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_camera_learns_what_the_oracle_says(alpha):
    """Two steps, bit for bit: a sure box counts by its score, a doubtful one not at all."""
    made = run(oracle(alpha))

    def loss(student: Any, batch: Batch) -> Tensor:
        said, outputs = Seer().predict(batch.x).boxes, student.detector.outputs(batch.x / 255)
        said[:, 2, 5] = EMPTY
        # In this order, for that of the sums of gradients comes of it.
        right = found(student, outputs, batch.y, torch.ones(batch.y.shape[:2])) if alpha else 0
        told = found(student, outputs, said, torch.where(said[..., 4] >= SURE, said[..., 4], 0.0))
        return alpha * right + (1 - alpha) * told

    for peer in made.cohort.names:
        assert same(made.state(peer), by_hand(made, peer, loss))


@pytest.mark.parametrize("vectorize", ["always", pytest.param("never", marks=pytest.mark.long)])
def test_an_oracle_that_sees_nothing_teaches_background(vectorize):
    made = run(oracle(student=Blind()), ticks=4, vectorize=vectorize)

    def loss(student: Any, batch: Batch) -> Tensor:
        nothing = torch.full((len(batch.x), 1, 5), float(EMPTY))
        return found(student, student.detector.outputs(batch.x / 255), nothing, torch.ones(len(batch.x), 1))

    for peer in made.cohort.names:
        close(made.state(peer), by_hand(made, peer, loss, 4))


def test_a_camera_that_stands_still_learns_where_cars_stand_in_the_mean():
    """Step by step, what is said of all of its frames, settled before it is heard; at the same cost."""
    made, plain = run(oracle(still=True)), two_steps()
    for peer in made.cohort.names:
        frames: Any = made.data.private(peer, "train")
        said = Seer().predict(frames.x).boxes
        said[:, 2, 4:] = torch.tensor([0.0, EMPTY])  # dismissed, and not said at all
        where = settle(said[..., :4], said[..., 4], said[..., 5].long(), 0.55)
        assert not torch.equal(where, said[..., :4])

        def loss(student: Any, batch: Batch, said: Tensor = said, where: Tensor = where) -> Tensor:
            mine = torch.cat([where, said[..., 4:]], -1)[batch.ids]
            weight = torch.where(mine[..., 4] >= SURE, mine[..., 4], 0.0)
            return found(student, student.detector.outputs(batch.x / 255), mine, weight)

        assert same(made.state(peer), by_hand(made, peer, loss))
    for kind in ("samples", "detections"):
        assert made.sent(kind) == plain.sent(kind)


def test_an_oracle_may_compute_in_half_precision():
    """Whole pixels up to 64 and three quarters are the same in bfloat16, so students are, bit for bit."""

    class Half(Seer):
        def __init__(self) -> None:
            super().__init__()
            self.half: list[bool] = []

        def predict(self, x: Tensor) -> Predictions:
            self.half.append(torch.is_autocast_enabled("cpu"))
            return Detections(*(t.bfloat16() if self.half[-1] else t for t in super().predict(x)))

    seer = Half()
    made, plain = run(oracle(student=seer, precision="bf16-mixed")), two_steps()
    assert any(seer.half)
    for peer in made.cohort.names:
        assert same(made.state(peer), plain.state(peer))
    assert made.sent("detections") == plain.sent("detections")


def test_maps_by_hand():
    """Of one speaker the mean is what it says; probabilities of 1e-6 and less are no less."""
    teacher = camera(1, maps=True).eval()
    knowledge = DenseDetections(alpha=0.5)
    made = run(Oracle(lambda n: teacher, knowledge), cameras(make=lambda n: camera(n, maps=True)))

    def loss(student: Any, batch: Batch) -> Tensor:
        outputs = student.detector.outputs(batch.x / 255)
        with torch.no_grad():
            told = teacher.detector.maps(teacher.detector.outputs(batch.x / 255))
        taught = map_distance(*student.detector.maps(outputs), *told, torch.ones(len(batch.x)))
        return 0.5 * found(student, outputs, batch.y, torch.ones(batch.y.shape[:2])) + 0.5 * taught

    close(made.state(), by_hand(made, "cameras/0", loss))


@each_once(alpha=[0.0, 0.25], vectorize=["never", "always"])
def test_a_classifier_learns_class_probabilities(alpha, vectorize):
    """Cross entropy with the softmax of what the oracle says, which travels in single precision: 6e-8."""
    teacher, make = Eye(CLASSES, drop=0.0).double().eval(), lambda n: Eye(n, drop=0.0, optimizer=sgd(RATE))
    asked = Oracle(lambda n: teacher, SharedLogits(alpha=alpha))
    made = run(
        asked, cameras(2, make), classes=CLASSES, data=TinyDataDouble(batch_size=16), double=True,
        vectorize=vectorize,
    )  # fmt: skip

    def loss(student: Any, batch: Batch) -> Tensor:
        log_p, p = student(batch.x).log_softmax(-1), teacher(batch.x).softmax(-1).detach()
        right = -log_p[torch.arange(len(log_p)), batch.y].mean()
        return alpha * right - (1 - alpha) * (p * log_p).sum(-1).mean()

    for peer in made.cohort.names:
        close(made.state(peer), by_hand(made, peer, loss), 1e-8)


def test_of_what_an_oracle_is_unsure_nothing_is_said():
    """Its answers about a half of the samples weigh and cost nothing; the others are learned as ever."""
    teacher = Eye(CLASSES, drop=0.0).double().eval()
    make = lambda n: Eye(n, drop=0.0, optimizer=sgd(RATE))  # noqa: E731
    data = TinyDataDouble(batch_size=16, peers={"cameras/0": "image"})
    data.setup("fit")
    own = data.private("cameras/0", "train")
    sure = teacher(own.x).softmax(-1).amax(-1).detach()
    middle = float(sure.median())
    asked = Oracle(lambda n: teacher, SharedLogits(alpha=0.0, confident=middle))
    made = run(
        asked, cameras(1, make), classes=CLASSES, data=TinyDataDouble(batch_size=16), double=True
    )  # fmt: skip

    def loss(student: Any, batch: Batch) -> Tensor:
        said = teacher(batch.x).softmax(-1).detach()
        heard = said.amax(-1) >= middle
        wrong = -(said * student(batch.x).log_softmax(-1)).sum(-1)
        return wrong[heard].sum() / max(1, int(heard.sum()))

    close(made.state(), by_hand(made, "cameras/0", loss), 1e-8)
    told = int((sure >= middle).sum())
    assert 0 < told < len(own)
    pieces = -(-len(own) // PIECE)
    ((nbytes),) = made.sent("logits").values()
    # Single precision, a class fewer than there are, and a bit a sample of who is left out.
    assert abs(nbytes - told * CLASSES * 4) <= told * 4 + len(own) // 8 + pieces


class Mislabelled(Frames):
    """Every frame has the boxes of the one before."""

    def _make(self, peer: str, split: str) -> Samples:
        samples = super()._make(peer, split)
        return Samples(samples.x, samples.y.roll(1, 0))


@each_once(vectorize=["never", "always"], aggregation=[None, FedLin])
def test_at_alpha_0_no_label_is_read(vectorize, aggregation):
    """Not even for the full gradients that some aggregations ask for; at alpha 1/2 they count."""

    def states(alpha: float) -> list[dict[str, Tensor]]:
        method: dict[str, Any] = {}
        if aggregation is not None:
            method = {"aggregation": aggregation(), "topology": Star(), "init": "shared"}
        kinds = (Frames(batch_size=4), Mislabelled(batch_size=4))
        return [run(oracle(alpha), data=data, vectorize=vectorize, **method).state() for data in kinds]

    assert same(*states(0.0))
    assert aggregation is not None or not same(*states(0.5))


def test_vectorised_is_the_same():
    """In single precision, two steps at a rate of 1/100."""
    one, two = run(oracle(0.5)), run(oracle(0.5), vectorize="always")
    for peer in one.cohort.names:
        close(two.state(peer), one.state(peer))
    assert one.callback.ledger == two.callback.ledger


# --- what it costs ---------------------------------------------------------------------------------


def test_every_frame_is_sent_once():
    """More than one pass over forty frames, which go in two pieces.

    A box takes 24 bytes, and of three slots a frame each takes a bit to say whether it holds one.
    """
    data = Frames(train=PIECE + 8, batch_size=8)
    made = run(oracle(), ticks=6, data=data)
    names = made.cohort.names
    assert made.sent("samples") == {(peer, "oracle", "up"): (PIECE + 8) * PIXELS for peer in names}
    bright = {peer: int((data.private(peer, "train").y[..., 4] == 0).any(1).sum()) for peer in names}
    bits = (PIECE * 3 + 8 * 3) // 8
    expected = {("oracle", peer, "down"): 24 * (PIECE + 8 + bright[peer]) + bits for peer in names}
    assert made.sent("detections") == expected
    assert made.callback.ledger.hub_flops == {"oracle": 2 * (PIECE + 8) * LOOK}
    assert made.callback.ledger.flops == run(None, ticks=6, data=data).callback.ledger.flops


def test_compressed_frames():
    """They are smaller, and what the oracle sees is what is left of them."""
    seer = Seer()
    made = run(oracle(student=seer, jpeg=40), transport=LocalTransport(serialise=True))
    frames = {peer: made.data.private(peer, "train").x for peer in made.cohort.names}
    letters = {peer: [encode_jpeg(frame, 40) for frame in x] for peer, x in frames.items()}
    expected = {(peer, "oracle", "up"): sum(map(len, letter)) for peer, letter in letters.items()}
    assert made.sent("samples") == expected
    assert max(expected.values()) < 12 * PIXELS
    seen = torch.cat([x for x in seer.seen if len(x) > 1])
    assert torch.equal(seen, torch.stack([decode_jpeg(t) for letter in letters.values() for t in letter]))
    assert not torch.equal(seen, torch.cat(list(frames.values())))


def test_who_sits_out_sends_nothing():
    made = run(oracle(), cameras(3), participation=Sampled(count=1))
    moved = {peer for peer in made.cohort.names if not same(made.state(peer), made.start[peer].state_dict())}
    assert {sender for sender, _, _ in made.sent("samples")} == moved
    assert len(moved) == 1


class Both(TinyData):
    """Every peer sees and hears."""

    def private(self, peer: str, split: str) -> Any:
        samples = super().private(peer, split)
        return Samples({"image": samples.x, "audio": samples.x}, samples.y)


class Person(Eye):
    modalities = ("image", "audio")

    def embed(self, x: Any) -> Tensor:
        return self.net(x["image"] + x["audio"])


def test_samples_of_two_modalities():
    """300 of them, of which each view has eight floats."""
    made = run(
        Oracle(Person, SharedLogits()),
        {"people": Fleet(Person, 2)},
        classes=CLASSES,
        data=Both(batch_size=16),
    )
    assert sum(made.sent("samples").values()) == 300 * 2 * FEATURES * 4
    assert sum(made.sent("logits").values()) == 300 * CLASSES * 4


def test_beside_peers_who_teach_and_are_averaged():
    """Of two peers each says something about six public frames before the second tick, 50 slots a frame."""
    made = run(
        oracle(0.5),
        knowledge=SharedDetections(),
        aggregation=FedAvg(),
        topology=Star(),
        data=Frames(batch_size=4),
    )
    table = made.callback.ledger.by_kind()
    table.pop("framing")
    assert {kind: set(ways) for kind, ways in table.items()} == {
        "samples": {"up"},
        "detections": {"up", "down"},
        "weights": {"up", "down"},
    }
    assert table["samples"]["up"] == 2 * 12 * PIXELS
    assert table["detections"]["up"] == 2 * 6 * 50 * 24


# --- a run that is killed --------------------------------------------------------------------------


@pytest.mark.parametrize(  # in the first epoch, in the second
    ("vectorize", "blocks"), [("always", 4), pytest.param("never", 2, marks=pytest.mark.long)]
)
def test_resume_is_exact(tmp_path: Path, blocks: int, vectorize: Any) -> None:
    """And nobody sends again what was sent."""
    peers = cameras(make=lambda n: camera(n, optimizer=torch.optim.Adam))

    def go(*extra: Any, ckpt_path: Path | None = None, **kwargs: Any) -> tuple[Cohort, Any, Seer]:
        seer, cohort = Seer(), Cohort(peers, 1, vectorize=vectorize)
        plan = Schedule(local_steps=3, rounds_per_epoch=1, block=1)
        callback = DecentralizedCallback(oracle=oracle(0.5, seer), schedule=plan)
        one = trainer(callback, *extra, max_epochs=2, limit_val_batches=0, **kwargs)
        if extra:
            with pytest.raises(SystemExit):
                one.fit(cohort, datamodule=Frames(batch_size=4))
        else:
            one.fit(cohort, datamodule=Frames(batch_size=4), ckpt_path=ckpt_path)
        return cohort, callback.ledger, seer

    whole, ledger, seer = go()
    assert sum(len(x) for x in seer.seen if len(x) > 1) == 2 * 12
    save = ModelCheckpoint(
        tmp_path, "last", every_n_train_steps=1, save_top_k=1, enable_version_counter=False
    )
    go(save, Kill(blocks), enable_checkpointing=True)
    again, other, seer = go(ckpt_path=tmp_path / "last.ckpt")
    assert all(len(x) == 1 for x in seer.seen)
    assert ledger == other
    for peer in whole.names:
        assert same(whole.student(peer).state_dict(), again.student(peer).state_dict())


def test_a_cohort_is_tested_without_asking(tmp_path: Path) -> None:
    """Nobody joins then, and the outcome still says who would have asked whom."""
    cohort, recorder = Cohort(cameras(1), 1), Recorder(tmp_path)
    callback = DecentralizedCallback(oracle=oracle())
    trainer(callback, recorder).test(cohort, datamodule=Frames(batch_size=4), verbose=False)
    assert callback.edges(["cameras/0"]) == [("cameras/0", "oracle"), ("oracle", "cameras/0")]
    assert (tmp_path / "outcome.json").exists()


# --- what has no meaning ---------------------------------------------------------------------------


def classify(asked: Oracle, **method: Any) -> Run:
    peers = cameras(make=Eye)
    return run(asked, peers, classes=CLASSES, data=TinyData(batch_size=16), **method)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: run(oracle(name="cameras/1")), "both called 'cameras/1'"),
        (lambda: run(oracle(name="hub"), topology=Star()), "the hub are both called 'hub'"),
        (lambda: classify(Oracle(Ear, SharedLogits())), "reads 'audio' and cannot answer 'cameras/0'"),
        (lambda: Oracle(Eye, SharedLogits(temperature=2.0)), "at temperature 1"),
        (lambda: Oracle(Eye, SharedLogits(into="auxiliary")), "of main heads"),
        (lambda: Oracle(Eye, MultiHeadDistillation()), "not MultiHeadDistillation"),
        (lambda: Oracle(Eye, SharedLogits(), still=True), "boxes, which SharedLogits does not say"),
        (lambda: Oracle(Eye, SharedLogits(teachers=1)), "oracle.knowledge.teachers has no effect"),
        (lambda: Oracle(Eye, SharedLogits(loss=LogitMatching())), "oracle.knowledge.loss has no effect"),
        (lambda: Oracle(Eye, SharedDetections(digest=3)), "oracle.knowledge.digest has no effect"),
        (lambda: oracle(jpeg=0), "jpeg must lie in .1, 100., not 0"),
        (lambda: oracle(jpeg=101), "jpeg must lie in .1, 100., not 101"),
        (lambda: classify(Oracle(Eye, SharedLogits(), jpeg=80)), "jpeg compresses frames of bytes"),
        (lambda: classify(oracle()), "Eye cannot learn SharedDetections"),
        (lambda: run(Oracle(camera, SharedLogits())), "DetectionStudent cannot learn SharedLogits"),
        (lambda: run(Oracle(lambda n: camera(n + 1), SharedDetections())), "'oracle' tells 2 classes apart"),
        (lambda: run(Oracle(lambda n: camera(n, maps=True), DenseDetections())), "'cameras/0' says no maps"),
        (lambda: run(oracle(), cameras(make=lambda n: camera(n, maps=True))), "'cameras/0' learns maps"),
        (
            lambda: classify(Oracle(Eye, SharedLogits(alpha=0.0)), knowledge=Prototypes()),
            "Prototypes is about labels",
        ),
    ],
)
def test_what_has_no_meaning(attempt, message):
    with pytest.raises(ConfigError, match=message) as error:
        attempt()
    assert "\n" not in str(error.value)
