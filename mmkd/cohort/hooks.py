"""The hooks of a student that Lightning would call and a cohort never does, and a warning that names them."""

from __future__ import annotations

import warnings

from lightning.pytorch import LightningModule
from lightning.pytorch.core.hooks import CheckpointHooks, DataHooks, ModelHooks

from mmkd.students.base import Student

_STEPS = (
    *("training_step", "validation_step", "test_step", "predict_step", "configure_callbacks"),
    *("backward", "manual_backward", "configure_gradient_clipping", "clip_gradients"),
    *("optimizer_step", "optimizer_zero_grad", "lr_scheduler_step"),
)
"""Hooks of a LightningModule itself; its other methods are called by students or by a cohort."""
HOOKS = (
    *_STEPS,
    *(n for kind in (ModelHooks, DataHooks, CheckpointHooks) for n in vars(kind) if n[0] != "_"),
)
"""Names of all hooks that a cohort never calls."""


def unheard(student: Student) -> list[str]:
    """Hooks that the student's author has written, and manual optimisation if the student asks for it."""
    own = [name for name in HOOKS if not _given(_definer(type(student), name))]
    return own if student.automatic_optimization else [*own, "automatic_optimization"]


def warn_of_hooks(student: Student, fleet: str) -> None:
    """Warn once of the hooks of a fleet's students that nobody calls."""
    if names := unheard(student):
        kind, hooks = type(student).__name__, ", ".join(names)
        warnings.warn(
            f"{kind} of fleet '{fleet}' has {hooks}, which act only where it trains alone: a cohort asks"
            " for private_loss and configure_optimizers; write a callback for the rest",
            stacklevel=2,
        )


def _definer(kind: type, name: str) -> type:
    return next((c for c in kind.__mro__ if name in vars(c)), LightningModule)


def _given(definer: type) -> bool:
    """Whether a class is of Lightning, torch or mmkd, whose hooks need no warning."""
    return definer.__module__.partition(".")[0] in ("lightning", "mmkd", "torch")
