"""A study: runs of methods times seeds, in turn or side by side, which can be resumed."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from tqdm import tqdm

import mmkd
from mmkd.bounds import Made, Seed, Size, bounded, refusal
from mmkd.configuration import read_yaml, text_of
from mmkd.files import replacing
from mmkd.processes import each
from mmkd.types import ConfigError, DivergedError

if TYPE_CHECKING:
    from mmkd.cli import MmkdCLI

PACKAGES = ("torch", "lightning", "timm", "transformers", "torchaudio", "torchmetrics", "wandb")
"""Packages whose versions are saved with a study."""


@dataclass
class Method:
    """One row of a study.

    Args:
        label: what the report calls it.
        family: ``none``, ``weights``, ``knowledge``, ``both`` or ``ceiling``.
        configs: files besides those of the study, relative to the study file.
        settings: single settings, as on the command line of ``mmkd fit``.
        description: a sentence for the report.
        search: values of settings to try when the study is tuned, besides those of ``Search``.
        like: the method whose tuned settings this one takes, where it has none of its own; it is not tuned.
    """

    label: str
    family: Literal["none", "weights", "knowledge", "both", "ceiling"]
    configs: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    description: str = ""
    search: dict[str, list[Any]] = field(default_factory=dict)
    like: str | None = None


@bounded
@dataclass
class Search:
    """The search for settings of a study: which values are tried, and how often.

    Args:
        trials: of each method; the first takes the settings as the study has them, the others draw every
            setting anew, uniformly from its values. If there are fewer combinations, all are tried.
        seeds: that are not reported; a trial's score is the mean over them.
        settings: values of settings that all methods search.
    """

    trials: Size = 20
    seeds: list[Seed] = field(default_factory=lambda: [100])
    settings: dict[str, list[Any]] = field(default_factory=dict)


@bounded
@dataclass
class Study:
    """The content of a study file; see ``configs/study/``.

    In the name of a setting ``model.peers.*`` stands for every fleet. Settings of a method win over those
    of the study, and what tuning has found for it wins over both.
    """

    path: Path
    name: str
    title: str
    seeds: list[Seed]
    configs: list[str]
    methods: dict[str, Method]
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that all methods share; a method's own settings replace them."""
    tuning: str = ""
    notes: list[str] = field(default_factory=list)
    search: Search | None = None
    tuned: str | None = None
    """A file beside the study that ``mmkd tune`` wrote: settings by method."""

    @classmethod
    def read(cls, path: Path) -> Study:
        """Read a study file.

        Raises:
            ConfigError: the file is missing or no study.
        """
        if not path.is_file():
            raise ConfigError(f"there is no study file {path}")
        content = dict(_part(read_yaml(path), str(path)))
        if "methods" not in content:
            raise ConfigError(f"{path} is no study: it needs 'methods'")
        methods = {
            name: _made(Method, method, f"{path}: methods.{name}")
            for name, method in _part(content.pop("methods"), f"{path}: methods").items()
        }
        search = content.pop("search", None)
        content["search"] = None if search is None else _made(Search, search, f"{path}: search")
        study = _made(cls, {**content, "path": path, "methods": methods}, str(path))
        if not study.seeds or not methods or (study.search is not None and not study.search.seeds):
            raise ConfigError(f"{path} is no study: give it methods and seeds, and its search seeds")
        found: dict[str, dict[str, Any]] = {}
        if study.tuned is not None and (path.parent / study.tuned).is_file():
            tuned = path.parent / study.tuned
            found = {
                n: _part(settings, f"{tuned}: {n}")
                for n, settings in _part(read_yaml(tuned), str(tuned)).items()
            }
        for name, method in methods.items():
            if method.like is None:
                method.settings |= found.get(name, {})
            elif method.like not in methods:
                raise ConfigError(
                    f"{path}: '{name}' is like '{method.like}', which is no method of the study"
                )
            else:
                method.settings = found.get(method.like, {}) | method.settings
        for method in methods.values():
            for config in [*study.configs, *method.configs]:
                if not (path.parent / config).is_file():
                    raise ConfigError(f"{path} names {config}, which does not exist beside it")
        return study

    def run(
        self,
        out: Path,
        *,
        command: str,
        only: list[str] | None = None,
        seeds: list[int] | None = None,
        settings: list[str] | None = None,
        jobs: int = 1,
    ) -> None:
        """Run what has no result yet; a run that was cut off goes on from its last checkpoint.

        A method that diverges is noted and the study goes on.

        Args:
            out: the results folder.
            command: the command that started the study, for the report.
            only: methods, instead of all.
            seeds: instead of those of the study.
            settings: of every run.
            jobs: runs side by side, each in a process of its own with its part of the threads.

        Raises:
            ConfigError: ``out`` holds another study, ``only`` names no method of it, or there are no jobs.
        """
        unknown = [name for name in only or [] if name not in self.methods]
        if unknown:
            raise ConfigError(
                f"the study has no method {', '.join(unknown)}; it has {', '.join(self.methods)}"
            )
        chosen = seeds if seeds is not None else self.seeds
        for name in only or self.methods:  # an error in the last method must show at once and not after hours
            self.configure(out, name, chosen[0], settings or [])
        self._claim(out, command, chosen, settings or [])
        runs = [(name, seed) for seed in chosen for name in only or self.methods]
        ends = each(jobs, partial(self._end, out, settings or []), runs)
        failed = {}
        with tqdm(runs, desc=self.name, unit="run", position=0, dynamic_ncols=True) as bar:
            for name, seed in bar:
                bar.set_postfix_str(f"{name}, seed {seed}")
                if reason := next(ends):
                    failed[f"{name}, seed {seed}"] = reason
        for run, reason in failed.items():
            print(f"mmkd: {run} has no result: {reason}")

    def _end(self, out: Path, settings: list[str], run: tuple[str, int]) -> str | None:
        """Finish a run, unless it has a result; returns why it has none, if it diverged."""
        name, seed = run
        folder = out / "runs" / name / f"seed{seed}"
        if not (folder / "result.json").exists():
            try:
                self._run(folder, name, seed, settings)
            except DivergedError as error:
                _write(folder / "failed.json", {"reason": str(error)})
                return str(error)
        return None

    def _claim(self, out: Path, command: str, seeds: list[int], settings: list[str]) -> None:
        """Write ``study.json``; refuse a folder that holds another study."""
        texts = {
            str(name): text_of(self.path.parent / name)
            for method in self.methods.values()
            for name in [*self.configs, *method.configs]
        }
        identity = {
            "name": self.name,
            "configs": dict(sorted(texts.items())),
            "methods": {name: asdict(method) for name, method in self.methods.items()},
            "shared": self.settings,
            "settings": settings,
        }
        marker = out / "study.json"
        known: list[int] = []
        if marker.exists():
            saved = json.loads(marker.read_text())
            if saved.get("identity") != identity:
                raise ConfigError(
                    f"{out} already holds another study ('{saved.get('name')}' with other settings or"
                    " files); choose another --out, or move it away"
                )
            known = saved["seeds"]
        elif out.exists() and any(out.iterdir()):
            raise ConfigError(f"{out} is not empty and holds no study; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        page = {
            "name": self.name,
            "title": self.title,
            "methods": {
                name: {"label": m.label, "description": m.description, "family": m.family}
                for name, m in self.methods.items()
            },
            "seeds": sorted({*known, *seeds}),
            "command": command,
            "versions": {"mmkd": mmkd.__version__, "python": platform.python_version()}
            | {name: version(name) for name in PACKAGES},
            "machine": {
                "cores": os.cpu_count(),
                "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            },
            "tuning": self.tuning,
            "notes": self.notes,
            "identity": identity,
        }
        _write(marker, page)

    def configure(
        self, folder: Path, name: str, seed: int, settings: list[str], *, keep: bool = True
    ) -> MmkdCLI:
        """A run of a method, ready to start.

        Args:
            folder: what it writes to.
            name: of the method.
            seed: of the run.
            settings: that win over all others.
            keep: whether it writes checkpoints.
        """
        from mmkd.cli import MmkdCLI

        method = self.methods[name]
        files = [self.path.parent / config for config in [*self.configs, *method.configs]]
        arguments = [f"--config={file}" for file in files]
        # The study has a progress bar of its own.
        arguments += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
        for key, value in self.spread(name, self.settings | method.settings).items():
            arguments.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
        arguments += [f"--{setting}" for setting in settings]
        arguments += [f"--seed_everything={seed}", f"--recorder.folder={folder}"]
        # W&B would print a page after every run, and Lightning its tips before.
        os.environ.setdefault("WANDB_SILENT", "true")
        for logger in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        last = folder / "checkpoint" / "last.ckpt"
        checkpoint = ModelCheckpoint(last.parent, filename=last.stem, enable_version_counter=False)
        callbacks = [checkpoint] if keep else []
        return MmkdCLI(arguments, run=False, callbacks=callbacks, default_root_dir=str(folder))

    def spread(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a method, those of ``model.peers.*`` given to each fleet."""
        fleets: list[str] = []
        for config in [*self.configs, *self.methods[name].configs]:
            content = read_yaml(self.path.parent / config) or {}
            fleets = list(content.get("model", {}).get("peers", {})) or fleets
        flat: dict[str, Any] = {}
        for key, value in settings.items():
            flat |= {key.replace("model.peers.*", f"model.peers.{f}"): value for f in fleets} or {key: value}
        return flat

    def _run(self, folder: Path, name: str, seed: int, settings: list[str]) -> None:
        from mmkd.cohort.checkpoints import whole

        os.environ.update(WANDB_RUN_GROUP=self.name, WANDB_NAME=f"{name}-seed{seed}", WANDB_DIR=str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        last = folder / "checkpoint" / "last.ckpt"
        cli = self.configure(folder, name, seed, settings)
        going_on = last if last.exists() else None
        if going_on is not None and (reason := whole(going_on)):
            tqdm.write(f"mmkd: {name}, seed {seed} begins anew: {reason}")
            going_on = None
        try:
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=going_on)
            cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        finally:
            wandb = sys.modules.get("wandb")  # a run that it does not track need not import it
            if wandb is not None and wandb.run is not None:
                wandb.finish()
        from mmkd.tradeoff.settings import changed

        self._reference(folder.parents[2], seed, cli.datamodule)
        outcome = json.loads((folder / "outcome.json").read_text())
        shown = changed(yaml.safe_load(cli.parser.dump(cli.config)))
        shown.pop("model.seed", None)  # so that the runs of a method have equal settings
        _write(folder / "result.json", {"method": name, "seed": seed, "settings": shown, **outcome})
        shutil.rmtree(last.parent, ignore_errors=True)
        (folder / "outcome.json").unlink()
        (folder / "failed.json").unlink(missing_ok=True)

    def _reference(self, out: Path, seed: int, data: Any) -> None:
        """Write the data's reference scores of a seed, if the datamodule has any."""
        path = out / "references" / f"seed{seed}.json"
        if not path.exists() and hasattr(data, "references"):
            _write(path, {m: data.references(m) for m in data.modalities})


def _part(content: Any, where: str) -> dict[str, Any]:
    """The content of a part of a file that has keys of its own."""
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigError(
            f"{where}: give names and what belongs to them, such as 'methods:', not {content!r}"
        )
    return content


def _made(kind: type[Made], content: Any, where: str) -> Made:
    """A dataclass from what a file says of it, which is of the types and in the bounds of the fields."""
    hints, given = get_type_hints(kind, include_extras=True), _part(content, where)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]  # of a dataclass
    for name in [*given, *needed]:
        if name not in hints:
            raise ConfigError(f"{where} has no '{name}'; it has {', '.join(hints)}")
        if name not in given:
            raise ConfigError(f"{where} is no {kind.__name__.lower()}: it needs '{name}'")
        if wrong := refusal(hints[name], given[name]):
            raise ConfigError(f"{where}: {name} must {wrong}")
    return kind(**given)


def _write(path: Path, content: Any) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1))
