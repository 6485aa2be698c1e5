"""The command line: what goes wrong is one clear line and a status of 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmkd.__main__ import main

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
        assert run(f"--ckpt_path={checkpoint}", command=command)[0] == 0
    assert (tmp_path / "out" / "outcome.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.peers.cameras.count=0"], "fleet 'cameras' has count 0"),
        (["--model.peers.cameras.cuont=2"], "'cuont' is not accepted"),
        (["--model.peers.cameras.student.init_args.dimm=2"], "'dimm' is not accepted"),
        (["--modell.clip=1"], "modell"),
        (["--decentralized.topology.class_path=Rung"], "Rung"),
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
        (["--decentralized.knowledge.init_args.alpha=1.5"], "lies in [0, 1)"),
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


def test_usage_needs_no_heavy_import(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "tradeoff STUDY" in capsys.readouterr().out
    assert main([]) == 2


@pytest.mark.parametrize("argv", [["report", "nowhere"], ["tradeoff", "nowhere.yaml", "--out", "nowhere"]])
def test_studies_that_do_not_exist(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith("mmkd: ")
