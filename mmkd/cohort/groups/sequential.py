"""The group whose students train one after the other, each a module with an optimizer of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from mmkd.cohort.groups.base import Group, objective, stacked
from mmkd.cohort.groups.local_optimizer import LocalOptimizer, local_optimizer
from mmkd.cohort.groups.norms import student_norm
from mmkd.cohort.scaling import unscaled
from mmkd.data.padding import trimmed
from mmkd.functional.random import key, keyed
from mmkd.students.base import Student
from mmkd.types import Batch, Batches, PeerName, Predictions, Target, Views


class Call(nn.Module):
    """Calls a function on a student, as a module, so that ``functional_call`` can replace its tensors."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """The result of ``function`` on the student and ``args``."""
        return function(self.student, *args)


def predictions_of(student: Student, x: Views) -> Predictions:
    """Predictions of a student on ``x``."""
    return student.predict(x)


class SequentialGroup(Group):
    """Students that train in turn by the operations of a student alone, so weights agree bit for bit."""

    def __init__(self, names: Sequence[PeerName], ids: Sequence[str], students: Iterable[Student]) -> None:
        super().__init__(names, ids)
        self._students = nn.ModuleList(students)
        self._optimizers: list[LocalOptimizer] = []

    def students(self) -> list[Student]:
        """The modules of all rows."""
        return [self.student(row) for row in range(len(self.names))]

    def visit(self, rows: Sequence[int]) -> Iterator[Student]:
        """The rows' own modules, in turn."""
        return map(self.student, rows)

    def student(self, row: int) -> Student:
        """The row's own module."""
        return self._students[row]  # type: ignore[return-value]  # a ModuleList of Students

    def activate(self, rows: Sequence[int]) -> None:
        """Nothing to do: every student has tensors of its own."""

    def differentiate(
        self,
        batches: Batches,
        scale: Float[Tensor, " rows"] | None,
        backward: Callable[[Float[Tensor, ""]], None],
    ) -> Float[Tensor, " rows"]:
        """Mean private loss of each peer of ``batches``; one graph at a time is held in memory."""
        losses = []
        for i, (row, batch) in enumerate(zip(self.rows(batches.peers), apart(batches), strict=True)):
            student = self.student(row)
            with keyed(batch.key, student.device):
                loss = objective(student, batch)
            backward(loss if scale is None else loss * scale[i])
            losses.append(loss.detach())
        return torch.stack(losses)

    @torch.no_grad()
    def terms(self, function: Callable[[Student, Batch], Tensor], batches: Batches) -> Float[Tensor, " rows"]:
        """The count that ``function`` makes of each peer's batch."""
        counts = []
        for row, batch in zip(self.rows(batches.peers), apart(batches), strict=True):
            student = self.student(row)
            with keyed(batch.key, student.device):
                counts.append(function(student, batch))
        return torch.stack(counts)

    def taught_losses(self, batches: Batches) -> Float[Tensor, " rows"]:
        """Losses of public samples against their targets, with gradients; statistics stay as they are."""
        losses = []
        for row, batch in zip(self.rows(batches.peers), apart(batches), strict=True):
            student = self.student(row)
            kept = {f"student.{n}": b.clone() for n, b in student.named_buffers()}
            with keyed(batch.key, student.device):
                losses.append(functional_call(Call(student), kept, (objective, batch)))
        return torch.stack(losses)

    def predict(self, rows: Sequence[int], x: Views, stream: int | None = None) -> Predictions:
        """Predictions of the rows on ``x``; each row has a random stream of its own."""
        outputs = []
        for row in rows:
            student = self.student(row)
            with keyed(key(stream or 0, self.ids[row]), student.device):
                if self.training:
                    kept = {f"student.{n}": b.clone() for n, b in student.named_buffers()}
                    outputs.append(functional_call(Call(student), kept, (predictions_of, x)))
                else:
                    outputs.append(student.predict(x))
        return stacked(outputs)

    def predict_own(self, batches: Batches) -> Predictions:
        """Predictions of each peer of ``batches`` on its own samples."""
        outputs = []
        for row, batch in zip(self.rows(batches.peers), apart(batches), strict=True):
            student = self.student(row)
            kept = {f"student.{n}": b.clone() for n, b in student.named_buffers()}
            with keyed(batch.key, student.device):
                outputs.append(functional_call(Call(student), kept, (predictions_of, batch.x)))
        return stacked(outputs)

    def parameters_of(self, rows: Sequence[int]) -> dict[str, Float[Tensor, "rows ..."]]:
        """A copy of the parameters that may leave a peer, stacked."""
        return self.weights(rows, buffers=False)

    def gradients(self, rows: Sequence[int]) -> dict[str, Float[Tensor, "rows ..."]]:
        """Gradients that a loss has reached, stacked."""
        parameters = [dict(self.student(row).named_parameters()) for row in rows]
        stacked = {}
        for name in self.travelling(buffers=False):
            gradients = [p[name].grad for p in parameters]
            if any(g is not None for g in gradients):
                like = parameters[0][name]
                stacked[name] = torch.stack([torch.zeros_like(like) if g is None else g for g in gradients])
        return stacked

    def load_gradients(self, rows: Sequence[int], gradients: dict[str, Float[Tensor, "rows ..."]]) -> None:
        """Overwrite the rows' gradients."""
        for i, row in enumerate(rows):
            parameters = dict(self.student(row).named_parameters())
            for name, rows_ in gradients.items():
                parameters[name].grad = rows_[i].clone()

    @torch.enable_grad()
    def gradients_at(
        self, batches: Batches, at: Mapping[str, Float[Tensor, "1 ..."]]
    ) -> dict[str, Float[Tensor, "rows ..."]]:
        """Gradient of each peer's private loss at weights ``at``."""
        gradients = []
        for row, batch in zip(self.rows(batches.peers), apart(batches), strict=True):
            student = self.student(row)
            leaves = {n: t[0].detach().clone().requires_grad_() for n, t in at.items()}
            kept = {f"student.{n}": b.clone() for n, b in student.named_buffers()}
            named = {f"student.{n}": leaf for n, leaf in leaves.items()}
            with keyed(batch.key, student.device), unscaled(student.device):
                loss = functional_call(Call(student), {**kept, **named}, (objective, batch))
            gradients.append(torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True))
        return {
            name: torch.stack(parts) for name, parts in zip(at, zip(*gradients, strict=True), strict=True)
        }

    def clip(self, rows: Sequence[int], limit: float) -> None:
        """Scale each row's gradient to an L2 norm of at most ``limit``, in optimizer order."""
        for row in rows:
            groups = self._optimizers[row].optimizer.param_groups
            nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], limit)

    def advance(self, rows: Sequence[int]) -> None:
        """Optimizer and schedule step of each row; gradients are cleared."""
        for row in rows:
            local = self._optimizers[row]
            local.optimizer.step()
            local.optimizer.zero_grad()
            local.advance()

    def finite(self, rows: Sequence[int]) -> list[int]:
        """The rows whose gradients are all finite."""
        return [row for row in rows if all(bool(g.isfinite().all()) for g in self._gradients_of(row))]

    def drop(self, rows: Sequence[int]) -> None:
        """Clear the gradients of rows."""
        for row in rows:
            self._optimizers[row].optimizer.zero_grad()

    def _gradients_of(self, row: int) -> Iterator[Tensor]:
        for group in self._optimizers[row].optimizer.param_groups:
            yield from (p.grad for p in group["params"] if p.grad is not None)

    def weights(self, rows: Sequence[int], *, buffers: bool) -> dict[str, Float[Tensor, "rows ..."]]:
        """A copy of the weights that may leave a peer, stacked."""
        names = self.travelling(buffers=buffers)
        states = [self.student(row).state_dict(keep_vars=True) for row in rows]
        return {name: torch.stack([state[name].detach() for state in states]) for name in names}

    @torch.no_grad()
    def norms(self, rows: Sequence[int]) -> Float[Tensor, " rows"]:
        """L2 norm of each row's weights."""
        own = [self.student(row) for row in rows]
        return torch.stack([student_norm(s.parameters(), s.buffers()) for s in own])

    @torch.no_grad()
    def load(self, rows: Sequence[int], weights: dict[str, Float[Tensor, "rows ..."]]) -> None:
        """Overwrite the rows' weights."""
        for i, row in enumerate(rows):
            state = self.student(row).state_dict(keep_vars=True)
            for name, rows_ in weights.items():
                state[name].copy_(rows_[i])

    def build_optimizers(self, scales: Sequence[float]) -> None:
        """Ask each student for its optimizer, and scale each row's learning rate."""
        self._optimizers = [local_optimizer(self.student(row), scale) for row, scale in enumerate(scales)]

    def follow(self, factor: float) -> None:
        """Each optimizer's."""
        for local in self._optimizers:
            local.follow(factor)

    def optimizers(self) -> list[Optimizer]:
        """One optimizer a row."""
        return [local.optimizer for local in self._optimizers]

    def reset_optimizer(self, row: int) -> None:
        """Forget the row's optimizer state; its schedule goes on."""
        self._optimizers[row].optimizer.state.clear()

    def optimizer_state(self, row: int) -> dict[str, Any]:
        """Optimizer and schedule state of a row by parameter name."""
        local = self._optimizers[row]
        names: dict[Tensor, str] = {p: name for name, p in self.student(row).named_parameters()}
        state = {names[p]: dict(kept) for p, kept in local.optimizer.state.items() if kept}
        return {"state": state, **local.state_dict()}

    def load_optimizer_state(self, row: int, state: dict[str, Any]) -> None:
        """Load a row's saved optimizer and schedule state, whichever kind of group saved it."""
        local = self._optimizers[row]
        optimizer, parameters = local.optimizer, dict(self.student(row).named_parameters())
        optimizer.state.clear()
        for name, kept in state["state"].items():
            p = parameters[name]
            optimizer.state[p] = {
                # Copied, because rows that trained together may share one saved step count.
                k: v.to(p.device if v.dim() else v.device, copy=True) if isinstance(v, Tensor) else v
                for k, v in kept.items()
            }
        local.load_state_dict(state)

    def tensors(self, row: int) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor (no copy) of everything that a student of this kind saves."""
        yield from self.student(row).state_dict(keep_vars=True).items()


def apart(batches: Batches) -> Iterator[Batch]:
    """The batch of each peer; a copy, because a kernel's rounding may depend on the alignment of memory.

    A student that trains alone reads tensors of its own, and must get the same bits.
    """
    for i, key_ in enumerate(batches.keys):
        x = trimmed(tree_map(lambda leaf, i=i: leaf[i].clone(), batches.x))
        y = None if batches.y is None else batches.y[i].clone()
        target = batches.target
        if target is not None:
            target = Target(target.values[i].clone(), target.weight[i].clone())
        keep = None if batches.keep is None else batches.keep[i].clone()
        labelled = None if batches.labelled is None else batches.labelled[i].clone()
        yield Batch(x, y, batches.ids[i].clone(), key_, target, keep, labelled)
