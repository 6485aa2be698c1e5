"""``mmkd fit | validate | test | predict``: LightningCLI with a cohort, its data and its coordinator."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import mmkd.encoding
import mmkd.federated
import mmkd.knowledge
import mmkd.students
import mmkd.topology  # the classes that a configuration may name briefly
from mmkd.callbacks.decentralized import DecentralizedCallback
from mmkd.callbacks.recorder import Recorder
from mmkd.cohort.cohort import Cohort
from mmkd.cohort.trainer_options import check_options
from mmkd.data.peers import PeerDataModule

__all__ = ["MmkdCLI", "mmkd"]


class OneLineParser(LightningArgumentParser):
    """Says what is wrong in one line; the usage of a Trainer would fill the screen."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and leave with status 2."""
        sys.stderr.write(f"mmkd: {one_line(message)}\n")
        raise SystemExit(2) from ex


NOISE = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>")
"""How lines begin in which jsonargparse tells about types that nobody meant."""


def one_line(message: str) -> str:
    """The lines of a message that say what is wrong, joined."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return " ".join(dict.fromkeys(line for line in lines if line and not line.startswith(NOISE)))


class SaveConfig(SaveConfigCallback):
    """Saves the configuration beside what the recorder writes, and in the logger's run."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml``, and hand the whole configuration to the logger."""
        text = self.parser.dump(self.config)
        recorder = next(c for c in trainer.callbacks if isinstance(c, Recorder))  # type: ignore[attr-defined]  # untyped in Lightning
        recorder.write("config.yaml", text)
        for logger in trainer.loggers:
            logger.log_hyperparams({"config": yaml.safe_load(text)})


class MmkdCLI(LightningCLI):
    """Trains a ``Cohort`` on a ``PeerDataModule``, coordinated by a ``DecentralizedCallback``.

    The coordinator and the recorder have top-level keys of their own, ``decentralized`` and
    ``recorder``: ``trainer.callbacks`` is replaced whole by a second configuration file. The number
    of classes and the seed are linked, never written twice.
    """

    def __init__(self, args: list[str] | None = None, *, run: bool = True, **trainer_defaults: Any) -> None:
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

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Refuse options before Lightning starts a process for each device."""
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        check_options(trainer)
        return trainer

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args`` if given, without a word about ``sys.argv``: a study runs many in turn."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the coordinator and the recorder, and link what is derived."""
        parser.add_lightning_class_args(DecentralizedCallback, "decentralized")
        parser.add_lightning_class_args(Recorder, "recorder")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
