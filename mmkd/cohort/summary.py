"""A callback that prints the fleets of a cohort, instead of Lightning's summary of its modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelSummary

from mmkd.cohort.groups.base import Group
from mmkd.cohort.groups.stacked import StackedGroup
from mmkd.types import Modality, PeerName


class FleetSummary(Callback):
    """Prints who trains, before a fit: students, their sizes, and whether they train side by side.

    Lightning's own summary shows one list of modules, whose parameters are those of all peers of a stack, and
    no operations.

    Args:
        groups: those of the cohort.
        modalities: what each peer reads.
    """

    def __init__(self, groups: Sequence[Group], modalities: Mapping[PeerName, Modality]) -> None:
        self._groups, self._modalities = groups, modalities

    def on_fit_start(self, trainer: Trainer, *args: Any) -> None:
        """Print the table once, in the main process."""
        if trainer.is_global_zero:
            print(table(self._groups, self._modalities))


def instead_of_modules(trainer: Trainer, summary: FleetSummary) -> list[Callback]:
    """The summary, if the trainer was going to print one of its own, which is taken away."""
    shown = [c for c in trainer.callbacks if isinstance(c, ModelSummary)]  # type: ignore[attr-defined]  # untyped in Lightning
    trainer.callbacks = [c for c in trainer.callbacks if c not in shown]  # type: ignore[attr-defined]  # see above
    return [summary] if shown else []


def table(groups: Sequence[Group], modalities: Mapping[PeerName, Modality]) -> str:
    """A line for each group: fleet, peers, modality, student, parameters of one peer, and how it trains."""
    rows = [("Fleet", "Peers", "Reads", "Student", "Parameters", "Trains")]
    for group in groups:
        student = group.student(0)
        rows.append(
            (
                group.names[0].rpartition("/")[0],
                str(len(group.names)),
                modalities[group.names[0]],
                type(student).__name__,
                f"{sum(p.numel() for p in student.parameters()):,}",
                "side by side" if isinstance(group, StackedGroup) else "one after the other",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = (1, 4)
    lines = [
        "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
