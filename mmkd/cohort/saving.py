"""A checkpoint of one peer's student, which loads without a cohort."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path

import lightning

from mmkd.cohort.checkpoints import write
from mmkd.students.base import Student


def write_student(student: Student, path: str | Path, *, epoch: int, step: int) -> None:
    """Write a Lightning checkpoint that the student's class loads with ``load_from_checkpoint``.

    Args:
        student: whose tensors may be views of a stack; they are copied.
        path: of the file, which is replaced at once (``mmkd.files``).
        epoch: Lightning's count of epochs.
        step: Lightning's count of steps.
    """
    kind = type(student)
    needed = [
        name
        for name, p in list(inspect.signature(kind.__init__).parameters.items())[1:]
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if missing := [name for name in needed if name not in student.hparams]:
        warnings.warn(
            f"{kind.__name__} does not save {', '.join(missing)}, which load_from_checkpoint then has to be"
            " given: call self.save_hyperparameters() in its __init__",
            stacklevel=3,
        )
    checkpoint = {
        "state_dict": {n: t.detach().cpu().clone() for n, t in student.state_dict().items()},
        student.CHECKPOINT_HYPER_PARAMS_KEY: dict(student.hparams),
        "pytorch-lightning_version": lightning.__version__,
        "epoch": epoch,
        "global_step": step,
    }
    write(checkpoint, Path(path))
