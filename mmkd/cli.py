"""``mmkd fit | validate | test | predict``: LightningCLI with a cohort, its data and its coordinator."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import mmkd.augmentation
import mmkd.encoding
import mmkd.federated
import mmkd.knowledge
import mmkd.students
import mmkd.topology  # registers the classes that a configuration may name by their last word
from mmkd.callbacks.decentralized import DecentralizedCallback
from mmkd.callbacks.recorder import PREDICTIONS, Recorder, words
from mmkd.cohort.cohort import Cohort
from mmkd.cohort.trainer_options import check_options
from mmkd.configuration import check_yaml, read_yaml
from mmkd.data.peers import PeerDataModule
from mmkd.errors import ConfigError
from mmkd.names import near

__all__ = ["MmkdCLI", "mmkd"]


as_given = get_loader("yaml")
"""How jsonargparse itself reads YAML."""


def strictly(text: str, path: str = "") -> Any:
    """What jsonargparse makes of YAML, in a file or in an argument, after ``check_yaml``."""
    check_yaml(text, path or "the command line")
    return as_given(text)


set_loader("yaml", strictly, exceptions=(yaml.YAMLError,))


PARTS = ("data", "decentralized", "model", "recorder", "trainer")
"""Keys of a configuration below which there are others."""


class OneLineParser(LightningArgumentParser):
    """A parser that says what is wrong in one line, without the long usage of a Trainer."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(with_near_names(one_line(message))) from ex

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Read a configuration, whose faults are told with file and line."""
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise ConfigError(f"{path} is no configuration: give it keys, such as 'model:'")
        for name in PARTS:
            if not isinstance(content.get(name, {}), dict | str):
                raise ConfigError(f"{path}: give '{name}' keys of its own, or leave it out")
        return super().parse_path(path, *args, **kwargs)  # type: ignore[no-any-return]  # untyped in Lightning


NOISE = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>")
"""Beginnings of lines in which jsonargparse names types that the user did not mean."""


def one_line(message: str) -> str:
    """The lines of an error message that say what is wrong, joined to one."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return " ".join(dict.fromkeys(line for line in lines if line and not line.startswith(NOISE)))


def with_near_names(line: str) -> str:
    """A line with names of classes or arguments that are like one that is not there."""
    if found := re.search(r"Option '(\w+)' is not accepted", line):
        arguments = {name for kind in _classes() for name in inspect.signature(kind).parameters}
        return f"{line}{near(found[1], arguments)}"
    before, said, name = line.partition("Expected a dot import path string: ")
    if not said:
        return line
    known = {kind.__name__ for kind in _classes() if not inspect.isabstract(kind)}
    like = near(name.split()[0], known) or "; a class of your own goes by its import path"
    return f"{before}there is no class '{name.split()[0]}'{like}"


def _classes() -> list[type]:
    packages = (
        mmkd.augmentation,
        mmkd.encoding,
        mmkd.federated,
        mmkd.knowledge,
        mmkd.students,
        mmkd.topology,
    )
    return [value for package in packages for value in vars(package).values() if isinstance(value, type)]


class SaveConfig(SaveConfigCallback):
    """Saves the configuration beside what the recorder writes, and in the logger's run."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml`` of a fit, and hand the whole configuration to the logger."""
        text = self.parser.dump(self.config)
        if stage == "fit":
            _recorder(trainer).write("config.yaml", text)
        for logger in trainer.loggers:
            logger.log_hyperparams(dict(flat(yaml.safe_load(text))))
            if hasattr(logger, "introduce"):  # our own, whose module takes seconds to import
                logger.introduce(*introduction(trainer, pl_module))


def flat(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted names; lists as JSON."""
    if isinstance(node, dict):
        for name, child in node.items():
            yield from flat(child, f"{key}.{name}" if key else name)
    else:
        yield key, json.dumps(node) if isinstance(node, list) else node


def introduction(trainer: Any, cohort: Any) -> tuple[str, list[str], list[dict[str, Any]]]:
    """Name and tags of a run, and a row for each of its peers (at most a thousand)."""
    method = next(c for c in trainer.callbacks if isinstance(c, DecentralizedCallback)).method
    name = words(method, " + ")
    modalities, data = cohort.roster[0], trainer.datamodule
    peers = [
        {
            "peer": name,
            "modality": modalities[name],
            "student": type(group.students()[0]).__name__,
            "samples": data.samples_of(name),
        }
        for group in cohort.groups
        for name in group.names
    ]
    tags = [*name.split(" + "), *dict.fromkeys(modalities.values())]
    return f"{name}, seed {data.seed}", tags, peers[:1000]


def _recorder(trainer: Any) -> Recorder:
    return next(c for c in trainer.callbacks if isinstance(c, Recorder))


class MmkdCLI(LightningCLI):
    """Trains a ``Cohort`` on a ``PeerDataModule``, coordinated by a ``DecentralizedCallback``.

    The coordinator and the recorder have top-level keys of their own, ``decentralized`` and
    ``recorder``: ``trainer.callbacks`` is replaced whole by a second configuration file. The number
    of classes and the seed are linked, never written twice.
    """

    def __init__(self, args: list[str] | None = None, *, run: bool = True, **trainer_defaults: Any) -> None:
        self._asked = args[0] if args else ""
        super().__init__(
            Cohort,
            PeerDataModule,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults=trainer_defaults,
            seed_everything_default=0,
            parser_class=OneLineParser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
            run=run,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # a static method in Lightning
        """The one that is asked for, if it is known: parsers for all four take half a second."""
        every = LightningCLI.subcommands()
        return {self._asked: every[self._asked]} if self._asked in every else every

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Refuse options before Lightning starts a process for each device.

        Raises:
            ConfigError: an option has no meaning for a cohort, or none for Lightning.
        """
        try:
            trainer: Trainer = super().instantiate_trainer(**kwargs)
        except TypeError as error:  # which Lightning raises of some values that are out of range
            raise ConfigError(f"trainer: {one_line(str(error))}") from error
        check_options(trainer)
        return trainer

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args`` if given, without a warning about ``sys.argv``: a study calls this many times."""
        self.config = parser.parse_args(args)

    def after_fit(self) -> None:
        """Say where the run is, how well its peers do, and what they have sent."""
        print(_recorder(self.trainer).summary(self.trainer, self.model), file=sys.stderr)

    def after_predict(self) -> None:
        """Say where the predictions are."""
        recorder = _recorder(self.trainer)
        assert recorder.folder is not None
        print(f"predictions: {recorder.folder / PREDICTIONS}", file=sys.stderr)

    def before_predict(self) -> None:
        """Say that nobody has learnt anything, where no checkpoint was named."""
        self._as_they_begin()

    def before_test(self) -> None:
        """As before predictions."""
        self._as_they_begin()

    def before_validate(self) -> None:
        """As before predictions."""
        self._as_they_begin()

    def _as_they_begin(self) -> None:
        if self.config[self.config.subcommand].ckpt_path is None:
            print("mmkd: students are as they begin: no --ckpt_path was given", file=sys.stderr)

    def instantiate_classes(self) -> None:
        """Make what the configuration names. A value that a constructor refuses is the user's, and one line.

        Raises:
            ConfigError: with what torch, Lightning or another library says of the value.
        """
        try:
            super().instantiate_classes()
            coordination = next(c for c in self.trainer.callbacks if isinstance(c, DecentralizedCallback))  # type: ignore[attr-defined]  # untyped in Lightning
            coordination.method.check_settings(self.model.roster[0])
        except ConfigError:
            raise
        except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
            raise ConfigError(one_line(str(error)) or type(error).__name__) from error

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the coordinator and the recorder, and link what is derived."""
        parser.add_lightning_class_args(DecentralizedCallback, "decentralized")
        parser.add_lightning_class_args(Recorder, "recorder")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
