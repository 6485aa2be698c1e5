"""A checkpoint is whole or not there; of a broken one a line says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmkd.cohort import Cohort, Fleet
from mmkd.cohort.checkpoints import WholeCheckpoints, whole, write
from mmkd.files import unfinished
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Eye, TinyData, trainer


def cohort() -> Cohort:
    return Cohort({"eyes": Fleet(Eye, 1)}, CLASSES)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good checkpoint, as a trainer of a user's own writes it."""
    path = tmp_path_factory.mktemp("good") / "one.ckpt"
    run = trainer(max_epochs=1, limit_val_batches=0)
    run.fit(cohort(), datamodule=TinyData(batch_size=64))
    assert isinstance(run.strategy.checkpoint_io, WholeCheckpoints)
    run.save_checkpoint(path)
    assert [p.name for p in path.parent.iterdir()] == ["one.ckpt"]
    return path.read_bytes()


def saved(content: Any) -> Callable[[bytes, Path], object]:
    return lambda good, path: torch.save(content, path)


def of_an_older_version(good: bytes, path: Path) -> None:
    path.write_bytes(good)
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["mmkd_settings"]
    torch.save(checkpoint, path)


BROKEN: dict[str, tuple[Callable[[bytes, Path], object], str]] = {
    "empty": (lambda good, path: path.write_bytes(b""), "is no whole checkpoint"),
    "half": (lambda good, path: path.write_bytes(good[: len(good) // 2]), "is no whole checkpoint"),
    "without its end": (lambda good, path: path.write_bytes(good[:-20]), "is no whole checkpoint"),
    "zeros": (lambda good, path: path.write_bytes(bytes(len(good))), "is no whole checkpoint"),
    "text": (lambda good, path: path.write_text("weights"), "is no whole checkpoint"),
    "a list": (saved([1, 2]), "is no checkpoint of a cohort"),
    "weights": (saved(torch.nn.Linear(2, 2).state_dict()), "is no checkpoint of a cohort"),
    "of a student alone": (saved({"state_dict": {}, "loops": {}}), "is no checkpoint of a cohort"),
    "of an older version": (of_an_older_version, "is of an older mmkd, which saved no settings"),
    "a folder": (lambda good, path: path.mkdir(), "there is no checkpoint"),
    "missing": (lambda good, path: None, "there is no checkpoint"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_is_told_in_a_line(tmp_path: Path, content: bytes, kind: str) -> None:
    """Which file it is, and what to do."""
    path = tmp_path / "broken.ckpt"
    make, said = BROKEN[kind]
    make(content, path)
    with pytest.raises(ConfigError, match=said) as raised:
        trainer(max_epochs=2).fit(cohort(), datamodule=TinyData(batch_size=64), ckpt_path=path)
    assert "\n" not in str(raised.value)
    if kind != "of an older version":
        assert str(path) in str(raised.value)
        assert whole(path) == str(raised.value)


def test_of_a_missing_one_its_neighbours_are_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "epoch=3.ckpt").write_bytes(content)
    assert whole(tmp_path / "epoch=3.ckpt") is None
    assert whole(
        tmp_path / "other.ckpt"
    ) == f"there is no checkpoint {tmp_path / 'other.ckpt'}; beside it" + (" there are epoch=3.ckpt")
    assert "did you mean epoch=3.ckpt" in str(whole(tmp_path / "epoch=2.ckpt"))


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_full_disk_leaves_the_one_before(
    size: int, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full as it writes, or as it closes what is small: the error is the disk's, and names the file."""
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    monkeypatch.setattr("mmkd.files.token_hex", lambda _: "0" * 16)
    (tmp_path / f"last.ckpt.{'0' * 16}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*last\.ckpt'"):
        write({"weight": torch.zeros(size)}, path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, sys
from pathlib import Path
from mmkd.files import replacing
with replacing(Path(sys.argv[1])) as part:
    part.write_text("half a check")
    os.kill(os.getpid(), 9)
"""


def test_a_kill_leaves_the_one_before_and_the_next_removes_the_rest(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -9
    assert path.read_bytes() == content
    assert len(unfinished(tmp_path)) == len(unfinished(tmp_path, "last.ckpt")) == 1
    assert not unfinished(tmp_path, "other.ckpt")
    WholeCheckpoints().save_checkpoint({"new": 1}, path)
    assert list(tmp_path.iterdir()) == [path]
    assert torch.load(path) == {"new": 1}
