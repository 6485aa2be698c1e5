"""Options of a Trainer: those that have no meaning for a cohort are refused, and limits count whole rounds.

``docs/trainer.md`` has a table of all options.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.strategies import SingleDeviceStrategy

from mmkd.schedule import Timetable
from mmkd.types import ConfigError

PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed")
"""Precisions in which a cohort computes, in Lightning's words."""


def check_options(trainer: Any) -> None:
    """Refuse options of a Trainer without a meaning for a cohort, by name and with what there is instead.

    Raises:
        ConfigError: such an option is set.
    """
    # Lightning has no types for most of this, and keeps some of it nowhere else.
    given: Any = trainer._accelerator_connector
    one = "a cohort trains all its peers in one process on one device"
    options: list[tuple[str, Any, bool, str]] = [
        (
            "devices",
            trainer.num_devices,
            trainer.num_devices == 1,
            f"{one}, and each would train every peer and write a ledger: set it to 1",
        ),
        ("num_nodes", trainer.num_nodes, trainer.num_nodes == 1, f"{one}: set it to 1"),
        (
            "strategy",
            type(trainer.strategy).__name__,
            isinstance(trainer.strategy, SingleDeviceStrategy),
            f"{one}: leave it out",
        ),
        (
            "plugins",
            type(given._cluster_environment_flag).__name__,
            given._cluster_environment_flag is None,
            f"{one}: leave cluster environments out",
        ),
        (
            "sync_batchnorm",
            type(given._layer_sync).__name__,
            given._layer_sync is None,
            "normalisation statistics belong to each peer: leave it out, and layer plugins",
        ),
        (
            "use_distributed_sampler",
            given.use_distributed_sampler,
            bool(given.use_distributed_sampler),
            f"{one}, and its samples have an order of their own: leave it out",
        ),
        (
            "precision",
            trainer.precision,
            trainer.precision in PRECISIONS,
            f"a cohort computes in {', '.join(PRECISIONS)}: choose one; weights in half precision round small"
            " steps away, and bf16-mixed keeps them in single precision",
        ),
        (
            "gradient_clip_val",
            trainer.gradient_clip_val,
            not trainer.gradient_clip_val,
            "one norm of all gradients would couple peers: set model.clip, which bounds that of each",
        ),
        (
            "gradient_clip_algorithm",
            trainer.gradient_clip_algorithm,
            trainer.gradient_clip_algorithm is None,
            "model.clip bounds the norm of each peer's gradient: leave it out",
        ),
        (
            "accumulate_grad_batches",
            trainer.accumulate_grad_batches,
            trainer.accumulate_grad_batches == 1,
            "a batch of Lightning's is a block of local steps: set data.batch_size for larger batches, and"
            " model.accumulate to cut them into parts",
        ),
        (
            "overfit_batches",
            trainer.overfit_batches,
            not trainer.overfit_batches,
            "a cohort draws its samples anew in every pass: give peers few samples and many epochs",
        ),
    ]
    for name, value, fine, instead in options:
        if not fine:
            raise ConfigError(f"trainer.{name} is {value}; {instead}")
    for callback in trainer.callbacks:
        if isinstance(callback, BatchSizeFinder | LearningRateFinder):
            raise ConfigError(
                f"{type(callback).__name__} tries one size or rate for all, and peers have their own:"
                " leave it out, and let `mmkd tune` search"
            )


def check_limits(trainer: Any, timetable: Timetable) -> None:
    """Let ``fast_dev_run`` count rounds; refuse limits by which training would end within a round.

    What is exchanged at the end of a round would never happen, and nobody would be told.

    Raises:
        ConfigError: such a limit.
    """
    ticks, blocks = timetable.round_ticks, timetable.blocks_per_round
    if trainer.fast_dev_run:
        rounds = int(trainer.fast_dev_run)
        trainer.limit_train_batches = rounds * blocks
        trainer.fit_loop.epoch_loop.max_steps = rounds * ticks
        return
    limit, length = trainer.limit_train_batches, timetable.rounds_per_epoch * blocks
    batches = min(limit, length) if isinstance(limit, int) else int(limit * length)
    if batches % blocks:
        raise ConfigError(
            f"trainer.limit_train_batches is {limit}, which ends an epoch within a round: a batch is a block"
            f" of at most {timetable.block} local steps, and a round has {blocks} of them; give a multiple of"
            f" {blocks}, set schedule.block to {ticks}, or trainer.fast_dev_run for one round"
        )
    if trainer.max_steps > 0 and trainer.max_steps % ticks:
        raise ConfigError(
            f"trainer.max_steps is {trainer.max_steps}, which ends training within a round of {ticks} local"
            f" steps; give {-(-trainer.max_steps // ticks) * ticks} or another multiple of {ticks}"
        )
