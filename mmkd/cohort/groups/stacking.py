"""One module that holds the tensors of many students, and batches as ``vmap`` takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd.students.base import Student
from mmkd.types import Batch, Batches, Target


def stack_into(template: Student, others: Iterator[Student], rows: int) -> list[str]:
    """Let a student's parameters and saved buffers hold all rows, ``[rows, ...]``; names those buffers.

    Args:
        template: the student of the first row.
        others: those of the next rows, none of which is kept; rows without one begin with the weights of
            the first.
        rows: how many.
    """
    saved = set(template.state_dict())
    stacks = dict([*template.named_parameters(), *template.named_buffers()])
    stacks = {name: tensor for name, tensor in stacks.items() if name in saved}
    with torch.no_grad():
        for tensor in stacks.values():
            tensor.data = tensor.detach()[None].repeat(rows, *[1] * tensor.dim())
        for row, student in enumerate(others, 1):
            for name, tensor in [*student.named_parameters(), *student.named_buffers()]:
                if name in saved:
                    stacks[name][row] = tensor
    return [name for name, _ in template.named_buffers() if name in saved]


def one_name_each(saved: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Every name under which tensors are saved, by the first name of that tensor; and tensors by that.

    A tied tensor has several names and is one tensor: it is stacked, stepped and sent once.
    """
    first = dict[Tensor, str]()
    names = {name: first.setdefault(tensor, name) for name, tensor in saved.items()}
    return names, {name: tensor for tensor, name in first.items()}


def tensors_of(batches: Batches) -> tuple[Any, ...]:
    """Tensors of the rows' batches; an empty tuple stands for a missing one: ``vmap`` takes no None."""
    y, target, keep, labelled = batches.y, batches.target, batches.keep, batches.labelled
    return (
        batches.x,
        () if y is None else y,
        batches.ids,
        () if target is None else target[:2],
        () if keep is None else keep,
        () if labelled is None else labelled,
    )


def batch_of(x: Any, y: Any, ids: Tensor, *rest: Any) -> Batch:
    """The batch of one row, from its part of the tensors that ``tensors_of`` gives."""
    y, target, keep, labelled = (None if isinstance(t, tuple) and not t else t for t in (y, *rest))
    return Batch(x, y, ids, 0, target and Target(*target), keep, labelled)
