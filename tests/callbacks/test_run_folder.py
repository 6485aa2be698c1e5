"""Runs keep apart: a folder is one run's, one process writes into it, and it says how the run ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from mmkd.callbacks import DecentralizedCallback
from mmkd.callbacks.recorder import Recorder
from mmkd.callbacks.run_folder import RUN, fresh, run_of
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import FedAvg
from mmkd.lock import HOLDER, holding
from mmkd.topology import Star
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Eye, TinyData, schedule, trainer


def go(recorder: Recorder, *callbacks: Callback, ckpt: Path | None = None, epochs: int = 1, **k: Any) -> Any:
    cohort = Cohort({"eyes": Fleet(lambda n: Eye(n), 2)}, CLASSES, vectorize="never")
    exchange = DecentralizedCallback(None, FedAvg(), Star(), schedule(local_steps=2))
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    run = trainer(exchange, recorder, *callbacks, max_epochs=epochs, enable_checkpointing=saves, **k)
    run.fit(cohort, datamodule=TinyData(batch_size=16), ckpt_path=ckpt)
    return run, cohort


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_second_run_leaves_the_first_as_it_is_and_the_same_one_goes_on(tmp_path: Path) -> None:
    """A new folder is found where none is named; a run that goes on returns to its own, checkpoints too."""
    first = Recorder()
    go(first, ModelCheckpoint(), default_root_dir=tmp_path)
    folder = first.folder
    assert folder is not None
    assert folder.parent == tmp_path / "results"
    assert folder.name.startswith("FedAvg-Star-seed0-20")
    left = files(folder)
    assert {"curve.csv", "ledger.csv", "outcome.json", RUN} < left.keys()
    assert HOLDER not in left

    with pytest.raises(ConfigError, match=f"{folder.name} holds another run: write to another folder, or"):
        go(Recorder(folder))
    assert files(folder) == left
    (other,) = (path for path in [Recorder()] if go(path, default_root_dir=tmp_path))
    assert other.folder is not None
    assert other.folder != folder
    assert run_of(other.folder) != run_of(folder)
    assert files(folder) == left

    (checkpoint,) = (folder / "checkpoints").glob("*.ckpt")
    again = Recorder()
    run, cohort = go(again, ckpt=checkpoint, epochs=2, default_root_dir=tmp_path)
    assert again.folder == folder
    assert run_of(folder) == json.loads(left[RUN])["run"]
    assert files(folder)["curve.csv"].startswith(left["curve.csv"])  # it has another epoch now
    assert len(files(folder)["curve.csv"]) > len(left["curve.csv"])
    run.test(cohort, datamodule=TinyData(batch_size=16), verbose=False)
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["ended"] == "tested"
    assert outcome["test"].keys() == {"eyes/0", "eyes/1"}


def test_a_run_of_an_older_version_or_under_way_is_left_alone(tmp_path: Path) -> None:
    """A folder with files of nobody knows which run is not written into; nor one that is held."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "curve.csv").write_text("precious")
    with pytest.raises(ConfigError, match="old holds another run"):
        go(Recorder(tmp_path / "old"))
    with holding(tmp_path / "held"), pytest.raises(ConfigError, match="held is in use by process"):
        go(Recorder(tmp_path / "held"))
    assert (tmp_path / "old" / "curve.csv").read_text() == "precious"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("a user's own")
    (tmp_path / "notes" / f"curve.csv.{'0' * 16}.part").write_text("of a killed run")
    go(Recorder(tmp_path / "notes"))
    assert (tmp_path / "notes" / "notes.txt").is_file()
    assert not list((tmp_path / "notes").glob("*.part"))
    assert fresh(tmp_path, "x").parent == tmp_path


class Fails(Callback):
    """Ends a run after its second epoch."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_epoch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.current_epoch == 2:
            raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("out of\n luck"), "RuntimeError: out of luck"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(143), "SystemExit: 143"),
    ],
)
def test_however_a_run_ends_its_files_say_so(tmp_path: Path, error: BaseException, said: str) -> None:
    """Ledger and curve of the two epochs before are those of a run of two epochs."""
    whole = Recorder(tmp_path / "whole")
    go(whole, epochs=2)
    with pytest.raises((RuntimeError, SystemExit)):  # Lightning exits after an interruption
        go(Recorder(tmp_path / "cut"), Fails(error), epochs=4)
    for name in ("curve.csv", "ledger.csv"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    cut, finished = (json.loads((tmp_path / f / "outcome.json").read_text()) for f in ("cut", "whole"))
    assert (cut.pop("ended"), finished.pop("ended")) == (said, "finished")
    assert cut == finished
    with holding(tmp_path / "cut"):
        pass
