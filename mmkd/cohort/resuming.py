"""Where a saved run goes on: Lightning's loops are set so that nothing that follows a block is left out."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mmkd.data.loading import ENDED
from mmkd.types import ConfigError


class Resuming(Callback):
    """Writes into a checkpoint how Lightning's loops go on, and refuses one from which they cannot."""

    def __init__(self) -> None:
        self._evaluating = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on scores of a part of the samples are counted, which no checkpoint holds."""
        self._evaluating = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All samples are evaluated; callbacks that save are called later."""
        self._evaluating = False

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """See ``finish_block``."""
        each = trainer.val_check_interval  # a float is a share of an epoch, an int a number of batches
        within = isinstance(each, int) or each != 1.0 or trainer.check_val_every_n_epoch is None
        loops = checkpoint["loops"]["fit_loop"]
        if loops["epoch_loop.batch_progress"]["total"]["started"]:
            finish_block(loops, evaluating=self._evaluating, evaluates_within_epochs=within)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse what was saved in the middle of a block.

        Raises:
            ConfigError: it was.
        """
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        if trainer.state.fn == "fit" and progress["started"] > progress["processed"]:
            raise ConfigError(
                "this checkpoint was saved in the middle of a block of local steps, where no run can go on;"
                " resume from one that was saved after a block"
            )


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
        evaluates_within_epochs: whether an evaluation may follow any block, and not the last of an epoch alone.
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
