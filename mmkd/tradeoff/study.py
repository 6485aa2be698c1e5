"""A study as its file says it: methods, seeds and settings, and each of its runs, ready to start."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from lightning.pytorch.callbacks import ModelCheckpoint

from mmkd.bounds import Made, Seed, Size, bounded, refusal
from mmkd.configuration import read_yaml
from mmkd.errors import ConfigError
from mmkd.names import near, no_file
from mmkd.spelling import mistake

if TYPE_CHECKING:
    from mmkd.cli import MmkdCLI

ALL = "all"
"""What stands for every method on the command line, and is the name of none."""


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
            _refuse_unknown(str(path), content, [f.name for f in fields(cls)])
            raise ConfigError(f"{path} is no study: it needs 'methods'")
        methods = {}
        for name, method in _part(content.pop("methods"), f"{path}: methods").items():
            if why := "stands for all methods" if name == ALL else no_file(name):
                raise ConfigError(f"{path}: a method cannot be called {name!r}, which {why}")
            methods[name] = _made(Method, method, f"{path}: methods.{name}")
        search = content.pop("search", None)
        content["search"] = None if search is None else _made(Search, search, f"{path}: search")
        study = _made(cls, {**content, "methods": methods}, str(path), path=path)
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
                    f"{near(method.like, methods)}"
                )
            else:
                method.settings = found.get(method.like, {}) | method.settings
        for method in methods.values():
            for config in [*study.configs, *method.configs]:
                if not (path.parent / config).is_file():
                    beside = (path.parent / config).parent.glob("*.yaml")
                    like = near(config, (str(Path(config).with_name(file.name)) for file in beside))
                    raise ConfigError(f"{path} names {config}, which does not exist beside it{like}")
        return study

    def check_methods(self, names: Iterable[str]) -> None:
        """Refuse names of methods that the study does not have."""
        for name in names:
            if name not in self.methods:
                like = near(name, self.methods) or f"; it has {', '.join(self.methods)}"
                raise ConfigError(f"the study has no method {name}{like}")

    def configure(
        self, folder: Path, name: str, seed: int, settings: Sequence[str], *, keep: bool = True
    ) -> MmkdCLI:
        """A run of a method, ready to start.

        Args:
            folder: what it writes to.
            name: of the method.
            seed: of the run.
            settings: that win over all others.
            keep: whether it writes checkpoints.

        Raises:
            ConfigError: a setting has a name that a run does not know.
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
        if (wrong := mistake(["fit", *arguments])) is not None:
            raise ConfigError(f"{self.path}: methods.{name}: {wrong}")
        arguments += [f"--seed_everything={seed}", f"--recorder.folder={folder}"]
        # W&B would print a page after every run, and Lightning its tips before.
        os.environ.setdefault("WANDB_SILENT", "true")
        for logger in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        last = folder / "checkpoint" / "last.ckpt"
        checkpoint = ModelCheckpoint(last.parent, filename=last.stem, enable_version_counter=False)
        callbacks = [checkpoint] if keep else []
        try:
            return MmkdCLI(arguments, run=False, callbacks=callbacks, default_root_dir=str(folder))
        except ConfigError as refused:  # which does not say of which method
            raise ConfigError(f"{self.path}: methods.{name}: {refused}") from refused

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


def _part(content: Any, where: str) -> dict[str, Any]:
    """The content of a part of a file that has keys of its own."""
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigError(
            f"{where}: give names and what belongs to them, such as 'methods:', not {content!r}"
        )
    return content


def _made(kind: type[Made], content: Any, where: str, **more: Any) -> Made:
    """A dataclass from what a file says of it, which is of the types and in the bounds of the fields.

    Args:
        kind: the dataclass.
        content: what the file says.
        where: file and key, for errors.
        more: fields that a file does not say.
    """
    hints, given = get_type_hints(kind, include_extras=True), _part(content, where)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]  # of a dataclass
    known = [f.name for f in fields(kind) if f.name not in more]  # type: ignore[arg-type]  # of a dataclass
    _refuse_unknown(where, given, known)
    for name in [*given, *(name for name in needed if name not in more)]:
        if name not in given:
            raise ConfigError(f"{where} is no {kind.__name__.lower()}: it needs '{name}'")
        if wrong := refusal(hints[name], given[name]):
            raise ConfigError(f"{where}: {name} must {wrong}")
    return kind(**given, **more)


def _refuse_unknown(where: str, given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{where} has no '{name}'{near(name, known)}; it has {', '.join(known)}")
