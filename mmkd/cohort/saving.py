"""A checkpoint of one peer's student, which loads without a cohort."""

from __future__ import annotations

from pathlib import Path

import lightning
import torch

from mmkd.files import replacing
from mmkd.students.base import Student


def write_student(student: Student, path: str | Path, *, epoch: int, step: int) -> None:
    """Write a Lightning checkpoint that the student's class loads with ``load_from_checkpoint``.

    Args:
        student: whose tensors may be views of a stack; they are copied.
        path: of the file, which is replaced at once (``mmkd.files``).
        epoch: Lightning's count of epochs.
        step: Lightning's count of steps.
    """
    checkpoint = {
        "state_dict": {n: t.detach().cpu().clone() for n, t in student.state_dict().items()},
        student.CHECKPOINT_HYPER_PARAMS_KEY: dict(student.hparams),
        "pytorch-lightning_version": lightning.__version__,
        "epoch": epoch,
        "global_step": step,
    }
    with replacing(Path(path)) as part:
        torch.save(checkpoint, part)
