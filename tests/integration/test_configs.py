"""Every shipped file is run for one batch, and the test says how many there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mmkd.__main__ import main
from mmkd.tradeoff.study import Study

ROOT = Path(__file__).parents[2] / "configs"
BASE = {"data": "data/digits.yaml", "peers": "peers/trio.yaml", "method": "method/distillation.yaml"}
PARTS = ("data", "peers", "method", "trainer", "study", "tuned")
FILES = {part: sorted((ROOT / part).glob("*.yaml")) for part in PARTS}
ONE_BATCH = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--decentralized.schedule.block=2",
]
SINGLE = [(part, path) for part in ("data", "peers", "method", "trainer") for path in FILES[part]]


def test_how_many_there_are() -> None:
    """No file hides in a folder that nobody lists."""
    assert {part: len(paths) for part, paths in FILES.items()} == COUNTS
    assert sum(COUNTS.values()) == len(list(ROOT.rglob("*.yaml")))


NEEDS_SGD = {"mime", "mimelite", "fednova", "fedlin", "fedshuffle", "gradient_tracking"}
COUNTS = {"data": 4, "peers": 9, "method": 36, "trainer": 2, "study": 8, "tuned": 2}
ABOUT_CAMERAS = {"cameras", "oracle_weak", "oracle_strong", "shared_detections"}
FEW_FRAMES = [
    "--data.init_args.public=0.5",
    "--data.init_args.batch_size=2",
    "--model.peers.cameras.count=2",
]


@pytest.mark.parametrize(("part", "path"), SINGLE, ids=[f"{part}/{path.stem}" for part, path in SINGLE])
def test_every_file_owns_one_key_and_runs(
    part: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, car_park: Path
) -> None:
    assert len(yaml.safe_load(path.read_text())) == 1
    cameras = path.stem in ABOUT_CAMERAS
    monkeypatch.chdir(car_park if cameras else tmp_path)
    parts = {**{name: ROOT / file for name, file in BASE.items()}, part: path}
    if path.stem in NEEDS_SGD:
        parts["peers"] = ROOT / "peers" / "trio_sgd.yaml"
    if path.stem.startswith("mhd") or path.stem == "heterofl":  # a chain of heads, or two widths
        parts["peers"] = ROOT / "peers" / "mixed.yaml"
    if path.stem in ("synthetic_logistic", "logistic30"):  # they go together
        parts |= {"data": ROOT / "data/synthetic_logistic.yaml", "peers": ROOT / "peers/logistic30.yaml"}
    if cameras:
        files = {"data": "data/cameras.yaml", "peers": "peers/cameras.yaml", "method": "method/isolated.yaml"}
        parts = {**{name: ROOT / file for name, file in files.items()}, part: path}
    cache = Path(__file__).parents[2] / ".cache" / "digits"
    settings = [f"--recorder.folder={tmp_path}"]
    if "digits" in parts["data"].stem:
        settings.append(f"--data.init_args.cache={cache}")
    settings += FEW_FRAMES if cameras else []
    configs = [f"--config={file}" for file in parts.values()]
    assert main(["fit", *configs, *ONE_BATCH, *settings]) == 0
    assert (tmp_path / "ledger.csv").exists()


@pytest.mark.parametrize("path", FILES["study"], ids=lambda path: path.stem)
def test_every_study_runs_each_method_for_one_batch(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, car_park: Path
) -> None:
    study = Study.read(path)
    monkeypatch.chdir(car_park)
    cache = Path(__file__).parents[2] / ".cache" / "digits"
    settings = [setting.removeprefix("--") for setting in ONE_BATCH if "checkpointing" not in setting]
    few = [setting.removeprefix("--") for setting in FEW_FRAMES]
    settings += few if path.stem in ABOUT_CAMERAS else [f"data.init_args.cache={cache}"]
    study.run(tmp_path / "out", command="", seeds=[0], settings=settings)
    for name, method in study.methods.items():
        result = json.loads((tmp_path / "out" / "runs" / name / "seed0" / "result.json").read_text())
        assert len(result["test"]) == len(result["peers"]) > 0
        if method.family in ("none", "ceiling"):
            assert result["ledger"]["bytes_per_peer"] == 0
        if method.family == "ceiling":  # one peer owns all that there is of a modality
            assert len(result["test"]) == len({peer["modality"] for peer in result["peers"].values()}) == 3


@pytest.mark.parametrize("path", FILES["tuned"], ids=lambda path: path.stem)
def test_tuned_settings_are_those_that_the_study_searches(path: Path) -> None:
    study = yaml.safe_load((ROOT / "study" / path.name).read_text())
    assert study["tuned"] == f"../tuned/{path.name}"
    found = yaml.safe_load(path.read_text())
    assert set(found) == {name for name, method in study["methods"].items() if "like" not in method}
    for name, settings in found.items():
        space = study["search"]["settings"] | study["methods"][name].get("search", {})
        for setting, value in settings.items():
            assert value in space[setting]
