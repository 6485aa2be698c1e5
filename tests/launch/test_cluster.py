"""Shares of a cluster, folders that its machines share, and what is refused before anything is sent to Ray."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mmkd.__main__ import main
from mmkd.launch.cluster import Cluster, Share
from mmkd.launch.shared import Shared
from mmkd.lock import HOLDER, holding
from mmkd.types import ConfigError


@pytest.mark.parametrize(
    ("cores", "gpus", "pieces", "accelerators", "share"),
    [
        ((2,), 0, 2, ["cpu"], Share(1, 0)),
        ((2,), 0, None, ["cpu"], Share(1, 0)),  # as many as there are cores
        ((8,), 0, 2, ["auto"], Share(4, 0)),
        ((2,), 0, 5, ["cpu"], Share(1, 0)),  # some wait
        ((6, 2), 0, 4, ["cpu"], Share(2, 0)),  # 3 and 1
        ((5, 5), 0, 3, ["cpu"], Share(2, 0)),  # of 3 each, two would have room; of 2 each, four
        ((8,), 2, 4, ["cpu"], Share(2, 0)),  # nobody asks for them
        ((8,), 2, 4, ["gpu", "cpu"], Share(2, 1 / 2)),
        ((8,), 2, 3, ["cuda"], Share(2, 1 / 2)),  # two on one GPU, and one on the other
        ((8,), 2, 1, ["gpu"], Share(8, 1)),  # a student is on one GPU
        ((8,), 2, None, ["auto"], Share(4, 1)),  # as many as there are GPUs
    ],
)
def test_pieces_of_work_share_a_cluster(
    cores: tuple[int, ...], gpus: int, pieces: int | None, accelerators: list[str], share: Share
) -> None:
    assert Cluster(True, cores, gpus, pieces).share(accelerators) == share


def test_a_gpu_that_is_nowhere_is_said() -> None:
    with pytest.raises(ConfigError, match="accelerator is gpu, and no machine of the cluster has a GPU"):
        Cluster(False, (4, 4), 0, 2).share(["cpu", "gpu"])


def test_a_machine_works_where_the_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its folder, with its modules behind those of the machine."""
    monkeypatch.chdir(tmp_path)
    with holding(Path("study")):
        shared = Shared.held(Path("study"))
        assert shared.folder == str(tmp_path / "study")
        there = [*sys.path]
        monkeypatch.chdir("/")
        monkeypatch.setattr(sys, "path", [*there])
        shared._replace(path=("modules", *there)).enter()
        assert os.getcwd() == str(tmp_path)
        assert sys.path == [*there, "modules"]


def test_a_machine_that_has_other_files_does_nothing(tmp_path: Path) -> None:
    """There is no such folder, the process that gave the command does not hold it, or modules are elsewhere."""
    with holding(tmp_path / "study"):
        shared = Shared.held(tmp_path / "study")
        for wrong in (
            shared._replace(folder=str(tmp_path / "elsewhere")),
            shared._replace(holder=shared.holder.replace("process", "other")),
            shared._replace(here=str(tmp_path / "elsewhere")),
        ):
            with pytest.raises(ConfigError, match=r"does not see .* that all machines of the cluster share"):
                wrong.enter()
        with pytest.raises(ConfigError, match=r"has mmkd .*, and the machine .* given 0\.0: install one"):
            shared._replace(version="0.0").enter()
    assert not (tmp_path / "study" / HOLDER).exists()
    with pytest.raises(ConfigError, match="does not see"):
        shared.enter()


def one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that is refused."""
    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


STUDY = "configs/study/quickstart.yaml"


@pytest.mark.parametrize(
    "arguments",
    [
        ["tradeoff", STUDY, "--out", "OUT", "--engine", "ray"],
        ["tune", STUDY, "--out", "OUT", "--engine", "ray"],
        ["launch", "-c", "configs/data/digits.yaml"],
    ],
)
def test_without_ray_a_line_names_the_extra(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python has it for a module that is not there
    given = [str(tmp_path / "out") if word == "OUT" else word for word in arguments]
    assert one_line(given, capsys) == "mmkd: a cluster needs Ray: install mmkd[cluster]"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tradeoff", STUDY, "--address", "10.0.0.1:6379"], "add --engine ray"),
        (["tune", STUDY, "--address", "10.0.0.1:6379"], "add --engine ray"),
        (
            ["tradeoff", STUDY, "--engine", "ray", "--jobs", "0"],
            "at least one piece of work at a time, not 0",
        ),
        (["launch", "--processes", "0"], "--processes is at least 1"),
    ],
)
def test_what_has_no_meaning_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    out = [] if arguments[0] == "launch" else ["--out", str(tmp_path / "out")]
    assert message in one_line([*arguments, *out], capsys)
