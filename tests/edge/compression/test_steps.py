"""Steps of compression: what is left is counted by hand, and says what the whole student says without the rest."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmkd.edge.compression.base import Healing, Step, layers, parameters
from mmkd.edge.compression.factored import LowRank, factored
from mmkd.edge.compression.gradual import stages
from mmkd.edge.compression.recipe import Recipe
from mmkd.edge.compression.saved import rebuilt
from mmkd.edge.compression.sparse import Sparse, zeros_stay
from mmkd.students import VisionStudent
from mmkd.students.base import Student
from mmkd.types import ConfigError
from tests.students.kinds import CLASSES, KINDS
from tests.tiny import Eye

torch_pruning = pytest.importorskip("torch_pruning")
from mmkd.edge.compression.pruned import Pruned  # noqa: E402

WHOLE = 8 * 16 + 16 + 2 * 16 + 16 * 3 + 3
"""Numbers of an ``Eye``: a layer, its normalisation, a head."""


class Watched(Healing):
    """Learns nothing, and notes what the student is when it would."""

    def __init__(self, student: Student, example: Any) -> None:
        self.student, self.example, self.kept = student.eval(), example, []
        self.seen: list[tuple[int, int]] = []

    def learn(self, steps: int) -> None:
        self.seen.append((parameters(self.student), steps))


def eye() -> tuple[Eye, Tensor]:
    torch.manual_seed(0)
    student = Eye(3, drop=0.0).eval()
    student.net[1].running_mean.normal_()
    return student, torch.randn(2, 8)


def taken(step: Step, student: Student, example: Any, steps: int = 0) -> Watched:
    healing = Watched(student, example)
    step(healing, steps)
    return healing


def test_the_schedule_by_hand() -> None:
    """1 - 0.8^3 = 0.488 of the share goes first; half of the steps, and what is left over, come last."""
    found = stages(0.5, 83)
    assert [share for share, _ in found] == pytest.approx([0.244, 0.392, 0.468, 0.496, 0.5])
    assert [steps for _, steps in found] == [10, 10, 10, 10, 43]
    assert stages(0.5, 0) == [(0.5, 0)]


def test_channels_go_and_what_is_left_says_what_the_whole_says_without_them() -> None:
    """With k channels there are 14 k + 3 numbers: at most 68.1 of 227 for k = 4; fewer for each stage."""
    student, example = eye()
    with torch.no_grad():
        student.net[0].weight[3] = 1e-4  # a channel that matters to nobody
        student.main.weight[:, 3] = 1e-4
    whole = copy.deepcopy(student)
    assert parameters(student) == WHOLE == 227
    healing = taken(Pruned(0.7), student, example, 80)
    counts = [14 * int(((1 - share) * WHOLE - 3) // 14) + 3 for share, _ in stages(0.7, 80)]
    assert healing.seen == [(count, steps) for count, steps in zip(counts, [10] * 4 + [40], strict=True)]
    assert parameters(student) == 14 * 4 + 3
    rows = [
        next(i for i in range(16) if torch.equal(row, whole.net[0].weight[i]))
        for row in student.net[0].weight
    ]
    assert len(set(rows)) == 4
    assert 3 not in rows
    gone = torch.ones(16, dtype=torch.bool)
    gone[rows] = False
    with torch.no_grad():
        whole.main.weight[:, gone] = 0
    x = torch.randn(5, 8)
    torch.testing.assert_close(student(x), whole(x))


@pytest.mark.parametrize("kind", ["small_cnn group", "audio cnn", "motion cnn"])
def test_no_group_of_a_normalisation_is_left_with_one_channel(kind: str) -> None:
    """One channel, normalised by itself, says nothing of its size: a trained camera fell from 98 to 20 % by it."""
    torch.manual_seed(0)
    student = KINDS[kind].build(width=24).eval()  # eight groups of three, or four of nine
    x = KINDS[kind].draw(2, torch.Generator().manual_seed(0))
    norms = [module for module in student.modules() if isinstance(module, nn.GroupNorm)]
    assert all(norm.num_channels >= 3 * norm.num_groups for norm in norms)
    with pytest.raises(ConfigError, match="cannot be reached"):
        taken(Pruned(0.99), student, x)
    assert norms
    assert all(norm.num_channels == 2 * norm.num_groups for norm in norms)


def test_a_share_that_cannot_go_is_a_line() -> None:
    student, example = eye()
    with pytest.raises(ConfigError, match=r"prune:0\.99 cannot be reached: of Eye there are still"):
        taken(Pruned(0.99), student, example)
    with pytest.raises(ConfigError, match=r"lowrank:0\.9 cannot be reached: of Eye .* 123 of 227 parameters"):
        taken(LowRank(0.9), eye()[0], example)
    frozen = VisionStudent(CLASSES, width=8, trained="head")
    with pytest.raises(ConfigError, match="a part is frozen cannot be pruned"):
        taken(Pruned(0.5), frozen, torch.randn(2, 1, 8, 8))


def test_zeros_are_counted_where_all_are_alike_and_stay_while_it_learns() -> None:
    """0.7 of 128 + 48 weights are 123.2."""
    student, example = eye()
    with torch.no_grad():
        for _, layer in layers(student, heads=True):
            layer.weight.copy_(layer.weight.sign())
    healing = taken(Sparse(0.7), student, example, 80)
    weights = torch.cat([layer.weight.detach().flatten() for _, layer in layers(student, heads=True)])
    assert (int((weights == 0).sum()), len(weights)) == (123, 176)
    assert [steps for _, steps in healing.seen] == [10] * 4 + [40]
    assert healing.kept == [zeros_stay]
    before, optimizer = copy.deepcopy(student), torch.optim.Adam(student.parameters(), weight_decay=0.1)
    with zeros_stay(student):
        for _ in range(3):
            optimizer.zero_grad()
            student(torch.randn(6, 8)).square().sum().backward()
            optimizer.step()
    for (_, layer), (_, was) in zip(layers(student, heads=True), layers(before, heads=True), strict=True):
        assert torch.equal(layer.weight == 0, was.weight == 0)
        assert bool((layer.weight != was.weight)[was.weight != 0].all())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (6,)),
        (nn.Conv1d(4, 6, 5, stride=2, padding=2, bias=False), (4, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2), (4, 9, 8)),
    ],
)
def test_layers_of_full_rank_say_the_same(layer: Any, shape: tuple[int, ...]) -> None:
    full = min(layer.weight.flatten(1).shape)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(factored(layer, full)(x), layer(x), rtol=1e-5, atol=1e-5)
    assert float((factored(layer, 1)(x) - layer(x)).detach().abs().max()) > 1e-2


def test_ranks_are_those_that_leave_few_enough() -> None:
    """128 weights become 24 a rank: rank 2 is the greatest that leaves at most 0.7 of 227. The head stays."""
    student, example = eye()
    whole = copy.deepcopy(student)
    taken(LowRank(0.3), student, example)
    assert parameters(student) == WHOLE - 128 + 48
    assert type(student.main) is nn.Linear
    assert torch.equal(student.net[0][1].bias, whole.net[0].bias)
    same = copy.deepcopy(whole)
    taken(LowRank(0.0), same, example)  # no rank is smaller than nothing at all
    assert parameters(same) == WHOLE


SLOW = pytest.param("mobilenetv3", marks=pytest.mark.long)  # channels by themselves, and many layers


@pytest.mark.parametrize("kind", ["small_cnn group", SLOW, "audio cnn", "text cnn", "fusion"])
@pytest.mark.parametrize("words", [["prune:0.3"], ["lowrank:0.3"]])
def test_a_student_is_made_again_from_its_tensors(kind: str, words: list[str]) -> None:
    """Bit for bit, one sample at a time, too, from what the configuration makes."""
    torch.manual_seed(0)
    more = {"width": 16} if kind.endswith("cnn group") or kind == "audio cnn" else {}  # groups of two or more
    student, again = (KINDS[kind].build(**more).eval() for _ in range(2))
    x = KINDS[kind].draw(2, torch.Generator().manual_seed(0))
    if kind == "audio cnn":  # or there is one moment left, of which a group of one channel has no variance
        x = torch.cat([x, x, x], 1)
    whole = parameters(student)
    for step in Recipe(words).steps:
        taken(step, student, x)
    assert parameters(student) <= (1 - float(words[0].partition(":")[2])) * whole
    tensors = {name: t.clone() for name, t in student.state_dict().items()}
    rebuilt(again, tensors, "here")
    assert parameters(again) == parameters(student)
    one = {name: view[:1] for name, view in x.items()} if isinstance(x, dict) else x[:1]
    with torch.no_grad():
        for some in (x, one):
            assert torch.equal(again(some), student(some))
    assert str(again) == str(student)  # sizes that layers tell, too


def test_tensors_of_another_student_are_a_line() -> None:
    student, _ = eye()
    with pytest.raises(ConfigError, match=r"the tensors in here are of another student: .*Missing key"):
        rebuilt(student, KINDS["text cnn"].build().state_dict(), "here")
