"""Cameras that teach each other on shared frames, against a loop by hand, and what is kept of a run."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from mmkd.callbacks import DecentralizedCallback, Recorder
from mmkd.callbacks.diagnostics import Diagnostics
from mmkd.cohort import Cohort, Fleet
from mmkd.data import Samples
from mmkd.data.blocks import PrivateBatches
from mmkd.federated import FedDF
from mmkd.functional.detection.boxes import EMPTY
from mmkd.functional.random import key, keyed
from mmkd.knowledge import DenseDetections, Knowledge, SharedDetections, SharedLogits
from mmkd.schedule import Schedule
from mmkd.students import DetectionStudent
from mmkd.students.detectors.base import BoxTargets
from mmkd.topology import Complete, Ring, Star
from mmkd.transport import LocalTransport
from mmkd.types import ConfigError, Step
from tests.frames import Frames
from tests.tiny import Eye, fit, sgd, trainer

RATE, SLOTS, SHARED = 0.01, 9, 6
SURE, DOUBT = 0.075, 0.074
SMALL = {"backbone": "test_efficientnet", "channels": 16, "convs": 1, "strides": [8, 16]}
SMALL |= {"detections": SLOTS, "nms": 0.5}
LETTER = SHARED * SLOTS * 6 * 4
"""Bytes of what a camera says of all shared frames: six floats a slot."""
PLACES = (48 // 8) * (64 // 8) + (48 // 16) * (64 // 16)
"""Of the detector's maps, one a cell of each level."""


def camera(num_classes: int, **kwargs: Any) -> DetectionStudent:
    return DetectionStudent(num_classes, settings=SMALL, optimizer=sgd(RATE), **kwargs)


def boxes(**kwargs: Any) -> SharedDetections:
    """Scores of students that never trained are around 0.075: some sure, some in doubt, some neither."""
    return SharedDetections(**{"threshold": SURE, "doubt": DOUBT, "include_self": False, **kwargs})


class Watching(DecentralizedCallback):
    """Remembers the shared frames that were read last."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_fit_start(trainer, pl_module)
        coordinator: Any = self.coordinator
        teach = coordinator.teach

        def watched(step: Step, rows: list[list[int]]) -> Any:
            assert step.public is not None
            self.x = step.public.views["image"] / 255
            return teach(step, rows)

        coordinator.teach = watched


def run(
    knowledge: Knowledge | None,
    count: int = 2,
    *,
    make: Callable[[int], Any] = camera,
    ticks: int = 1,
    every: int = 1,
    vectorize: Any = "never",
    init: Any = "own",
    **method: Any,
) -> tuple[Cohort, Watching, dict[str, Any]]:
    """The cohort and its coordinator after some steps, and the students before them."""
    cohort = Cohort({"cameras": Fleet(make, count)}, 1, init=init, vectorize=vectorize)
    start = {name: copy.deepcopy(cohort.student(name)).train() for name in cohort.names}
    often = every if knowledge is not None else None
    plan = Schedule(local_steps=ticks, rounds_per_epoch=1, block=1, knowledge_every=often)
    callback = Watching(knowledge, schedule=plan, **method)
    fit(cohort, callback, data(), max_epochs=1, limit_val_batches=0)
    return cohort, callback, start


def data(cls: type[Frames] = Frames, **peers: Any) -> Frames:
    return cls(batch_size=4, public_batch_size=SHARED, public=SHARED, **peers)


def test_a_step_by_hand():
    """Bit for bit: half the loss of its own boxes, half that of what the other finds in shared frames.

    What the other is sure of counts by its score, what it doubts not at all.
    """
    cohort, callback, start = run(boxes(samples="batch", alpha=0.5))
    samples = data()
    samples.assign(*cohort.roster)
    x, said = callback.x, {}
    for name, student in start.items():
        with torch.no_grad():
            said[name] = student.eval().detector.detections(student.detector.outputs(x))
        student.train()
    scores = torch.cat([found.scores for found in said.values()])
    assert torch.bucketize(scores, torch.tensor([DOUBT, SURE])).unique().tolist() == [0, 1, 2]
    for name, student in start.items():
        ((_, other),) = ((n, f) for n, f in said.items() if n != name)
        batch = PrivateBatches(samples, name)[0]
        with keyed(batch.key):
            outputs = student.detector.outputs(batch.x / 255)
            own = BoxTargets(batch.y[..., :4], batch.y[..., 4].long(), torch.ones(batch.y.shape[:2]))
            (0.5 * student.detector.loss(outputs, own)).backward()
        labels = other.labels.masked_fill(other.scores < DOUBT, EMPTY)
        weight = other.scores * (other.scores >= SURE)
        with keyed(key(samples.seed, name, "told", 0)):
            kept = {n: b.clone() for n, b in student.named_buffers()}
            outputs = student.detector.outputs(x)
            (0.5 * student.detector.loss(outputs, BoxTargets(other.boxes, labels, weight))).backward()
        student.configure_optimizers().step()
        state, expected = cohort.student(name).state_dict(), student.state_dict() | kept
        assert all(torch.equal(state[n], t) for n, t in expected.items())


@pytest.mark.parametrize("vectorize", ["always", pytest.param("never", marks=pytest.mark.long)])
def test_shared_frames_leave_no_trace_in_statistics(vectorize):
    """After a step normalisation knows of the peer's own frames, and of no others."""
    taught, alone = (run(k, vectorize=vectorize) for k in (boxes(samples="batch"), None))
    for name in taught[0].names:
        one, two = (dict(cohort.student(name).named_buffers()) for cohort, *_ in (taught, alone))
        assert sum("running_mean" in n for n in one) > 0
        assert all(torch.equal(one[n], two[n]) for n in one)
        one, two = (dict(cohort.student(name).named_parameters()) for cohort, *_ in (taught, alone))
        assert any(not torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize("knowledge", [boxes, DenseDetections])
def test_vectorised_is_the_same(knowledge):
    """In single precision; two steps, the second of which knows what was said after the first."""
    maps = knowledge is DenseDetections
    make = lambda n: camera(n, maps=maps)  # noqa: E731
    one, two = (run(knowledge(), make=make, ticks=2, vectorize=v) for v in ("never", "always"))
    for name in one[0].names:
        state = two[0].student(name).state_dict()
        for n, expected in one[0].student(name).state_dict().items():
            torch.testing.assert_close(state[n], expected, atol=2e-6, rtol=1e-4)
    assert one[1].ledger == two[1].ledger


@pytest.mark.parametrize(
    ("topology", "knowledge", "letters", "serialise"),
    [
        (Ring(), boxes(), 4 * 2, True),
        (Complete(), boxes(), 4 * 3, False),
        (Star(), boxes(include_self=True), 4 + 4, False),
        (Star(), boxes(), 4 + 4, True),  # each is told something else, but as much
    ],
)
def test_bytes(topology, knowledge, letters, serialise):
    """Four cameras exchange after the first of two ticks; nobody needs what they say after the last."""
    transport = LocalTransport(serialise=serialise)
    _, callback, _ = run(knowledge, 4, ticks=2, topology=topology, transport=transport)
    assert callback.ledger.total("detections") == letters * LETTER
    assert set(callback.ledger.kinds()) == {"detections", "framing"}


def test_bytes_of_maps():
    _, callback, _ = run(DenseDetections(), 3, make=lambda n: camera(n, maps=True), ticks=2, topology=Ring())
    assert callback.ledger.total("maps") == 3 * 2 * SHARED * PLACES * (1 + 4) * 4


def test_a_hub_passes_on_what_peers_would_hear():
    """It fuses for them what a complete graph would have let each of them fuse."""
    states = []
    for topology in (Complete(), Star()):
        cohort, *_ = run(boxes(include_self=True), 3, ticks=2, topology=topology)
        states.append({name: cohort.student(name).state_dict() for name in cohort.names})
    for name, state in states[0].items():
        assert all(torch.equal(t, states[1][name][n]) for n, t in state.items())


def test_what_is_recorded(tmp_path: Path) -> None:
    cohort = Cohort({"cameras": Fleet(camera, 2)}, 1, vectorize="never", threshold=0.06)
    plan = Schedule(local_steps=2, rounds_per_epoch=1, block=1)
    run = trainer(DecentralizedCallback(boxes(), schedule=plan), Recorder(tmp_path), max_epochs=1)
    run.fit(cohort, datamodule=data())
    run.test(cohort, datamodule=data(), verbose=False)
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    with (tmp_path / "curve.csv").open() as file:
        curve = {(row["split"], row["peer"]): row for row in csv.DictReader(file)}
    assert outcome["metric"] == "map50"
    for split in ("val", "test"):
        for name in cohort.names:
            metrics, row = outcome[split][name], curve[split, name]
            assert set(metrics) == {"map50", "map", "precision", "recall"}
            assert float(row["map50"]) == metrics["map50"]
            assert not any("accuracy" in column for column in row)
    assert not any("accuracy" in name for name in run.callback_metrics)
    assert float(run.callback_metrics["test/map50"]) == pytest.approx(
        fmean(metrics["map50"] for metrics in outcome["test"].values())
    )


# --- what has no meaning ---------------------------------------------------------------------------


class Unseen(Frames):
    """The second camera's frames hold no object while training is validated."""

    def _make(self, peer: str, split: str) -> Samples:
        samples = super()._make(peer, split)
        if (peer, split) == ("cameras/1", "val"):
            samples.y[..., 4] = EMPTY
        return samples


def validate_unseen() -> None:
    trainer().validate(Cohort({"cameras": Fleet(camera, 2)}, 1), datamodule=data(Unseen), verbose=False)


def unlike() -> None:
    settings = SMALL | {"detections": SLOTS + 1}
    other = Fleet(lambda n: DetectionStudent(n, settings=settings), 1)
    cohort = Cohort({"cameras": Fleet(camera, 1), "others": other}, 1)
    fit(cohort, DecentralizedCallback(boxes()), data())


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (validate_unseen, "the val frames of 'cameras/1' hold no object"),
        (unlike, "up to 9 boxes, that of 'others/0' 10"),
        (lambda: Cohort({"a": Fleet(camera, 1), "b": Fleet(Eye, 1)}, 1), "share no cohort"),
        (lambda: run(SharedLogits()), "DetectionStudent cannot learn SharedLogits"),
        (lambda: run(boxes(), make=lambda n: camera(n, maps=True)), "'cameras/0' learns maps"),
        (lambda: run(DenseDetections()), "'cameras/0' says no maps"),
        (
            lambda: run(None, aggregation=FedDF(), topology=Star(), init="shared"),
            "gives Detections: choose FedAvg",
        ),
    ],
)
def test_what_has_no_meaning(attempt, message):
    with pytest.raises(ConfigError, match=message) as error:
        attempt()
    assert "\n" not in str(error.value)


def test_averages_weigh_frames_and_not_boxes() -> None:
    """A camera that sees few cars has as much to say about weights as one that sees many."""
    data = Frames(batch_size=4, peers={"cameras/0": "image", "cameras/1": "image"})
    boxes = [int(data.label_counts(peer).sum()) for peer in data.peers]
    assert boxes[0] != boxes[1]
    assert [data.samples_of(peer) for peer in data.peers] == [12, 12]


def test_diagnostics_of_detectors_are_refused() -> None:
    cohort = Cohort({"cameras": Fleet(camera, 2)}, 1, vectorize="never")
    with pytest.raises(ConfigError, match="the students give Detections"):
        trainer(DecentralizedCallback(), Diagnostics()).fit(cohort, datamodule=Frames(batch_size=4))
