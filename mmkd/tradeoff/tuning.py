"""Tuning: the same number of trials for every method, judged on validation samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import yaml
from tqdm import tqdm

from mmkd.files import replacing
from mmkd.functional.random import key
from mmkd.launch import calls
from mmkd.launch.cluster import Cluster
from mmkd.lock import holding
from mmkd.processes import each
from mmkd.tables import read_rows, write_rows
from mmkd.tradeoff.study import Study
from mmkd.types import ConfigError, DivergedError


def candidates(space: Mapping[str, Sequence[Any]], trials: int, stream: int) -> Iterator[dict[str, Any]]:
    """The settings of each trial: at first those of the study, then draws without repetition."""
    yield {}
    size = prod(len(values) for values in space.values())
    names = sorted(space)
    if size < trials:
        for drawn in product(*(space[name] for name in names)):
            yield dict(zip(names, drawn, strict=True))
        return
    seen: set[str] = set()
    attempt = 0
    while len(seen) < trials - 1:
        chosen = {n: space[n][key(stream, attempt, n) % len(space[n])] for n in names}
        attempt += 1
        text = json.dumps(chosen, sort_keys=True)
        if text not in seen:
            seen.add(text)
            yield chosen


class Trials:
    """The table of trials in a folder; a search that was cut off goes on from it.

    Args:
        folder: where ``trials.csv`` is.

    Raises:
        ConfigError: it is broken.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "trials.csv"
        self.scores: dict[tuple[str, str], float] = {}
        if self.path.is_file():
            try:
                with self.path.open(newline="") as file:
                    for row in read_rows(file):
                        self.scores[row["method"], row["settings"]] = float(row["score"])
            except (OSError, ValueError, KeyError) as error:
                raise ConfigError(f"{self.path} cannot be read ({error}); restore it, or remove it") from None

    def add(self, method: str, settings: str, score: float) -> None:
        """Add a trial's score to the file, which is replaced at once."""
        self.scores[method, settings] = score
        with replacing(self.path) as part, part.open("w", newline="") as file:
            tried = ((name, score, text) for (name, text), score in self.scores.items())
            write_rows(file, [("method", "score", "settings"), *tried])

    def best(self, method: str) -> dict[str, Any]:
        """The settings with the greatest score; of equal scores, those that were tried first."""
        tried = [(score, text) for (name, text), score in self.scores.items() if name == method]
        chosen: dict[str, Any] = json.loads(max(tried, key=lambda pair: pair[0])[1])
        return chosen


class Trial(NamedTuple):
    """Settings of a method that are tried."""

    number: int  # among all trials of a search
    method: str
    chosen: dict[str, Any]

    @property
    def text(self) -> str:
        """The settings, as the table of trials has them."""
        return json.dumps(self.chosen, sort_keys=True)


def tune(
    study: Study,
    folder: Path,
    *,
    only: Sequence[str] | None,
    settings: Sequence[str],
    jobs: int = 1,
    cluster: Cluster | None = None,
) -> Path:
    """Try settings for every method, and write the best of each to ``folder/tuned.yaml``.

    Args:
        study: what is tuned.
        folder: of ``trials.csv``, which no other process may hold.
        only: methods, instead of all.
        settings: of every trial.
        jobs: trials side by side, each in a process of its own with its part of the threads.
        cluster: where trials are made in place of that.

    Raises:
        ConfigError: the study says nothing about a search, ``only`` names no method of it or one that is like
            another, there are no jobs, or a machine of the cluster does not see ``folder``.
        LostError: a process was killed.
    """
    if study.search is None:
        raise ConfigError(f"{study.path} has no 'search', which says what to try")
    study.check_methods(only or ())
    search = study.search
    borrowed = {name: m.like for name, m in study.methods.items() if m.like is not None}
    for name in only or ():
        if name in borrowed:
            raise ConfigError(f"'{name}' takes the settings of '{borrowed[name]}': tune that")
    names = [name for name in only or study.methods if name not in borrowed]
    plan = [
        (name, chosen)
        for name in names
        for chosen in candidates(
            search.settings | study.methods[name].search, search.trials, key("tune", study.name, name)
        )
    ]
    with holding(folder):
        trials = Trials(folder)
        every = [Trial(number, *one) for number, one in enumerate(plan)]
        due = [trial for trial in every if (trial.method, trial.text) not in trials.scores]
        do = partial(_tried, study, folder, search.seeds, settings)
        if cluster is None:
            scores = each(jobs, do, due)
        else:
            asked = {_accelerator(study, folder, name, search.seeds[0], settings) for name in names}
            scores = calls.each(cluster, do, due, folder=folder, accelerators=asked)
        bar = tqdm(due, f"{study.name}, tuning", len(plan), initial=len(plan) - len(due), unit="trial")
        with closing(scores), bar:
            for trial in bar:
                bar.set_postfix_str(f"{trial.method} {trial.text}")
                trials.add(trial.method, trial.text, next(scores))
        shutil.rmtree(folder / "trials", ignore_errors=True)
        path = folder / "tuned.yaml"
        with replacing(path) as part:
            part.write_text(yaml.safe_dump({name: trials.best(name) for name in names}))
    return path


def _accelerator(study: Study, folder: Path, name: str, seed: int, settings: Sequence[str]) -> str:
    """What the trainer of a method asks for."""
    return str(study.configure(folder, name, seed, settings, keep=False).config.trainer.accelerator)


def _tried(study: Study, folder: Path, seeds: Sequence[int], settings: Sequence[str], trial: Trial) -> float:
    """The mean score of a trial over seeds; of what its runs write nothing is kept."""
    own = folder / "trials" / str(trial.number)
    score = fmean(_score(study, own, trial.method, seed, trial.chosen, settings) for seed in seeds)
    shutil.rmtree(own, ignore_errors=True)
    return score


def _score(
    study: Study, folder: Path, name: str, seed: int, chosen: Mapping[str, Any], settings: Sequence[str]
) -> float:
    """The metric by which peers are compared, on validation samples; its least value if training diverges."""
    given = [
        f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in study.spread(name, chosen).items()
    ]
    quiet = ["trainer.logger=false", "trainer.enable_checkpointing=false", "trainer.limit_val_batches=0"]
    from mmkd.callbacks.run_folder import begin_anew

    begin_anew(folder)
    cli = study.configure(folder, name, seed, [*settings, *given, *quiet], keep=False)
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    except DivergedError:
        return float(cli.model.scores.least)
    cli.trainer.limit_val_batches = 1.0
    cli.trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
    return fmean(metrics[cli.model.scores.main] for metrics in cli.model.metrics.values())
