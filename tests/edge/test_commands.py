"""``mmkd export``, ``offload`` and ``serve`` on the folder of a run, and what is refused in a line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mmkd.__main__ import main
from tests.edge.test_export import predicted
from tests.integration.test_command_line import CONFIG

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run."""
    place = tmp_path_factory.mktemp("edge")
    (place / "run.yaml").write_text(CONFIG)
    options = [f"--recorder.folder={place / 'run'}", "--trainer.enable_checkpointing=true"]
    assert main(["fit", "-c", str(place / "run.yaml"), *options]) == 0
    return place / "run"


def test_a_peer_is_exported_and_policies_are_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["export", str(folder), "--peer", "cameras/1", "--ask", "0.5", "--formats", "onnx", "int8"]) == 0
    )
    said = capsys.readouterr().out
    device = folder / "export" / "cameras-1"
    for words in (
        "# cameras/1",
        "model.int8.onnx",
        "in 8 bits it takes",
        "right about its test samples",
        str(device),
    ):
        assert words in said
    about = json.loads((device / "model.json").read_text())
    np.save(folder / "x.npy", np.ones(8, np.float32))
    (answer,) = predicted(device, str(folder / "x.npy"))
    assert answer["sure"] == (answer["probability"] >= about["threshold"])
    assert about["threshold"] > 1 / 3

    assert main(["offload", str(folder), "--to", "cameras/0", "--device", "cameras/1", "microphones/0"]) == 0
    assert "2 devices are right about" in capsys.readouterr().out
    with (folder / "offload" / "offloading.csv").open() as file:
        assert {row["policy"] for row in csv.DictReader(file)} >= {"max probability", "learned", "oracle"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "--peer", "camera/1"], "there is no peer 'camera/1'; did you mean cameras/1"),
        (
            ["export", "--peer", "cameras/1", "--ask", "1.5"],
            "--ask is a share of requests, from 0 to 1, not 1.5",
        ),
        (["export", "--peer", "cameras/1", "--ckpt_path", "no.ckpt"], "there is no checkpoint no.ckpt"),
        (["offload", "--to", "cameras/0", "--device", "cameras/0"], "a device asks somebody else"),
        (["serve", "--peer", "cameras/0"], "nobody could ask: give --listen, or --hosts"),
        (["serve", "--peer", "cameras/0", "--listen", "tcp/0.0.0.0:0"], "whoever reaches tcp/0.0.0.0:0"),
        (["serve", "--peer", "cameras/9", "--listen", "tcp/127.0.0.1:0"], "there is no peer 'cameras/9'"),
    ],
)
def test_slips_are_one_line(
    folder: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = arguments
    assert main([command, str(folder), *rest]) == 2
    assert f"mmkd: {said}" in capsys.readouterr().err
