"""Some mutants of the shipped configurations; ``scripts/test --long`` tries hundreds (``scripts/fuzz_configs.py``)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts.fuzz_configs import ROOT, Mutant, attempt, mutants

REFUSED = {
    "peers/trio.yaml": [
        ("model.peers.cameras.count", "-1", "Fleet: count must"),
        ("model.peers.cameras.count", "1000000000000", "Fleet: count must"),
        ("model.peers.cameras.count", "twice", "'count' is there twice"),
        ("model.peers.cameras.count", "misspelt", "countz"),
        (
            "model.peers.cameras.student.init_args.prior_correction",
            "-1",
            "prior_correction must be at least 0",
        ),
        (
            "model.peers.cameras.student.init_args.prior_correction",
            ".nan",
            "prior_correction must be at least 0",
        ),
        ("model.peers.cameras.student.init_args.optimizer.init_args.lr", "-1", "learning rate"),
        ("model.peers.cameras.student.class_path", "nothing_of_that_name", "nothing_of_that_name"),
        ("model.peers", "{}", "model.peers is empty"),
        ("model", "null", "give 'model' keys of its own"),
    ],
    "method/distillation.yaml": [
        ("decentralized", "null", "give 'decentralized' keys of its own"),
        ("decentralized.knowledge", "removed", "schedule.knowledge_every needs knowledge"),
        ("decentralized.knowledge.init_args.alpha", "1", "SharedLogits: alpha must lie in [0, 1)"),
        ("decentralized.knowledge.init_args.consensus.init_args.sharpen", "0", "sharpen must be above 0"),
        ("decentralized.schedule.knowledge_every", "1000000", "so nothing is taught"),
        ("decentralized.schedule.knowledge_every", "0", "knowledge_every must be at least 1"),
        ("decentralized.schedule.local_steps", "-1", "local_steps must be at least 0"),
        ("decentralized.schedule.local_steps", "2.5", "local_steps"),
    ],
    "method/fedadam.yaml": [
        (
            "decentralized.aggregation.init_args.server_lr",
            ".inf",
            "FedAdam: server_lr must be above 0 and finite",
        ),
        ("decentralized.topology.class_path", "'x'", "x"),
    ],
    "data/digits.yaml": [
        ("data.init_args.partition.init_args.alpha", "-0.5", "Dirichlet: alpha must be above 0"),
        ("data.init_args.batch_size", "0", "batch_size must lie in"),
    ],
    "study/quickstart.yaml": [
        ("seeds", "[]", "give it methods and seeds"),
        ("methods", "{}", "give it methods and seeds"),
        ("methods.fedavg.label", "null", "methods.fedavg: label must be a text"),
        ("methods.fedavg.family", "'x'", "family must be one of none, weights"),
        ("methods.fedavg.configs", "true", "configs must be a list"),
        ("methods.fedavg.label", "misspelt", "has no 'labelz'"),
        ("methods.fedavg.label", "removed", "it needs 'label'"),
        ("methods", "twice", "'methods' is there twice"),
    ],
}
"""By file: a place, what stands there, and what is said of it."""
SENSIBLE = {
    "peers/trio.yaml": [
        ("model.peers.phones.count", "1"),
    ],
    "study/quickstart.yaml": [("methods.fedavg.description", "nothing_of_that_name")],
}
"""By file: a place, and what may stand there."""


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped files in a working directory with their data."""
    work = tmp_path_factory.mktemp("work")
    (work / ".cache").symlink_to(ROOT / ".cache")
    return Path(shutil.copytree(ROOT / "configs", work / "configs"))


@pytest.mark.parametrize(
    ("file", "keys", "change", "says"),
    [(file, *rest) for file, cases in REFUSED.items() for rest in cases],
    ids=lambda word: word.rsplit("/")[-1],
)
def test_refused_in_one_line(
    file: str, keys: str, change: str, says: str, configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(configs.parent)
    what, said = attempt(Mutant(Path(file), tuple(keys.split(".")), change), configs, 60)
    assert what == "refused", said
    assert says in said
    assert (configs / file).read_text() == (ROOT / "configs" / file).read_text()


@pytest.mark.parametrize(
    ("file", "keys", "change"), [(file, *rest) for file, cases in SENSIBLE.items() for rest in cases]
)
def test_sensible(file: str, keys: str, change: str, configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(configs.parent)
    assert attempt(Mutant(Path(file), tuple(keys.split(".")), change), configs, 60) == ("sensible", "")


def test_every_place_is_changed_in_every_way() -> None:
    """A place in a list cannot be misspelt or said twice; a number has twelve others, a word ten."""
    found = list(mutants(Path("method/distillation.yaml")))
    at = {keys: [m.change for m in found if m.keys == keys] for keys in {m.keys for m in found}}
    assert len(found) == len(set(found)) == sum(map(len, at.values()))
    assert len(at) == 20  # values of the file, its lists and dictionaries among them
    alpha = at["decentralized", "knowledge", "init_args", "alpha"]
    assert {"-1", "0", ".nan", "1000000000000", "removed", "misspelt", "twice"} < set(alpha)
    words = at["decentralized", "knowledge", "init_args", "samples"]
    assert {"nothing_of_that_name", "[]", "null", "removed", "misspelt", "twice"} < set(words)
