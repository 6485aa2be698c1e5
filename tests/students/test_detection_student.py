"""Students that detect objects: what they predict, what they learn from, and where their weights come from."""

from __future__ import annotations

import copy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.groups.base import objective
from mmkd.functional.detection.boxes import EMPTY, KNOWN, UNLABELLED
from mmkd.functional.random import keyed
from mmkd.students import DetectionStudent
from mmkd.students.detectors.base import BoxTargets, Detections
from mmkd.students.detectors.targets import labelled, mirrored
from mmkd.types import Batch, Batches, ConfigError, Target
from tests.frames import HEIGHT, WIDTH, Frames, scene
from tests.tiny import sgd, trainer

SMALL: dict[str, Any] = {
    "backbone": "test_resnet",
    "channels": 16,
    "convs": 1,
    "strides": [4, 8, 16],
    "detections": 6,
    "least": 0.0,
}


def make(**more: Any) -> DetectionStudent:
    with keyed(0):
        return DetectionStudent(1, **{"settings": SMALL, **more})


def batch(count: int = 3, told: dict[str, Any] | None = None, seed: int = 3) -> Batch:
    x, y = scene(seed, count)
    return Batch(x, y, torch.arange(count), 0, **(told or {}))


def boxes_told(count: int = 3, weight: float = 1.0, seed: int = 8) -> Tensor:
    """What others say of ``count`` samples: boxes of other frames, each of that weight."""
    y = scene(seed, count)[1]
    weights = weight * (y[..., 4:] >= 0)
    assert weights.flatten(1).any(1).all()
    return torch.cat([y[..., :4], weights, y[..., 4:]], -1).flatten(1)


def taught(keep: float, values: Tensor, weight: Tensor | None = None) -> dict[str, Any]:
    """What a batch holds beside its labels, which count ``keep`` times."""
    target = Target(values, torch.ones(len(values)) if weight is None else weight)
    return {"target": target, "keep": torch.tensor(keep)}


def gradients(student: DetectionStudent, one: Batch) -> list[Tensor]:
    found = torch.autograd.grad(
        objective(student, one), list(student.parameters()), allow_unused=True, materialize_grads=True
    )
    assert all(g.isfinite().all() for g in found)
    return list(found)


# --- predictions -------------------------------------------------------------------------------------


def test_predictions_are_corners_score_and_class() -> None:
    student, x = make().eval(), batch().x / 255
    boxes, maps = student.predict(x)
    assert boxes.shape == (3, 6, 6)
    assert maps.shape == (3, 1, 0)
    found = student.detector.detections(student.detector.outputs(x))
    assert torch.equal(boxes[..., :4], found.boxes)
    assert torch.equal(boxes[..., 4], found.scores)
    assert torch.equal(boxes[..., 5].long(), found.labels)


def test_maps_are_log_odds_and_corners_of_each_place() -> None:
    student, x = make(maps=True).eval(), batch().x / 255
    embedding = student.predict(x).maps
    maps = student.detector.maps(student.detector.outputs(x))
    places = sum(HEIGHT // s * (WIDTH // s) for s in (4, 8, 16))
    assert embedding.shape == (3, places, 1 + 4)
    assert torch.equal(embedding[..., :1], maps.logits)
    assert torch.equal(embedding[..., 1:], maps.boxes)


@pytest.mark.parametrize("maps", [False, True])
def test_many_frames_are_read_in_pieces_and_answered_as_a_whole(
    maps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, x = make(maps=maps).eval(), batch(35).x
    sizes, outputs = [], student.detector.outputs
    monkeypatch.setattr(student.detector, "outputs", lambda x: (sizes.append(len(x)), outputs(x))[1])
    whole = student.predict(x)
    with torch.no_grad():
        pieces = student.predict(x)
    assert sizes == [35, 16, 16, 3]
    for one, other in zip(pieces, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_detections_at_several_scales_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """One object at both sizes, and one at twice the size only, of which it is half as sure."""
    student, x = make(scales=[1.0, 2.0]).eval(), batch(1).x
    empty = [0.0, 0, 0, 0, 0, EMPTY]
    said = {
        WIDTH: [[2.0, 4, 12, 14, 0.75, 0], empty],
        2 * WIDTH: [[4.0, 8, 24, 28, 0.25, 0], [40.0, 0, 60, 20, 0.5, 0]],
    }

    def detections(x: Tensor) -> Detections:
        assert x.shape == (1, 3, HEIGHT * x.shape[-1] // WIDTH, x.shape[-1])
        rows = torch.tensor([said[x.shape[-1]]])
        return Detections(rows[..., :4], rows[..., 4], rows[..., 5].long())

    monkeypatch.setattr(student.detector, "outputs", lambda x: x)
    monkeypatch.setattr(student.detector, "detections", detections)
    expected = [[[2.0, 4, 12, 14, 0.5, 0], [20.0, 0, 30, 10, 0.25, 0]]]
    assert student.predict(x).boxes.tolist() == expected


def test_at_half_the_size_it_reads_the_frame_shrunk() -> None:
    """Its detections are in pixels of the frame nevertheless."""
    x = batch().x
    shrunk = F.interpolate(x / 255, (HEIGHT // 2, WIDTH // 2), mode="bilinear", antialias=True)
    said = make(scales=[0.5]).eval().predict(x).boxes
    expected = make().eval().predict(shrunk).boxes
    torch.testing.assert_close(said[..., :4], 2 * expected[..., :4], rtol=1e-5, atol=1e-4)
    assert torch.equal(said[..., 4:], expected[..., 4:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scales": []}, "give some, such as"),
        ({"scales": [1.0, 0.0]}, "scales must be above 0, not 0.0"),
        ({"scales": [1.0, 2.0], "maps": True}, "leave scales out"),
    ],
)
def test_scales_that_cannot_be(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(**arguments)


def test_bytes_are_shares_of_255() -> None:
    student, one = make().eval(), batch()
    floats = one._replace(x=one.x / 255)
    assert torch.equal(student.predict(one.x).boxes, student.predict(floats.x).boxes)
    assert torch.equal(objective(student, one), objective(student, floats))


# --- frames that change ------------------------------------------------------------------------------


def test_objects_without_a_label_count_for_nothing() -> None:
    boxes = torch.arange(16.0).view(1, 4, 4)
    y = torch.cat([boxes, torch.tensor([1.0, UNLABELLED, EMPTY, KNOWN]).view(1, 4, 1)], -1)
    targets = labelled(y)
    assert torch.equal(targets.boxes, boxes)
    assert targets.labels.tolist() == [[1, 0, EMPTY, KNOWN]]
    assert targets.weight.tolist() == [[1, 0, 1, 1]]


def test_mirrored_boxes() -> None:
    rows = torch.tensor([[[10.0, 2, 20, 8, 1]]])
    assert mirrored(rows, 64).tolist() == [[[44, 2, 54, 8, 1]]]
    y = batch(9).y
    assert torch.equal(mirrored(mirrored(y, WIDTH), WIDTH), y)


@pytest.mark.parametrize("told", [False, True])
def test_mirrored_frames_are_learnt_with_mirrored_boxes(told: bool) -> None:
    plain, student, one = make(), make(flip=True), batch(2)
    if told:
        one = one._replace(**taught(0.0, boxes_told(2)))

    def turn(turned: tuple[bool, ...]) -> Batch:
        """Some frames mirrored by hand."""
        which = torch.tensor(turned)[:, None, None]
        x = torch.where(which[..., None], one.x.flip(-1), one.x)
        y = torch.where(which, mirrored(one.y, WIDTH), one.y)
        if not told:
            return one._replace(x=x, y=y)
        values = one.target.values.unflatten(-1, (-1, 6))
        values = torch.where(which, mirrored(values, WIDTH), values).flatten(1)
        return one._replace(x=x, target=one.target._replace(values=values))

    either = [objective(plain, turn(turned)).item() for turned in product((False, True), repeat=2)]
    assert len({round(loss, 4) for loss in either}) == 4
    seen = set()
    for stream in range(5):
        with keyed(stream):
            loss = objective(student, one).item()
        seen.add(min(range(4), key=lambda i: abs(either[i] - loss)))
        assert min(abs(e - loss) for e in either) < 1e-5
    assert seen == {0, 1, 2, 3}
    plain.load_state_dict(student.state_dict())
    plain, student = plain.eval(), student.eval()
    for stream in range(2):
        with keyed(stream):
            assert objective(student, one) == objective(plain, one), "only while it trains"


def test_light_changes_within_bounds_frame_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of one grey stays of one grey, for contrast is about its mean."""
    student, seen = make(jitter=0.2), []
    outputs = student.detector.outputs
    monkeypatch.setattr(student.detector, "outputs", lambda x: (seen.append(x), outputs(x))[1])
    grey = torch.full((9, 3, HEIGHT, WIDTH), 0.5)
    with keyed(0):
        objective(student, batch(9)._replace(x=grey))
    light = seen[0].flatten(1)
    torch.testing.assert_close(light, light[:, :1].expand_as(light))
    assert light.min() >= 0.4
    assert light.max() <= 0.6
    assert len(set(light[:, 0].tolist())) == 9
    objective(student.eval(), batch(9)._replace(x=grey))
    assert torch.equal(seen[1], grey)


def test_the_stream_decides_how_frames_change() -> None:
    student, losses = make(jitter=0.3, flip=True), []
    for stream in (1, 1, 2):
        with keyed(stream):
            losses.append(objective(student, batch()).item())
    assert losses[0] == losses[1] != losses[2]


def test_maps_of_mirrored_frames_are_refused() -> None:
    student = make(maps=True, flip=True)
    values = torch.zeros(3, (HEIGHT // 4) * (WIDTH // 4) * 5)
    with pytest.raises(ConfigError, match="set flip to false"):
        objective(student, batch(told=taught(0.5, values)))


# --- being told --------------------------------------------------------------------------------------


def test_what_it_is_told_is_learnt_as_labels_are() -> None:
    student, values = make().eval(), boxes_told()
    labels = objective(student, batch())
    assert torch.equal(objective(student, batch(told=taught(1.0, values))), labels)
    told = values.unflatten(-1, (-1, 6))
    theirs = objective(student, batch()._replace(y=told[..., [0, 1, 2, 3, 5]]))
    alone = batch(told=taught(0.0, values))
    assert torch.equal(objective(student, alone), theirs)
    assert torch.equal(objective(student, alone._replace(y=torch.full_like(alone.y, EMPTY))), theirs)
    assert labels != theirs
    between = objective(student, batch(told=taught(0.3, values)))
    torch.testing.assert_close(between, 0.3 * labels + 0.7 * theirs)


def test_told_boxes_count_by_their_weight_and_their_samples() -> None:
    student, one = make().eval(), batch()
    losses = [
        objective(student, one._replace(**taught(0.0, boxes_told(weight=w), torch.full((3,), v))))
        for w, v in ((0.5, 1.0), (1.0, 0.5), (1.0, 1.0))
    ]
    assert torch.equal(losses[0], losses[1])
    assert losses[0] != losses[2]
    boxes = boxes_told().unflatten(-1, (-1, 6))
    half = BoxTargets(boxes[..., :4], boxes[..., 5].long(), torch.full((3, boxes.shape[1]), 0.5))
    assert torch.equal(losses[0], student.detector.loss(student.detector.outputs(one.x / 255), half))


def test_nothing_is_learnt_of_samples_about_which_nobody_speaks() -> None:
    student, values = make(), boxes_told()
    silent = taught(0.0, values, torch.zeros(3))
    assert not any(g.any() for g in gradients(student, batch(told=silent)))
    # In evaluation mode frames have nothing to do with each other: one may show anything.
    student.eval()
    partly = batch(told=taught(0.0, values, torch.tensor([1.0, 0.0, 1.0])))
    other = partly.x.clone()
    other[1] = torch.randint(0, 255, other[1].shape, generator=torch.Generator().manual_seed(0))
    first = gradients(student, partly)
    assert any(g.any() for g in first)
    for g, same in zip(first, gradients(student, partly._replace(x=other)), strict=True):
        torch.testing.assert_close(g, same, rtol=1e-4, atol=1e-6)


def test_maps_are_learnt_where_somebody_speaks() -> None:
    student, teacher, one = make(maps=True).eval(), make(maps=True).eval(), batch()
    with torch.no_grad():
        own = student.predict(one.x).maps.flatten(1)
        for p in teacher.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        values = teacher.predict(one.x).maps.flatten(1)
    agreed = objective(student, one._replace(**taught(0.0, own)))
    torch.testing.assert_close(agreed, torch.zeros(()), rtol=0, atol=1e-5)
    assert objective(student, one._replace(**taught(0.0, values))) > 0.01
    silent = one._replace(**taught(0.0, values, torch.zeros(3)))
    assert not any(g.any() for g in gradients(student, silent))


# --- weights -----------------------------------------------------------------------------------------


def same(a: DetectionStudent, b: DetectionStudent) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def cohort(vectorize: Any, **kwargs: Any) -> Cohort:
    def build(n: int) -> DetectionStudent:
        return DetectionStudent(n, settings=SMALL, optimizer=sgd(0.01), **kwargs)

    return Cohort({"cameras": Fleet(build, 2)}, 1, init="own", vectorize=vectorize)


def test_a_saved_student_loads_as_itself(tmp_path: Path) -> None:
    peers = cohort("always")
    peers.save_student("cameras/1", tmp_path / "camera.ckpt")
    loaded = DetectionStudent.load_from_checkpoint(tmp_path / "camera.ckpt")
    student = peers.student("cameras/1")
    assert same(loaded, student)
    assert not same(loaded, peers.student("cameras/0"))
    x = batch().x
    assert torch.equal(loaded.eval().predict(x).boxes, student.eval().predict(x).boxes)


@pytest.mark.parametrize("part", ["checkpoint", "student", "detector", "model"])
def test_weights_begin_where_a_file_ends(part: str, tmp_path: Path) -> None:
    peers, path = cohort("never"), tmp_path / "weights.pt"
    other = peers.student("cameras/0")
    if part == "checkpoint":
        peers.save_student("cameras/0", path)
    else:
        modules = {"student": other, "detector": other.detector, "model": other.detector.model}
        torch.save(modules[part].state_dict(), path)
    assert not same(make(), other)
    assert same(make(weights=str(path)), other)


def test_what_began_with_a_file_loads_without_it(tmp_path: Path) -> None:
    path, later = tmp_path / "weights.pt", tmp_path / "later.ckpt"
    torch.save(make().detector.state_dict(), path)
    peers = cohort("never", weights=str(path))
    peers.save_student("cameras/0", later)
    path.unlink()
    assert same(DetectionStudent.load_from_checkpoint(later), peers.student("cameras/0"))


def test_weights_that_are_not_there_or_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(ConfigError, match=r"no file .*; train such a student first") as missing:
        make(weights=str(path))
    torch.save(make(settings=SMALL | {"strides": [4, 8]}).detector.state_dict(), path)
    with pytest.raises(ConfigError, match=r"are of another network: .*Missing key") as other:
        make(weights=str(path))
    assert "\n" not in str(missing.value) + str(other.value)


# --- one that answers and never trains ---------------------------------------------------------------

ORACLE = {"name": "ssdlite320_mobilenet_v3_large", "detections": 20}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """torchvision's own network and a file with its weights."""
    with keyed(0):
        model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
        # Statistics of what it sees, without which all of a random network's layers fade away.
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model.head(list(model.backbone(torch.rand(2, 3, 320, 320)).values()))
        for p in model.head.classification_head.parameters():
            p.data.normal_(0, 0.1)
    model.eval()
    path = tmp_path_factory.mktemp("oracle") / "weights.pth"
    torch.save(model.state_dict(), path)
    return model, str(path)


def test_a_pretrained_detector_says_what_is_of_the_cohorts_classes(oracle: tuple[Any, str]) -> None:
    model, path = oracle
    student = DetectionStudent(
        1, detector="torchvision", settings=ORACLE, weights=path, classes={1: 0}, general=3
    )
    x = batch(2).x
    said = student.predict(x).boxes
    assert said.shape == (2, 20, 6)
    with torch.no_grad():
        theirs = model(list(x / 255))
    for rows, frame in zip(said, theirs, strict=True):
        boxes, scores, mine = frame["boxes"][:20], frame["scores"][:20], frame["labels"][:20] == 1
        count = int(mine.sum())
        assert 0 < count < 20, "both classes are among the surest"
        expected = torch.cat([boxes[mine], scores[mine, None], torch.zeros(count, 1)], 1)
        torch.testing.assert_close(rows[:count], expected)
        assert rows[count:].tolist() == [[0, 0, 0, 0, 0, EMPTY]] * (20 - count)


def test_a_pretrained_detector_does_not_train(oracle: tuple[Any, str]) -> None:
    mapped = {"detector": "torchvision", "settings": ORACLE, "classes": {1: 0}, "general": 3}
    with pytest.raises(ConfigError, match="with classes of its own answers and does not train"):
        objective(DetectionStudent(1, **mapped), batch(2))
    plain = DetectionStudent(3, detector="torchvision", settings=ORACLE)
    with pytest.raises(ConfigError, match="detector 'torchvision' answers and does not train"):
        objective(plain, batch(2))
    plain.teaches_maps = True
    with pytest.raises(ConfigError, match="has no maps; let it teach boxes"):
        plain.predict(batch(2).x)


@pytest.mark.parametrize("half", [{"classes": {1: 0}}, {"general": 3}])
def test_classes_and_their_number_go_together(half: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="give both or neither"):
        make(**half)


# --- in a cohort and alone ---------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["nothing", "boxes", "maps"])
def test_vectorised_equals_one_after_the_other(told: str) -> None:
    """Losses, gradients, running statistics and then predictions, in float64."""
    ones = [batch(3, seed=seed) for seed in (1, 2)]
    x, y = torch.stack([one.x for one in ones]).double() / 255, torch.stack([one.y for one in ones]).double()
    found = []
    for vectorize in ("never", "always"):
        peers = cohort(vectorize, maps=told == "maps").double()
        (group,) = peers.groups
        with torch.no_grad():
            maps = group.predict([0, 1], x[0]).maps.flatten(2).flip(0)  # what the other says
        values = {
            "nothing": None,
            "boxes": torch.stack([boxes_told(weight=w) for w in (0.4, 0.9)]).double(),
            "maps": maps,
        }[told]
        weight = torch.tensor([[1.0, 0.0, 0.5], [0.2, 1.0, 1.0]]).double()
        target = None if values is None else Target(values, weight)
        keep = None if values is None else torch.tensor([0.4, 0.4]).double()
        batches = Batches(
            ["cameras/0", "cameras/1"], x, y, torch.zeros(2, 3, dtype=torch.long), [0, 1], target, keep
        )
        losses = group.differentiate(batches, None, lambda loss: loss.backward())
        gradients = group.gradients([0, 1])
        states = [dict(group.tensors(row)) for row in (0, 1)]
        peers.eval()
        with torch.no_grad():
            said = group.predict([0, 1], x[0])
        found.append((losses, gradients, states, tuple(said)))
    assert found[0][0][0] != found[0][0][1]
    assert any(g.any() for g in found[0][1].values())
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_alone_it_trains_as_in_a_cohort() -> None:
    peers = cohort("never", flip=True, jitter=0.2)
    alone = copy.deepcopy(peers.student("cameras/1"))
    start = copy.deepcopy(alone)
    run = trainer(max_epochs=1)
    run.fit(peers, datamodule=Frames(batch_size=4))
    data = Frames(batch_size=4, peers=peers.roster[0])
    data.setup("fit")
    lone = trainer(max_epochs=-1, max_steps=run.global_step)
    lone.fit(alone, datamodule=data.only("cameras/1"))
    assert same(alone, peers.student("cameras/1"))
    assert not same(alone, start)
    assert lone.callback_metrics["val/loss"].isfinite()
    (tested,) = lone.test(alone, datamodule=data.only("cameras/1"), verbose=False)
    assert tested["test/loss"] > 0


def test_frames_without_slots_are_empty_frames() -> None:
    student, x = make().eval(), scene(3, 2)[0]
    empty = torch.tensor([[[0.0, 0, 0, 0, EMPTY]]]).expand(2, 1, 5)
    one, two = (student.private_loss(Batch(x, y, torch.arange(2), 0)) for y in (empty[:, :0], empty))
    assert torch.equal(one, two)
