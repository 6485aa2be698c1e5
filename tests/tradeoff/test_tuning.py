"""Every method gets the same number of trials, and a search that was cut off goes on."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mmkd.evaluation.regression import Regression
from mmkd.evaluation.scores import Accuracies, Precisions
from mmkd.tradeoff import tuning
from mmkd.tradeoff.study import Study
from mmkd.tradeoff.tuning import Trials, candidates, tune
from mmkd.types import ConfigError, DivergedError
from tests.tradeoff.test_study import BASE, METHODS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    for name, method in METHODS.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"decentralized": method}))
    methods = {
        name: {
            "label": name,
            "family": "none",
            "configs": [f"{name}.yaml"],
            "search": {"model.clip": [1.0, 2.0]},
        }
        for name in METHODS
    }
    content = {
        "name": "tiny",
        "title": "A tiny study",
        "seeds": [0],
        "configs": ["base.yaml"],
        "methods": methods,
        "tuned": "tuned.yaml",
        "search": {
            "trials": 3,
            "seeds": [100, 101],
            "settings": {"model.peers.*.learning_rate_scale": [0.1, 1.0, 2.0]},
        },
    }
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(content))
    return study


def test_draws_do_not_repeat_and_begin_with_the_study_itself() -> None:
    space = {"a": [1, 2, 3], "b": [1, 2]}
    tried = list(candidates(space, 5, stream=7))
    assert tried[0] == {}
    assert len(tried) == 5
    assert len({tuple(sorted(t.items())) for t in tried}) == 5
    assert tried == list(candidates(space, 5, stream=7))
    assert tried != list(candidates(space, 5, stream=8))


def test_a_small_space_is_tried_whole() -> None:
    assert list(candidates({"a": [1, 2], "b": [3]}, 20, 0)) == [{}, {"a": 1, "b": 3}, {"a": 2, "b": 3}]


def test_the_first_of_equal_scores_wins(tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    for settings, score in (('{"a": 1}', 0.5), ('{"a": 2}', 0.7), ('{"a": 3}', 0.7)):
        trials.add("m", settings, score)
    assert trials.best("m") == Trials(tmp_path).best("m") == {"a": 2}


def test_equal_trials_for_all_and_the_best_is_used(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, dict[str, Any]]] = []

    def score(study: Any, folder: Any, name: str, seed: int, chosen: Any, settings: Any) -> float:
        asked.append((name, seed, dict(chosen)))
        return chosen.get("model.clip", 0.0) + seed / 1000

    monkeypatch.setattr(tuning, "_score", score)
    out = tmp_path / "out"
    found = tune(Study.read(path), out, only=None, settings=[])
    assert {name: sum(n == name for n, _, _ in asked) for name in METHODS} == dict.fromkeys(METHODS, 3 * 2)
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(METHODS)
    best = yaml.safe_load(found.read_text())
    for name in METHODS:
        clips = [chosen.get("model.clip", 0.0) for n, _, chosen in asked if n == name]
        assert best[name].get("model.clip", 0.0) == max(clips)
    asked.clear()
    tune(Study.read(path), out, only=None, settings=[])
    assert asked == []  # all was known
    found.rename(tmp_path / "tuned.yaml")
    study = Study.read(path)
    for name in METHODS:
        assert study.methods[name].settings == best[name]


def test_a_trial_trains_and_is_judged_on_validation(path: Path, tmp_path: Path) -> None:
    study, out = Study.read(path), tmp_path / "out"
    assert study.search is not None
    study.search.trials, study.search.seeds = 2, [100]
    tune(study, out, only=["fedavg"], settings=["decentralized.schedule.local_steps=2"])
    scores = Trials(out).scores.values()
    assert len(scores) == len(set(scores)) == 2  # the settings reach the run
    assert all(0 < score < 1 for score in scores)


@pytest.mark.parametrize("diverges", [False, True])
@pytest.mark.parametrize("scores", [Accuracies(3, "main"), Precisions(1, 0.5), Regression()])
def test_a_trial_is_judged_by_the_metric_by_which_peers_are_compared(
    scores: Any, diverges: bool, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that diverges has the least value there is: below 0 where others may be, as of a regression."""
    study, asked = Study.read(path), list[str]()
    model = SimpleNamespace(scores=scores, metrics={"a": {scores.main: 0.25}, "b": {scores.main: 0.75}})

    def fit(*_: Any, **__: Any) -> None:
        asked.append("fit")
        if diverges:
            raise DivergedError

    trainer = SimpleNamespace(fit=fit, validate=lambda *_, **__: asked.append("validate"))
    run = SimpleNamespace(model=model, trainer=trainer, datamodule=None)
    monkeypatch.setattr(study, "configure", lambda *_, **__: run)
    tune(study, tmp_path / "out", only=["fedavg"], settings=[])
    assert set(Trials(tmp_path / "out").scores.values()) == {scores.least if diverges else 0.5}
    assert asked == ["fit", "validate"][: 1 + (not diverges)] * 3 * 2


def test_a_method_like_another_takes_its_tuned_settings_below_its_own(path: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    first, second = list(METHODS)[:2]
    content["methods"][second] |= {"like": first, "settings": {"model.clip": 7.0}}
    path.write_text(yaml.safe_dump(content))
    found = {first: {"model.clip": 2.0, "data.init_args.seed": 3}, second: {"model.clip": 9.0}}
    (tmp_path / "tuned.yaml").write_text(yaml.safe_dump(found))
    study = Study.read(path)
    assert study.methods[first].settings == found[first]
    assert study.methods[second].settings == {"model.clip": 7.0, "data.init_args.seed": 3}
    content["methods"][second]["like"] = "nobody"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="is like 'nobody'"):
        Study.read(path)


def test_a_method_like_another_is_not_tuned(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(path.read_text())
    first, second = list(METHODS)[:2]
    content["methods"][second]["like"] = first
    path.write_text(yaml.safe_dump(content))
    asked: list[str] = []

    def score(study: Any, folder: Any, name: str, *others: Any) -> float:
        asked.append(name)
        return 0.5

    monkeypatch.setattr(tuning, "_score", score)
    found = tune(Study.read(path), tmp_path / "out", only=None, settings=[])
    assert second not in asked
    with pytest.raises(ConfigError, match=f"'{second}' takes the settings of '{first}': tune that"):
        tune(Study.read(path), tmp_path / "out", only=[second], settings=[])
    assert set(yaml.safe_load(found.read_text())) == set(asked) == set(METHODS) - {second}


def test_a_star_stands_for_every_fleet(path: Path) -> None:
    study = Study.read(path)
    assert study.spread("fedavg", {"model.peers.*.learning_rate_scale": 2, "model.clip": 1}) == {
        "model.peers.cameras.learning_rate_scale": 2,
        "model.peers.microphones.learning_rate_scale": 2,
        "model.clip": 1,
    }


def test_what_cannot_be_tuned_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no method sgd"):
        tune(Study.read(path), tmp_path / "out", only=["sgd"], settings=[])
    content = yaml.safe_load(path.read_text())
    del content["search"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="has no 'search'"):
        tune(Study.read(path), tmp_path / "out", only=None, settings=[])
