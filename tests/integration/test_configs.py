"""Every shipped file is run for one batch, and the test says how many there are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from mmkd.__main__ import main
from mmkd.ledger import FRAMING
from mmkd.testing.transports import CountingTransport
from mmkd.tradeoff.running import run
from mmkd.tradeoff.study import Study

ROOT = Path(__file__).parents[2] / "configs"
PARTS = ("data", "peers", "method", "trainer", "study", "tuned")
FILES = {part: sorted((ROOT / part).glob("*.yaml")) for part in PARTS}
ONE_BATCH = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def test_how_many_there_are() -> None:
    """No file hides in a folder that nobody lists."""
    assert {part: len(paths) for part, paths in FILES.items()} == COUNTS
    assert sum(COUNTS.values()) == len(list(ROOT.rglob("*.yaml")))


NEEDS_SGD = {"mime", "mimelite", "fednova", "fedlin", "fedshuffle", "gradient_tracking"}
COUNTS = {"data": 16, "peers": 17, "method": 37, "trainer": 2, "study": 12, "tuned": 3}
ABOUT_CAMERAS = {"cameras", "caching_cameras", "oracle_weak", "oracle_strong", "shared_detections"}
FEW_FRAMES = [
    "--data.init_args.height=75",
    "--data.init_args.width=100",
    "--data.init_args.public=0.5",
    "--data.init_args.batch_size=2",
    "--model.peers.cameras.count=2",
]
HEARD = "--data.init_args.folder={{sets}}/{0} --data.init_args.cache={{sets}}/decoded"
"""Where a set lies whose files are decoded, and where they are kept."""
SETS = {
    "fashion_mnist": ["--data.init_args.partition=IID", "--data.init_args.folder={sets}/fashion_mnist"],
    "emoji": [
        "--data.init_args.folder={sets}/emoji",
        "--data.init_args.cache={sets}/emoji",
        "--data.init_args.languages=[de, en]",
    ],
    "cifar10": ["--data.init_args.folder={sets}/cifar", "--data.init_args.partition=IID"],
    "cifar100": ["--data.init_args.folder={sets}/cifar", "--data.init_args.partition=IID"],
    "speech_commands": [*HEARD.format("speech_commands").split(), "--data.init_args.words=[cat, dog, 'yes']"],
    "esc50": [*HEARD.format("esc50").split(), "--data.init_args.esc10=true"],
    "crema_d": HEARD.format("crema_d").split(),
    "ag_news": ["--data.init_args.folder={sets}/ag_news", "--data.init_args.partition=IID"],
    "uci_har": ["--data.init_args.folder={sets}/uci_har"],
    "mm_imdb": HEARD.format("mm_imdb").split(),
}
"""Where data are that are small here, and how their few samples are dealt."""
BESIDE = {
    **{name: {"peers": "trio_sgd"} for name in NEEDS_SGD},
    **{name: {"peers": "mixed"} for name in ("mhd", "mhd_public", "heterofl")},  # heads, or two widths
    **{name: {"data": "cameras", "peers": "cameras", "trainer": "cameras"} for name in ABOUT_CAMERAS},
    "isolated": {"data": "digits_iid", "peers": "pooled"},
    "fedavg": {"data": "synthetic_logistic", "peers": "logistic30"},
    "fedavgm": {"trainer": "quick"},
    "dsfl": {"data": "fashion_mnist", "peers": "vision20"},
    "fedavg_int8": {"data": "emoji", "peers": "emoji"},
    "fedyogi": {"data": "smartwatch", "peers": "watches"},
    "gossip": {"peers": "fusion"},
    "mutual": {"data": "digits_augmented"},
    "push_sum": {"data": "cifar10", "peers": "colour20"},
    "fedadam": {"data": "cifar100", "peers": "colour20"},
    "fedprox": {"data": "speech_commands", "peers": "listeners"},
    "scaffold": {"data": "esc50", "peers": "listeners"},
    "fedadagrad": {"data": "crema_d", "peers": "listeners"},
    "fedavg_complete": {"data": "ag_news", "peers": "readers"},
    "distillation_ring": {"data": "uci_har", "peers": "sensors"},
    "distillation": {"data": "mm_imdb", "peers": "posters"},
}
"""What a method is run with, where it is not what most are: every file of every folder goes with some method."""
USUAL = {"data": "digits", "peers": "trio"}
RUNS = [{"method": path.stem, **USUAL, **BESIDE.get(path.stem, {})} for path in FILES["method"]]
RUNS += [
    {"method": "isolated", **BESIDE["cameras"], "peers": oracle}
    for oracle in ("oracle_weak", "oracle_strong")
]


def test_every_file_has_a_run() -> None:
    for part in ("data", "peers", "method", "trainer"):
        assert {run[part] for run in RUNS if part in run} == {path.stem for path in FILES[part]}
        assert all(list(yaml.safe_load(path.read_text())) == [KEYS[part]] for path in FILES[part])


KEYS = {"data": "data", "peers": "model", "method": "decentralized", "trainer": "trainer"}
"""The one key that every file of a folder owns."""


class Counting(CountingTransport):
    """The command makes it, and ``one`` is that of the last run."""

    one: Counting

    def __init__(self) -> None:
        super().__init__()
        Counting.one = self


def short(method: str) -> str:
    """A schedule whose rounds are one batch of Lightning's, in the units in which a method counts."""
    whole = yaml.safe_load((ROOT / "method" / f"{method}.yaml").read_text())["decentralized"]
    given = whole["schedule"]
    if "local_epochs" in given:
        return "{local_epochs: 1, block: 1000}"
    steps = min(2, given["local_steps"])
    every = f"knowledge_every: {steps}, " if "knowledge" in whole else ""
    return f"{{local_steps: {steps}, {every}block: {steps}}}"


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['method']}-{run['peers']}")
def test_every_file_runs_and_all_that_is_counted_is_carried(
    run: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, car_park: Path, sets: Path
) -> None:
    """Two rounds of one batch, so that every kind of exchange is a whole one."""
    cameras = run["data"] == "cameras"
    monkeypatch.chdir(car_park if cameras else tmp_path)
    configs = [f"--config={ROOT / part / name}.yaml" for part, name in run.items()]
    settings = [f"--recorder.folder={tmp_path}", f"--decentralized.schedule={short(run['method'])}"]
    settings += ["--trainer.max_epochs=2", f"--decentralized.transport={__name__}.Counting"]
    if run["data"] == USUAL["data"] and run["peers"] != "fusion":  # others evaluate, and choose how to train
        settings += ["--trainer.limit_val_batches=0", "--model.vectorize=always"]
    if run["data"].startswith("digits"):
        settings.append(f"--data.init_args.cache={Path(__file__).parents[2] / '.cache' / 'digits'}")
    if run["method"] == "fedmd":
        settings += ["--decentralized.knowledge.init_args.digest=1"]
    settings += FEW_FRAMES if cameras else []
    settings += [setting.format(sets=sets) for setting in SETS.get(run["data"], [])]
    assert main(["fit", *configs, *ONE_BATCH, *settings]) == 0
    with (tmp_path / "ledger.csv").open() as file:
        counted = [int(row["bytes"]) for row in csv.DictReader(file) if row["kind"] != FRAMING]
    assert sum(counted) == Counting.one.nbytes
    assert (Counting.one.nbytes > 0) == (run["method"] != "isolated")


def run_study(path: Path, tmp_path: Path, only: list[str] | None) -> Study:
    """A study's methods, or some of them, for a round of one batch each."""
    study = Study.read(path)
    cache = Path(__file__).parents[2] / ".cache" / "digits"
    settings = [setting.removeprefix("--") for setting in ONE_BATCH if "checkpointing" not in setting]
    steps = 20 if path.stem == "distillation" and only is None else 2  # of which some digest up to twenty
    settings[0] = f"trainer.max_steps={steps}"  # of one epoch alone, nothing would ever be taught
    few = [setting.removeprefix("--") for setting in FEW_FRAMES]
    schedule = f"{{local_steps: {steps}, local_epochs: null, knowledge_every: null, block: {steps}}}"
    settings.append(f"decentralized.schedule={schedule}")
    settings += few if path.stem in ABOUT_CAMERAS else [f"data.init_args.cache={cache}"]
    run(study, tmp_path / "out", command="", only=only, seeds=[0], settings=settings)
    for name in only or study.methods:
        result = json.loads((tmp_path / "out" / "runs" / name / "seed0" / "result.json").read_text())
        assert len(result["test"]) == len(result["peers"]) > 0
        if study.methods[name].family in ("none", "ceiling"):
            assert result["ledger"]["bytes_per_peer"] == 0
        if study.methods[name].family == "ceiling":  # one peer owns all that there is of a modality
            assert len(result["test"]) == len({peer["modality"] for peer in result["peers"].values()}) == 3
    return study


@pytest.mark.parametrize("path", FILES["study"], ids=lambda path: path.stem)
def test_every_study_is_set_up(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, car_park: Path
) -> None:
    """Its last method: files of methods are run for themselves, and ``--long`` runs every method of every study."""
    monkeypatch.chdir(car_park)
    study = Study.read(path)
    cli = study.configure(tmp_path, list(study.methods)[-1], 0, [])
    assert len(cli.model.names) > 1


@pytest.mark.parametrize(
    ("study", "ceiling"), [("headline", True), pytest.param("cameras", False, marks=pytest.mark.long)]
)
def test_a_study_runs(
    study: str, ceiling: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, car_park: Path
) -> None:
    """One of classifiers, whose ceiling owns all that there is, and one of detectors."""
    monkeypatch.chdir(car_park)
    path = ROOT / "study" / f"{study}.yaml"
    methods = Study.read(path).methods
    ceilings = [name for name, method in methods.items() if method.family == "ceiling"]
    run_study(path, tmp_path, ceilings[:1] if ceiling else list(methods)[-1:])


@pytest.mark.long
@pytest.mark.parametrize("path", FILES["study"], ids=lambda path: path.stem)
def test_every_study_runs_each_method_for_one_batch(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, car_park: Path
) -> None:
    monkeypatch.chdir(car_park)
    run_study(path, tmp_path, None)


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
