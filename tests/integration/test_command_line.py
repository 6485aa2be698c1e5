"""The command line: what goes wrong is one clear line and a status of 2."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path

import pytest

from mmkd.__main__ import _cause, main

CONFIG = """
data: {class_path: tests.tiny.TinyData, init_args: {batch_size: 16}}
model:
  vectorize: always
  peers:
    cameras: {count: 2, student: {class_path: tests.tiny.Eye}}
    microphones: {count: 2, student: {class_path: tests.tiny.Ear}}
decentralized:
  topology: {class_path: Star}
  knowledge: {class_path: SharedLogits}
  schedule: {local_steps: 3}
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
"""


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs ``mmkd`` with a small configuration and more arguments: status and what it said on stderr."""
    (tmp_path / "run.yaml").write_text(CONFIG)

    def call(*arguments: str, command: str = "fit") -> tuple[int, str]:
        argv = [
            command,
            "-c",
            str(tmp_path / "run.yaml"),
            f"--recorder.folder={tmp_path / 'out'}",
            *arguments,
        ]
        try:
            status = main(argv)
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, capsys.readouterr().err

    return call


def test_fit_then_test_from_its_checkpoint(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("--trainer.enable_checkpointing=true", f"--trainer.default_root_dir={tmp_path}")[0] == 0
    assert (tmp_path / "out" / "curve.csv").exists()
    checkpoint = next(tmp_path.rglob("*.ckpt"))
    for command in ("validate", "test", "predict"):
        status, said = run(f"--ckpt_path={checkpoint}", command=command)
        assert status == 0
        assert "as they begin" not in said
    outcome = json.loads((tmp_path / "out" / "outcome.json").read_text())
    assert (
        outcome["ledger"]["rounds"] > 0
    )  # the test is another process's, and knows of the fit by the checkpoint
    assert ["cameras/0", "hub"] in outcome["topology"]["edges"]
    # What peers predict is where the command says, and as right as the test has found them to be.
    (line,) = (line for line in said.splitlines() if line.startswith("predictions: "))
    with Path(line.removeprefix("predictions: ")).open() as file:
        rows = list(csv.DictReader(file))
    tested = json.loads((tmp_path / "out" / "outcome.json").read_text())["test"]
    assert len(tested) == 4
    for peer, metrics in tested.items():
        own = [row for row in rows if row["peer"] == peer]
        assert [int(row["sample"]) for row in own] == list(range(100))
        share = [sum(r["prediction"] == r["label"] == str(c) for r in own) for c in range(3)]
        counts = [sum(r["label"] == str(c) for r in own) for c in range(3)]
        accuracy = sum(right / count for right, count in zip(share, counts, strict=True)) / 3
        assert accuracy == pytest.approx(metrics["shared_accuracy"], abs=1e-6)
        chances = [[float(row[f"probability_{i}"]) for i in range(3)] for row in own]
        assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in chances)
        assert [max(range(3), key=row.__getitem__) for row in chances] == [int(r["prediction"]) for r in own]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.peers.cameras.count=0"], "Fleet: count must lie in "),
        (["--model.peers.cameras.cuont=2"], "fleet 'cameras' has no setting 'cuont'; did you mean count?"),
        (["--model.peers.cameras.student.init_args.dimm=2"], "'dimm' is not accepted; did you mean dim"),
        (["--modell.clip=1"], "modell"),
        (["--decentralized.topology.class_path=Rung"], "there is no class 'Rung'; did you mean Ring"),
        (
            ["--decentralized.topology.class_path=Zzz"],
            "no class 'Zzz'; a class of your own goes by its import path",
        ),
        (["--data.class_path=nowhere.Data"], "No module named 'nowhere'"),
        (["--decentralized.topology={class_path: Islands, init_args: {among: {a: [nobody]}}}"], "nobody"),
        (
            [
                "--decentralized.topology={class_path: Islands, init_args: {among: {a: [nobody]}}}",
                "--decentralized.knowledge=null",
                "--decentralized.aggregation={class_path: FedAvg}",
            ],
            "nobody",
        ),
        (["--decentralized.topology={class_path: RandomRegular, init_args: {degree: 9}}"], "9"),
        (["--decentralized.aggregation={class_path: FedAvg, init_args: {among: all}}"], "differ in shape"),
        (["--decentralized.knowledge.init_args.alpha=1.5"], "alpha must lie in [0, 1), not 1.5"),
        (["--decentralized.schedule.local_epochs=2"], "give one of them"),
        (["--model.peers.microphones.student.class_path=tests.tiny.Nose"], "reads 'smell'"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_input_is_one_clear_line(run, arguments: list[str], said: str) -> None:  # type: ignore[no-untyped-def]
    status, stderr = run(*arguments)
    lines = [line for line in stderr.splitlines() if line.startswith("mmkd: ")]
    assert status == 2
    assert len(lines) == 1, stderr
    assert said in lines[0]
    assert "Traceback" not in stderr


def test_a_missing_package_is_what_is_wrong_unless_somebody_did_without_it() -> None:
    """Loggers of Lightning raise such an error, which jsonargparse hands on inside two of its own."""

    def raised(*, direct: bool) -> BaseException:
        try:
            try:
                raise ModuleNotFoundError("Requirement 'mlflow>=1.0.0' not met")
            except ModuleNotFoundError as missing:
                raise ValueError("does not validate") from missing if direct else None
        except ValueError as error:
            return error

    assert str(_cause(raised(direct=True))) == "Requirement 'mlflow>=1.0.0' not met"
    assert _cause(raised(direct=False)) is None
    assert _cause(None) is None


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(2, "No such file", "a.npy"), OSError(errno.ENOSPC, "No space left on device", "b")],
)
def test_a_missing_file_and_a_full_disk_are_one_line(error: OSError) -> None:
    assert _cause(error) is error
    assert _cause(OSError(errno.EIO, "Input/output error")) is None


def test_who_has_learnt_nothing_predicts_and_is_told_so(run) -> None:  # type: ignore[no-untyped-def]
    status, said = run(command="predict")
    assert status == 0
    assert "mmkd: students are as they begin: no --ckpt_path was given" in said


def test_usage_needs_no_heavy_import(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "tradeoff STUDY" in capsys.readouterr().out
    assert main([]) == 2


def test_a_fleet_is_added_to_those_of_a_file(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """By an option, or by a file of one fleet; another file of peers would replace all of them."""
    (tmp_path / "more.yaml").write_text("count: 1\nstudent:\n  class_path: tests.tiny.Ear\n")
    status, _ = run(
        f"--model.peers.glasses={(tmp_path / 'more.yaml').read_text()}",
        "--model.peers.phones.student=tests.tiny.Eye",
        f"--trainer.logger={{class_path: CSVLogger, init_args: {{save_dir: {tmp_path}}}}}",
        "--trainer.log_every_n_steps=1",
    )
    assert status == 0
    curve = (tmp_path / "out" / "curve.csv").read_text()
    for peer in ("cameras/1", "microphones/1", "glasses/0", "phones/0"):
        assert f",{peer}," in curve
    (logged,) = tmp_path.rglob("metrics.csv")
    header = logged.read_text().splitlines()[0]
    assert "ledger/bytes_per_peer" in header
    assert "peer/glasses/0/val/shared_accuracy" in header


@pytest.mark.parametrize("argv", [["report", "nowhere"], ["tradeoff", "nowhere.yaml", "--out", "nowhere"]])
def test_studies_that_do_not_exist(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith("mmkd: ")
