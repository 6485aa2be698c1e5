"""From compressing to exporting, by the command; what is read back; and what a run says of devices."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mmkd.__main__ import main
from mmkd.callbacks import DecentralizedCallback
from mmkd.callbacks.recorder import Recorder
from mmkd.cohort import Cohort, Fleet
from mmkd.edge.compression.measured import measured
from mmkd.edge.compression.recipe import Recipe, compressed
from mmkd.edge.compression.saved import read
from mmkd.edge.ondevice import FILE, OnDevice
from mmkd.edge.trained import trained
from mmkd.types import ConfigError
from tests.integration.test_command_line import CONFIG
from tests.tiny import CLASSES, Eye, TinyData, schedule, trainer

pytest.importorskip("onnxruntime")
pytest.importorskip("torch_pruning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run, with one compressed student."""
    place = tmp_path_factory.mktemp("compressed")
    (place / "run.yaml").write_text(CONFIG)
    options = [f"--recorder.folder={place / 'run'}", "--trainer.enable_checkpointing=true"]
    assert main(["fit", "-c", str(place / "run.yaml"), *options]) == 0
    return place / "run"


def test_a_peer_is_compressed_and_exported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eyes of 227 numbers keep 8 channels of 14 each; files and folder say what the student in memory says."""
    steps = ["--steps", "prune:0.5", "int8", "--distil", "neighbours", "--heal", "6"]
    assert main(["compress", str(folder), "--peer", "cameras/1", *steps]) == 0
    said = capsys.readouterr().out
    out = folder / "compressed" / "cameras-1"
    assert f"compressed: {out}" in said
    assert re.search(r"original +227 ", said)
    assert re.search(r"compressed +101 ", said)  # 14 k + 3 is at most 113.5 for k = 7
    assert sorted(p.name for p in out.iterdir()) == ["compressed.json", "student.safetensors"]
    assert main(["export", str(folder), "--peer", "cameras/1", "--compressed", str(out)]) == 0
    card = capsys.readouterr().out
    assert "Eye, 101 parameters" in card
    assert "prune:0.5, int8; 6 local steps, distil neighbours" in card
    assert {p.name for p in (folder / "export" / "cameras-1").iterdir()} >= {"model.onnx", "model.int8.onnx"}
    run = trained(folder, None, [])
    peer, student, form, _ = read(out, run)
    again = compressed(run, peer, Recipe(["prune:0.5", "int8"], distil="neighbours", heal=6))
    assert (peer, form) == ("cameras/1", "int8")
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    asks = ["--to", "cameras/0", "--device", "cameras/1", "--compressed", str(out), "--budget", "0"]
    assert main(["offload", str(folder), *asks]) == 0
    reader = run.data.reader("cameras/1", "test")
    batch = reader.batch(torch.arange(len(reader)), 0)
    right = [
        float((s(batch.x).argmax(1) == batch.y).double().mean()) for s in (student, run.student("cameras/1"))
    ]
    with (folder / "offload" / "budgets.csv").open() as file:
        assert {round(float(row["accuracy"]), 6) for row in csv.DictReader(file)} == {round(right[0], 6)}
    assert right[0] != right[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compress", "--peer", "cameras/9"], "there is no peer 'cameras/9'"),
        (["compress", "--peer", "cameras/1", "--steps", "prune"], "'prune' says no share"),
        (["compress", "--peer", "cameras/1", "--out", "{mine}"], "is there and holds no compressed student"),
        (["export", "--peer", "cameras/1", "--compressed", "{mine}"], "holds no compressed student: mmkd"),
        (["export", "--peer", "cameras/1", "--compressed", "{cut}"], "holds no whole compressed student: "),
    ],
)
def test_slips_are_one_line(
    folder: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"mine": folder / "checkpoints", "cut": folder / "cut"}
    places["cut"].mkdir(exist_ok=True)
    (places["cut"] / "compressed.json").write_text('{"peer": "cameras/1"')
    command, *rest = [argument.format(**places) for argument in arguments]
    assert main([command, str(folder), *rest]) == 2
    assert said in capsys.readouterr().err


class Uncalibrated(TinyData):
    """Nothing to validate on."""

    def private(self, peer: str, split: str) -> Any:
        return self.held_out.subset([]) if split == "val" else super().private(peer, split)


def test_a_calibration_set_that_is_missing_is_a_line() -> None:
    data = Uncalibrated(peers={"eyes/0": "image"})
    data.setup("test")
    with pytest.raises(
        ConfigError, match="'eyes/0' has 0 val samples, and 8 bits are calibrated on at least two"
    ):
        measured(Eye(CLASSES), data, "eyes/0", "int8")


def test_a_run_says_how_files_do_on_a_device(tmp_path: Path) -> None:
    """The original does as its peer does in the run's own test; a recipe is a factor of a study."""
    cohort = Cohort({"eyes": Fleet(lambda n: Eye(n, drop=0.1), 2)}, CLASSES, vectorize="never")
    with pytest.raises(ConfigError, match="OnDevice: there is no peer 'eyes/7'"):
        OnDevice({"original": Recipe()}, ["eyes/7"]).setup(trainer(), cohort, "fit")
    with pytest.raises(ConfigError, match="OnDevice has no recipes"):
        OnDevice({})
    device = OnDevice({"original": Recipe(), "healed": Recipe(["heal"], heal=40, distil="self")})
    recorder, callback = (
        Recorder(tmp_path / "run"),
        DecentralizedCallback(schedule=schedule(rounds_per_epoch=1)),
    )
    run, data = trainer(callback, recorder, device, max_epochs=1), TinyData(batch_size=16)
    run.fit(cohort, datamodule=data)
    run.test(cohort, datamodule=data, verbose=False)
    found = json.loads((tmp_path / "run" / FILE).read_text())
    assert [*found] == ["eyes/0"]
    assert [*found["eyes/0"]] == ["original", "healed"]
    wanted = json.loads((tmp_path / "run" / "outcome.json").read_text())["test"]["eyes/0"]["shared_accuracy"]
    original = found["eyes/0"]["original"]
    assert original["score"] == pytest.approx(wanted)
    assert original["score"] != found["eyes/0"]["healed"]["score"]
    assert [*original] == ["score", "bytes", "median_ms", "p95_ms", "peak_mib", "model_mib"]
    assert original["bytes"] > 4 * 227
    assert 0 < original["median_ms"] <= original["p95_ms"]
