"""What the README tells users to write is written here, as they would: files of their own, nothing registered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmkd.__main__ import main
from mmkd.callbacks.run_folder import RUN
from mmkd.lock import LOCK

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
QUIET = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]


def block(language: str, having: str) -> str:
    """The README's only block of that language with these words in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    (found,) = (text for text in blocks if having in text)
    return found


def test_a_new_modality_needs_one_file_and_one_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datamodules").mkdir()
    (tmp_path / "datamodules" / "radar.py").write_text(block("python", "class Echoes"))
    (tmp_path / "radar.yaml").write_text(block("yaml", "Echoes"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["fit", "-c", "radar.yaml", *QUIET, "--recorder.folder=out"]) == 0
    rows = (tmp_path / "out" / "curve.csv").read_text().splitlines()
    last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
    # Two Gaussians 2 * sqrt(6) = 4.9 standard deviations apart: the best rule errs below 1 %.
    assert float(last["shared_accuracy"]) > 0.9
    # Twelve rounds of eight steps: three peers on a ring hear two each, 16 samples of 2 float32 logits.
    assert float(last["bytes_per_peer"]) == 12 * 8 * 2 * 16 * 2 * 4
    assert last["modality"] == "radar"


def test_a_method_is_one_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "method.yaml").write_text(block("yaml", "MostConfident"))
    monkeypatch.chdir(tmp_path)
    files = ["data/digits", "peers/trio", "trainer/quick"]
    configs = [f"-c={ROOT / 'configs' / file}.yaml" for file in files]
    quick = ["--trainer.fast_dev_run=true", f"--data.init_args.cache={ROOT / '.cache' / 'digits'}"]
    assert main(["fit", *configs, "-c=method.yaml", *quick, "--recorder.folder=out"]) == 0
    assert {row.split(",")[0] for row in (tmp_path / "out" / "ledger.csv").read_text().splitlines()[1:]}


def test_a_cohort_is_a_lightning_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = block("python", "coordinator = ")
    quick = "fast_dev_run=True, accelerator='cpu', logger=False, enable_model_summary=False"
    assert "max_epochs=20" in text
    monkeypatch.chdir(ROOT)
    exec(text.replace("max_epochs=20", quick).replace("results/first", str(tmp_path)), {})
    # What the README says that a run leaves.
    assert {path.name for path in tmp_path.iterdir()} == {
        *("curve.csv", "ledger.csv", "outcome.json"),
        *(RUN, LOCK),
    }
