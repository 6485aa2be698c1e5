"""Detections said and heard: what listeners are to find, derived by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.functional.detection.boxes import EMPTY
from mmkd.knowledge import DenseDetections, EightBits, SharedDetections
from mmkd.knowledge.base import Heard
from mmkd.types import ConfigError, Detections

SLOTS = 4
NOTHING = [0.0, 0.0, 0.0, 0.0, 0.0, EMPTY]
LEFT, RIGHT = [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]


def frame(*rows: list[float]) -> Tensor:
    """What one speaker says of one frame: corners, score and class of each slot."""
    return torch.tensor([*rows, *[NOTHING] * (SLOTS - len(rows))])


def heard_by(
    knowledge: Any, said: Tensor, spoke: Tensor | None = None, hears: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Targets ``[listeners, samples, places, width]`` and weights; if not told, one listener hears all.

    Args:
        knowledge: at work.
        said: ``[speakers, samples, places, width]``.
        spoke: ``[speakers, samples]``.
        hears: of each speaker, who is a listener then, too.
    """
    spoke = torch.ones(said.shape[:2], dtype=torch.bool) if spoke is None else spoke
    own = torch.eye(len(said), dtype=torch.bool)
    if hears is None:
        hears, own = torch.ones(1, len(said), dtype=torch.bool), torch.zeros(1, len(said), dtype=torch.bool)
    ((values, weight, _),) = knowledge.listen(
        {knowledge.kind_of: Heard(said.flatten(2), spoke)}, hears, own
    ).values()
    return values.unflatten(-1, said.shape[2:]), weight


class Boxes(SharedDetections):
    kind_of = "boxes"


class Maps(DenseDetections):
    kind_of = "maps"


def test_what_is_below_doubt_is_not_said():
    rows = frame([*LEFT, 0.5, 1.0], [*RIGHT, 0.25, 0.0], [*LEFT, 0.2499, 0.0])
    said = rows.expand(2, 3, SLOTS, 6)
    spoken = Boxes(doubt=0.25).speak(Detections(said, torch.empty(2, 3, 3, 0)))["boxes"].values
    assert torch.equal(spoken, frame(*rows[:2].tolist()).flatten().expand(2, 3, -1))


def test_one_speaker_is_taken_at_its_word():
    """Weights are scores; one in doubt keeps its class and has weight 0; below doubt there is nothing."""
    down = [0.0, 20.0, 10.0, 30.0]
    said = frame(
        [*LEFT, 0.75, 1.0], [*RIGHT, 0.5, 0.0], [*down, 0.25, 1.0], [50.0, 50.0, 60.0, 60.0, 0.125, 0.0]
    )
    values, weight = heard_by(Boxes(threshold=0.5, doubt=0.25), said[None, None])
    assert values[0, 0, :3].tolist() == [[*LEFT, 0.75, 1], [*RIGHT, 0.5, 0], [*down, 0, 1]]
    assert values[0, 0, 3, 4:].tolist() == [0, EMPTY]
    assert weight.tolist() == [[1]]


def test_two_speakers_agree_on_the_mean_by_score():
    """Scores 0.75 and 0.25: right sides at 10 and 9 make one at 9.75, of score 1/2; alone, half of 0.75."""
    one = frame([*LEFT, 0.75, 0.0], [*RIGHT, 0.75, 0.0])
    two = frame([0.0, 0.0, 9.0, 10.0, 0.25, 0.0])
    values, weight = heard_by(Boxes(threshold=0.375, doubt=0.1), torch.stack([one, two])[:, None])
    assert values[0, 0].tolist() == [[0, 0, 9.75, 10, 0.5, 0], [*RIGHT, 0.375, 0], NOTHING, NOTHING]
    assert weight.tolist() == [[1]]


@pytest.mark.parametrize("include_self", [True, False])
def test_what_a_listener_says_itself(include_self):
    """Speaker 0 sees nothing: beside its own word that of speaker 1 has half its score."""
    said = torch.stack([frame(), frame([*LEFT, 0.5, 0.0])])[:, None]
    knowledge = Boxes(include_self=include_self, threshold=0.25)
    values, weight = heard_by(knowledge, said, hears=~torch.eye(2, dtype=torch.bool))
    assert values[0, 0, 0].tolist() == [*LEFT, 0.25 if include_self else 0.5, 0]
    assert values[1, 0, 0].tolist() == ([*LEFT, 0.25, 0] if include_self else NOTHING)
    assert weight.tolist() == [[1], [1]]
    assert knowledge.personal != include_self


def test_who_is_silent_is_no_speaker():
    said = torch.stack([frame([*LEFT, 0.5, 0.0]), frame([*LEFT, 0.875, 1.0])])[:, None].expand(2, 2, SLOTS, 6)
    values, weight = heard_by(Boxes(), said, spoke=torch.tensor([[True, True], [False, True]]))
    assert values[0, 0].tolist() == [[*LEFT, 0.5, 0], NOTHING, NOTHING, NOTHING]
    assert values[0, 1, 0].tolist() == [*LEFT, 0.4375, 1]
    assert weight.tolist() == [[1, 1]]


def test_where_nobody_is_heard_nothing_is_known():
    said = frame([*LEFT, 0.5, 0.0]).expand(1, 2, SLOTS, 6)
    _, weight = heard_by(Boxes(), said, spoke=torch.tensor([[False, True]]))
    assert weight.tolist() == [[0, 1]]
    _, weight = heard_by(Boxes(include_self=False), said, hears=torch.tensor([[False]]))
    assert weight.tolist() == [[0, 0]]


def test_who_detects_nothing_teaches_background():
    values, weight = heard_by(Boxes(), frame()[None, None])
    assert values[0, 0].tolist() == [NOTHING] * SLOTS
    assert weight.tolist() == [[1]]


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_who_says_what_is_not_finite_says_nothing(place, broken):
    """And no background either, said and heard."""
    row = [*LEFT, 0.5, 0.0]
    row[place] = broken
    said = torch.stack([frame(row), frame([*RIGHT, 0.5, 0.0])])[:, None]
    spoken = Boxes().speak(Detections(said, torch.empty(2, 1, 3, 0)))["boxes"].values.view(said.shape)
    values, weight = heard_by(Boxes(include_self=False), spoken, hears=~torch.eye(2, dtype=torch.bool))
    assert weight.tolist() == [[1], [0]]
    assert values[0, 0, 0].tolist() == [*RIGHT, 0.5, 0]


def test_the_mean_of_maps_by_hand():
    """Place 0: p = 0.8 and 0.4 of class 0; place 1: each speaker is surest of another class."""
    p = torch.tensor([[[0.8, 0.1], [0.2, 0.6]], [[0.4, 0.2], [0.3, 0.1]]])
    boxes = torch.tensor([LEFT, RIGHT]).repeat(2, 1, 1) + torch.tensor([0.0, 3.0]).view(2, 1, 1)
    knowledge = Maps()
    said = torch.cat([p.logit(), boxes], -1)[:, None]
    knowledge.check({"camera": maps(2, 2)})
    values, weight = heard_by(knowledge, said)
    mean = torch.tensor([[0.6, 0.15], [0.25, 0.35]])
    moved = torch.tensor([0.4 * 3 / 1.2, 0.3 * 3 / 0.9])  # the second speaker's share, three pixels away
    expected = torch.cat([mean.logit(), torch.tensor([LEFT, RIGHT]) + moved[:, None]], -1)
    torch.testing.assert_close(values[0, 0], expected)
    assert weight.tolist() == [[1]]


def test_maps_of_the_silent_do_not_count():
    said = torch.randn(3, 2, 2, 5, generator=torch.Generator().manual_seed(1))
    values, weight = heard_by(
        Maps(), said, spoke=torch.tensor([[True, False], [False, False], [True, False]])
    )
    alone, _ = heard_by(Maps(), said[[0, 2], :1])
    torch.testing.assert_close(values[0, 0], alone[0, 0])
    assert weight.tolist() == [[1, 0]]
    assert values.isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_speakers_changes_nothing(seed):
    """Coordinates and scores on a coarse grid: many boxes and scores are equal."""
    stream = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 3, (5, 6, SLOTS, 2), generator=stream) * 4.0
    score = torch.randint(0, 5, (5, 6, SLOTS, 1), generator=stream) / 4
    label = torch.randint(-1, 2, (5, 6, SLOTS, 1), generator=stream).float()
    said, order = torch.cat([corner, corner + 10, score, label], -1), torch.randperm(5, generator=stream)
    assert torch.equal(heard_by(Boxes(), said)[0], heard_by(Boxes(), said[order])[0])
    dense = torch.randn(5, 6, 7, 5, generator=stream)
    torch.testing.assert_close(heard_by(Maps(), dense)[0], heard_by(Maps(), dense[order])[0])


def maps(places: int, classes: int) -> Detections:
    """What ``check`` is shown of a detector that says maps."""
    return Detections(torch.empty(1, 1, 9, 6), torch.empty(1, 1, places, classes + 4))


def boxes(slots: int) -> Detections:
    """What it is shown of one that does not."""
    return Detections(torch.empty(1, 1, slots, 6), torch.empty(1, 1, 1, 0))


@pytest.mark.parametrize(
    ("knowledge", "other", "message"),
    [
        (DenseDetections, boxes(9), "'two' says no maps"),
        (DenseDetections, maps(7, 1), "8 places, those of 'two' 7"),
        (SharedDetections, boxes(8), "up to 9 boxes, that of 'two' 8"),
        (SharedDetections, maps(8, 1), "'two' learns maps"),
    ],
)
def test_students_that_cannot_be_taught(knowledge, other, message):
    like = maps(8, 1) if knowledge is DenseDetections else boxes(9)
    knowledge().check({"one": like, "another": like})
    with pytest.raises(ConfigError, match=message) as error:
        knowledge().check({"one": like, "two": other})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speak": "train"}, "knowledge.speak"),
        ({"alpha": 1.0}, "alpha must lie in"),
        ({"alpha": -0.1}, "alpha must lie in"),
        ({"confident": 0.5}, "knowledge.threshold"),
        ({"pretrain": 1}, "knowledge.pretrain"),
        ({"wire": EightBits()}, "knowledge.wire"),
        ({"threshold": 0.1}, "doubt <= threshold"),
        ({"doubt": 0.0}, "doubt must lie in"),
        ({"threshold": 1.5}, "threshold must lie in"),
        ({"overlap": 0.0}, "overlap must lie in"),
        ({"overlap": 1.0}, "overlap must lie in"),
    ],
)
def test_settings_without_meaning(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        SharedDetections(**settings)
    assert "\n" not in str(error.value)
