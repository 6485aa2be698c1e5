"""Where a saved run goes on: Lightning's loops are set so that nothing that follows a block is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from mmkd.cohort.build import Built
from mmkd.cohort.checkpoints import ADVICE, WholeCheckpoints
from mmkd.cohort.identity import SETTINGS, differences, settings_of
from mmkd.cohort.joining import coordination_of
from mmkd.data.loading import ENDED
from mmkd.description import Setting
from mmkd.types import ConfigError


class Resuming(Callback):
    """Writes into a checkpoint how Lightning's loops go on, and refuses one from which this run cannot.

    Args:
        built: the cohort's groups.
        settings: of the cohort, by name.
    """

    def __init__(self, built: Built, settings: Mapping[str, Any]) -> None:
        self._built, self._settings = built, settings
        self._saved: dict[str, Setting] | None = None
        self._own: dict[str, Setting] = {}
        self._evaluating = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have checkpoints written whole, unless the trainer was given a plugin that writes them."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a checkpoint of a run with other settings.

        Raises:
            ConfigError: settings differ that decide what is computed; they are named.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning types it too late
        self._own = settings_of(self._built, data, coordination_of(trainer), self._settings)
        self._own["trainer.precision"] = trainer.precision
        saved, self._saved = self._saved, None
        if saved is not None and (found := differences(saved, self._own)):
            raise ConfigError(
                f"the checkpoint is of a run with other settings: {found}; go on with those that were saved,"
                " or begin a new run"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on scores of a part of the samples are counted, which no checkpoint holds."""
        self._evaluating = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All samples are evaluated; callbacks that save are called later."""
        self._evaluating = False

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the settings of the run, and see ``finish_block``."""
        if self._own:
            checkpoint[SETTINGS] = self._own
        each = trainer.val_check_interval  # a float is a share of an epoch, an int a number of batches
        within = isinstance(each, int) or each != 1.0 or trainer.check_val_every_n_epoch is None
        loops = checkpoint["loops"]["fit_loop"]
        if loops["epoch_loop.batch_progress"]["total"]["started"]:
            finish_block(loops, evaluating=self._evaluating, evaluates_within_epochs=within)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse what was saved in the middle of a block, or without the settings of its run.

        Raises:
            ConfigError: it was.
        """
        if trainer.state.fn != "fit":
            return
        if SETTINGS not in checkpoint:
            raise ConfigError(f"the checkpoint is of an older mmkd, which saved no settings; {ADVICE}")
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        if progress["started"] > progress["processed"]:
            raise ConfigError(
                "this checkpoint was saved in the middle of a block of local steps, where no run can go on;"
                " resume from one that was saved after a block"
            )
        self._saved = checkpoint[SETTINGS]


def finish_block(loops: dict[str, Any], *, evaluating: bool, evaluates_within_epochs: bool) -> None:
    """Have a run that is saved as a block ends do what follows the block, once it goes on.

    Lightning 2.6 takes a batch for done once its last hooks have begun, and goes on with the next batch: of a
    run that was saved there, it leaves out the evaluation and the end of the epoch, and after a second resume
    it takes an epoch too many. Of one that was saved within an evaluation, it goes on with a part of the
    samples, while the scores of the others are lost. Here the block counts as not taken yet, and the loader
    hands out an empty one in its place: hooks, evaluation and the end of the epoch follow by themselves.

    Args:
        loops: state of the fit loop in a checkpoint; it is changed.
        evaluating: whether an evaluation has begun and not ended.
        evaluates_within_epochs: whether an evaluation may follow any block, not the last of an epoch alone.
    """
    progress = loops["epoch_loop.batch_progress"]
    current = progress["current"]
    ending = current["started"] == current["processed"] > current["completed"]
    if not evaluating and not (ending and (progress["is_last_batch"] or evaluates_within_epochs)):
        return
    for counts in (current, progress["total"]):  # as if the hooks of the block before had just begun
        counts["ready"] = counts["started"] = counts["processed"] = counts["processed"] - 1
        counts["completed"] = counts["processed"] - 1
    progress["is_last_batch"] = False
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
    evaluation = loops["epoch_loop.val_loop.batch_progress"]
    for counts in (evaluation["current"], evaluation["total"]):
        counts.update(dict.fromkeys(counts, 0))
    for loader in loops["state_dict"]["combined_loader"]:
        loader[ENDED] = True
