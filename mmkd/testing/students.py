"""The contract of a student, checked on a few samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from mmkd.cohort.groups.local_optimizer import local_optimizer
from mmkd.functional.random import keyed
from mmkd.students.base import Student, Teachable
from mmkd.testing.require import require
from mmkd.types import Batch, Classes, Target, Views


def check_student(
    make: Callable[[int], Student], x: Views, y: Tensor, *, num_classes: int | None = None
) -> None:
    """Check a student on a few labelled samples.

    It predicts the kind that it names; its loss is one finite number with a gradient; the loss or a
    prediction depends on every parameter that is trained, since all of them are sent; in evaluation mode
    its predictions of a sample depend on neither chance nor other samples; names that it calls
    personal are its own; it asks for one optimizer; two that are built from one seed begin alike.

    Args:
        make: builds the student from a number of classes.
        x: samples ``[batch, ...]`` as it reads them, at least two.
        y: their labels.
        num_classes: number of classes, tags or values; if left out, one more than the greatest label, or
            the width of labels that are several a sample.

    Raises:
        AssertionError: one of these does not hold; the message says which.
    """
    several = y.shape[1] if y.dim() == 2 else 0
    classes = num_classes if num_classes is not None else several or int(y.max()) + 1
    with keyed(1):
        student = make(classes)
    with keyed(1):
        twin = make(classes)
    name, size = type(student).__name__, len(y)
    require(bool(student.modalities), f"{name} names no modalities")
    own = dict(student.state_dict())
    for n, tensor in twin.state_dict().items():
        require(torch.equal(own[n], tensor), f"{name}: '{n}' differs from one draw of a seed to the next")
    require(student.personal <= own.keys(), f"{name} calls {sorted(student.personal - own.keys())} personal")
    local_optimizer(student)  # raises a ConfigError for optimizers that a cohort cannot use
    assert isinstance(local_optimizer(student).optimizer, Optimizer)
    student.train()
    with keyed(2):
        loss = student.private_loss(Batch(x, y, torch.arange(size), 0))
    require(loss.shape == (), f"{name}.private_loss gives {list(loss.shape)} and not one number")
    require(bool(loss.isfinite()), f"{name}.private_loss is {loss}")
    loss.backward()
    require(
        any(p.grad is not None and bool(p.grad.any()) for p in student.parameters()), f"{name} learns nothing"
    )
    _check_reached(student, x)
    student.eval()
    with torch.no_grad():
        predictions: Any = student.predict(x)
        again: Any = student.predict(x)
        one: Any = student.predict(tree_map(lambda t: t[:1], x))
    require(
        type(predictions) is student.gives,
        f"{name} gives {type(predictions).__name__}, not {student.gives.__name__}",
    )
    for field, a, b, first in zip(predictions._fields, predictions, again, one, strict=True):
        axis = 1 if field == "auxiliary" else 0
        require(a.shape[axis] == size, f"{name}: {field} is {list(a.shape)} for {size} samples")
        require(torch.equal(a, b), f"{name}: {field} depends on chance in evaluation mode")
        alone = torch.allclose(a.narrow(axis, 0, 1), first, atol=1e-4)
        require(alone, f"{name}: {field} of a sample depends on the samples beside it in evaluation mode")
    if isinstance(predictions, Classes):
        require(
            predictions.logits.shape == (size, classes),
            f"{name}: logits are {list(predictions.logits.shape)}",
        )
        if isinstance(student, Teachable):
            target = Target(torch.full((size, classes), 1 / classes), torch.ones(size))
            taught = student.taught_loss(x, target)
            require(taught.shape == () and bool(taught.isfinite()), f"{name}.taught_loss is no finite number")


def _check_reached(student: Student, x: Views) -> None:
    """Refuse parameters on which neither the loss, whose gradients are there, nor a prediction depends."""
    left = {name: p for name, p in student.named_parameters() if p.requires_grad and p.grad is None}
    if not left:  # such as heads that only others teach
        return
    with keyed(2):
        said: Any = student.predict(x)
    total = sum(field.double().sum() for field in said if field.requires_grad)
    reached = torch.autograd.grad(total, list(left.values()), allow_unused=True)
    for name, gradient in zip(left, reached, strict=True):
        require(
            gradient is not None,
            f"{type(student).__name__}: nothing depends on '{name}', which would be sent and never learn;"
            " take it away, or freeze it",
        )
