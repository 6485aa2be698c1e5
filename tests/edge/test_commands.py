"""``mmkd export``, ``offload`` and ``serve`` on the folder of a run, and what is refused in a line."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmkd.__main__ import main
from mmkd.edge import Answer, Cascade, Graph
from mmkd.edge.command import folder_of
from mmkd.edge.compression.saved import read
from mmkd.edge.trained import trained
from mmkd.edge.validating import validated
from mmkd.errors import ConfigError
from mmkd.transport.session import opened
from tests.edge.test_export import predicted
from tests.integration.test_command_line import CONFIG
from tests.transport.test_zenoh import ends, free_ports

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

    how = ["--link", "wifi", "microphones/*=lora", "--budget", "0", "30%", "20B"]
    asks = ["--to", "cameras/0", "--device", "cameras/1", "microphones/0"]
    assert main(["offload", str(folder), *asks, *how]) == 0
    said = capsys.readouterr().out
    for words in (
        "2 devices are right about",
        "Accuracy by latency",
        "A budget of 0: nobody is asked, and devices answer alone",
        "A budget of 30% a request",
        "A budget of 20B a request",
    ):
        assert words in said
    with (folder / "offload" / "offloading.csv").open() as file:
        assert {row["policy"] for row in csv.DictReader(file)} >= {"max probability", "learned", "oracle"}
    with (folder / "offload" / "budgets.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["device"] for row in rows} == {"cameras/1", "microphones/0"}
    assert all(float(row["threshold"]) == float(row["asked"]) == 0 for row in rows if row["budget"] == "0")


def test_a_service_is_asked_and_ends_when_it_is_told(folder: Path, tmp_path: Path) -> None:
    """Two processes: the command on the loopback interface, and a device that asks it about test samples.

    The student that answers has been made smaller.
    """
    pytest.importorskip("zenoh")
    assert main(["compress", str(folder), "--peer", "cameras/0", "--steps", "sparse:0.5"]) == 0
    small = folder / "compressed" / "cameras-0"
    endpoint, printed = f"tcp/127.0.0.1:{free_ports(1)[0]}", tmp_path / "printed"
    run = trained(folder, None, [])
    x: Any = run.data.reader("cameras/1", "test").batch(torch.arange(20), 0).x

    def serves() -> tuple[int, str]:
        (tmp_path / "pid").write_text(str(os.getpid()))
        with printed.open("w") as file, redirect_stdout(file):
            answers = ["--peer", "cameras/0", "--listen", endpoint, "--compressed", str(small)]
            status = main(["serve", str(folder), *answers])
        return status, printed.read_text()

    def asks() -> list[Any]:
        until = time.monotonic() + 60
        while not (printed.exists() and "answers at" in printed.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        session = opened([], [endpoint], None, 2**20, open=False)
        device = Cascade(
            Graph(run.student("cameras/1")),
            session,
            "edge",
            "cameras/1",
            ["cameras/0"],
            threshold=1.0,
            patience=20,
        )

        async def ask() -> list[Answer]:
            return list(await asyncio.gather(*(device.answer(row[None]) for row in x)))

        answers = asyncio.run(ask())
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        session.close()
        return [(answer.by, answer.probabilities.tolist()) for answer in answers]

    ended, answers = ends(2, lambda i: (serves, asks)[i]())
    assert ended == (0, f"cameras/0 answers at {endpoint}\nquestions: 20 answered\n")
    student: Any = read(small, run).student
    assert sum(int((p == 0).sum()) for p in student.parameters() if p.dim() > 1) == (8 * 16 + 16 * 3) / 2
    degrees = validated(student, run.data, "cameras/0", 0.0).temperature
    assert [by for by, _ in answers] == [["cameras/0"]] * 20
    wanted = (student(x) / degrees).softmax(-1).detach()
    torch.testing.assert_close(torch.tensor([chances for _, chances in answers]), wanted)


def test_folders_of_peers_are_names_of_files() -> None:
    assert folder_of(Path("run"), "export", "cámaras/0") == Path("run/export/cámaras-0")
    with pytest.raises(ConfigError, match=r"is 2\d\d bytes long, .*: name a folder with --out"):
        folder_of(Path("run"), "export", 120 * "é" + "/0")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "--peer", "camera/1"], "there is no peer 'camera/1'; did you mean cameras/1"),
        (
            ["export", "--peer", "cameras/1", "--ask", "1.5"],
            "--ask is a share of requests, from 0 to 1, not 1.5",
        ),
        (["export", "--peer", "cameras/1", "--ckpt_path", "no.ckpt"], "there is no checkpoint no.ckpt"),
        (
            ["export", "--peer", "cameras/1", "--formats", "onxx"],
            "there is no format 'onxx'; did you mean onnx",
        ),
        (["offload", "--to", "cameras/0", "--device", "cameras/0"], "a device asks somebody else"),
        (["offload", "--to", "cameras/9"], "there is no peer 'cameras/9'"),
        (["offload", "--to", "cameras/0", "--budget", "20"], "--budget 20: give a share of requests"),
        (["offload", "--to", "cameras/0", "--link", "wfi"], "there is no link 'wfi'; did you mean wifi"),
        (["offload", "--to", "cameras/0", "--link", "wifi", "x/*=4g"], "--link x/*=4g: no device is called"),
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
