"""Active rows lie together and hold what they would hold among all the others."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.groups.active_rows import ActiveRows
from mmkd.federated import FedAvg
from mmkd.participation import Sampled
from mmkd.topology import Star
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Eye, fit, schedule, sgd


def make(size: int = 6, folder: Path | None = None) -> tuple[ActiveRows[str], dict[int, torch.Tensor]]:
    stack = torch.nn.Parameter(torch.arange(2.0 * size).view(size, 2))
    return ActiveRows({"w": stack}, size, folder), {row: stack.detach()[row].clone() for row in range(size)}


def check(stack_: ActiveRows[str], expected: dict[int, torch.Tensor]) -> None:
    for row, value in expected.items():
        assert torch.equal(stack_.view("w", row), value)
    rows = list(expected)
    assert torch.equal(stack_.read(rows)["w"], torch.stack([expected[row] for row in rows]))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_any_sequence_of_activations_and_writes_is_as_if_all_were_active(
    seed: int, mapped: bool, tmp_path: Path
) -> None:
    stream = torch.Generator().manual_seed(seed)
    stack_, expected = make(folder=tmp_path if mapped else None)
    identity = stack_.live["w"]
    for _ in range(12):
        rows = torch.randperm(6, generator=stream)[: int(torch.randint(1, 7, (), generator=stream))].tolist()
        if torch.rand((), generator=stream) < 0.5:
            stack_.activate(rows)
        else:
            values = torch.rand(len(rows), 2, generator=stream)
            stack_.write(rows, {"w": values})
            expected |= dict(zip(rows, values, strict=True))
        with torch.no_grad():  # active rows train
            stack_.live["w"].add_(1.0)
        expected |= {row: expected[row] + 1.0 for row in stack_.rows}
        check(stack_, expected)
    assert stack_.live["w"] is identity


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_parked_stack_are_files_that_nobody_sees() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stack_, expected = make(folder=Path(folder))
        stack_.activate([1])
        maps = Path("/proc/self/maps").read_text()
        assert f"{folder}/" in maps  # mapped
        assert not list(Path(folder).iterdir())  # and gone with the process
        stack_.add("m", torch.ones(1, 3))
        stack_.activate([0, 1])
        assert stack_.live["m"].tolist() == [[0.0] * 3, [1.0] * 3]
        assert Path("/proc/self/maps").read_text().count(f"{folder}/") == 2
        check(stack_, expected)


@pytest.mark.parametrize("optimizer", [sgd(0.1, momentum=0.9), lambda p: torch.optim.Adam(p, lr=0.01)])
def test_where_peers_are_parked_changes_nothing(optimizer: Any, tmp_path: Path) -> None:
    def train(park: Path | None) -> Cohort:
        eyes = Fleet(lambda n: Eye(n, optimizer=optimizer), 5)
        cohort = Cohort({"eyes": eyes}, CLASSES, vectorize="always", park=park)
        some = Sampled(count=2)
        keep = FedAvg(optimizer_state="keep")
        fit(cohort, DecentralizedCallback(None, keep, Star(), schedule(), participation=some), max_epochs=1)
        return cohort

    one, other = train(None).state_dict(), train(tmp_path).state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder; make it first"):
        Cohort({"eyes": Fleet(Eye, 3)}, CLASSES, park=tmp_path / "nowhere")


def test_only_those_who_sit_take_room() -> None:
    stack_, _ = make()
    stack_.activate([4, 1])
    assert stack_.live["w"].tolist() == [[8.0, 9.0], [2.0, 3.0]]
    assert stack_.places([1]) == [1]
    assert stack_.places([4, 1]) is None
    assert 4 in stack_
    assert 0 not in stack_
    with pytest.raises(KeyError):
        stack_.places([0])


def test_gradients_reach_those_who_sit_through_a_part_of_them() -> None:
    stack_, _ = make()
    stack_.activate([5, 2, 0])
    stack_.read([2, 5])["w"].sum().backward()
    grad = stack_.live["w"].grad
    assert grad is not None
    assert grad.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]


def test_what_is_added_is_zero_for_the_others() -> None:
    stack_, _ = make()
    stack_.activate([3])
    stack_.add("momentum", torch.ones(1, 2))
    stack_.activate(range(6))
    assert stack_.live["momentum"].tolist() == [[0.0, 0.0]] * 3 + [[1.0, 1.0]] + [[0.0, 0.0]] * 2


@pytest.mark.parametrize("active", [[4, 1], [0, 2], list(range(6))])
def test_what_is_written_takes_the_type_of_what_is_there(active: list[int]) -> None:
    stack_, expected = make()
    stack_.activate(active)
    values = torch.tensor([[0.5, 1.5], [2.5, 3.5]], dtype=torch.float64)
    stack_.write([4, 1], {"w": values})
    check(stack_, expected | {4: values[0].float(), 1: values[1].float()})
