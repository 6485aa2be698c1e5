"""The group whose students are stacked along the peer axis and trained in one vectorised step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from mmkd.cohort.groups.active_rows import ActiveRows, Where
from mmkd.cohort.groups.base import Group, joined, objective
from mmkd.cohort.groups.chunks import out_of_memory, rows_together, warn_of_memory
from mmkd.cohort.groups.gradients import Gradients
from mmkd.cohort.groups.local_optimizer import local_optimizer
from mmkd.cohort.groups.norms import row_norms
from mmkd.cohort.groups.recorded import Recorded
from mmkd.cohort.groups.row_optimizer import RowOptimizer
from mmkd.cohort.groups.rowwise import rowwise
from mmkd.cohort.groups.sequential import Call, predictions_of
from mmkd.cohort.groups.stacking import batch_of, one_name_each, stack_into, tensors_of
from mmkd.cohort.scaling import unscaled
from mmkd.data.blocks import slice_rows
from mmkd.functional.random import key_of_text, keyed, text_of
from mmkd.functional.trees import scale_rows_
from mmkd.students.base import Student
from mmkd.types import Batch, Batches, PeerName, Predictions, Views


class StackedGroup(Group):
    """One student module whose parameters and saved buffers hold all rows: ``[peers, ...]``.

    Buffers that are not saved (a window, a filter bank) are the same for all and stay as they are.
    Gradients agree with the one-after-the-other path up to rounding; random layers agree in
    distribution only, because the rows share one stream.

    Args:
        names: of the peers.
        ids: what keys their random streams.
        students: of each row in turn, none of which is kept; or a single one, with whose weights all begin.
        folder: where rows that are not active are parked (see ``ActiveRows``).
    """

    def __init__(
        self,
        names: Sequence[PeerName],
        ids: Sequence[str],
        students: Iterable[Student],
        folder: Path | None = None,
    ) -> None:
        super().__init__(names, ids)
        self._folder, self._everybody = folder, text_of(*ids)
        rest = iter(students)
        template = copy.deepcopy(next(rest))
        # In a tuple, so that torch takes the blueprint neither for a submodule nor for state.
        self._blueprint = (copy.deepcopy(template),)
        self._stacked_buffers = stack_into(template, rest, len(names))
        self._call = Call(template)
        self._rows: RowOptimizer | None = None
        self.recorded: Recorded | None = None
        self.chunk: int | None = None
        """How many rows go through the student together; computed at the first step, if not set."""
        self._find_tensors()

    def _find_tensors(self) -> None:
        """Note the tensors by name: collecting names from a LightningModule takes longer than a step."""
        self._saved, live = one_name_each(self._template.state_dict(keep_vars=True))
        self._active = ActiveRows(live, len(self.names), self._folder)
        self._named = dict(self._template.named_parameters())
        self._names: dict[Tensor, str] = {p: name for name, p in self._named.items()}
        self._gradients = Gradients()

    @property
    def _learned(self) -> list[str]:
        """Names, as ``functional_call`` takes them, of parameters that are not frozen at this step."""
        return [f"student.{n}" for n, p in self._named.items() if p.requires_grad]

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Move the tensors of all rows, those that are parked included, as ``nn.Module`` does."""
        self._active.activate(range(len(self.names)))
        moved = super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]  # torch has no types here
        self._blueprint[0]._apply(*args, **kwargs)  # type: ignore[no-untyped-call]  # buffers that nobody saves
        self._find_tensors()
        return moved

    def activate(self, rows: Sequence[int]) -> None:
        """Keep the rows that take the coming local steps together in memory until others are named."""
        self._active.activate(rows)
        if self._rows is not None:
            self._rows.active.activate(rows)

    @property
    def _template(self) -> Student:
        return self._call.student

    @property
    def _engine(self) -> RowOptimizer:
        if self._rows is None:
            raise RuntimeError("build_optimizers comes first")
        return self._rows

    def students(self) -> list[Student]:
        """The one module that holds all rows."""
        return [self._template]

    def student(self, row: int) -> Student:
        """A student made on demand, whose tensors are views of the row."""
        return next(self.visit([row]))

    def visit(self, rows: Sequence[int]) -> Iterator[Student]:
        """One copy of the blueprint, whose tensors are views of each row in turn."""
        student = copy.deepcopy(self._blueprint[0]).train(self.training)
        student._trainer = self._template._trainer
        named = dict([*student.named_parameters(), *student.named_buffers()])
        named = {name: tensor for name, tensor in named.items() if name in self._active.live}
        for row in rows:
            for name, tensor in named.items():
                tensor.data = self._active.view(name, row)
            yield student

    # --- losses and predictions, a chunk of rows at a time ------------------------------------------

    def _at(self, where: Where, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The chunk's part of the active rows' tensors, under the names that ``functional_call`` takes."""
        return {f"student.{n}": t if where is None else t[where] for n, t in tensors.items()}

    def differentiate(
        self,
        batches: Batches,
        scale: Float[Tensor, " rows"] | None,
        backward: Callable[[Float[Tensor, ""]], None],
    ) -> Float[Tensor, " rows"]:
        """Mean loss of each peer of ``batches``, chunk by chunk; out of memory, chunks are halved."""
        rows = self.rows(batches.peers)
        if not all(row in self._active for row in rows):
            self.activate(range(len(self.names)))
        losses, start = [], 0
        # No row has a gradient yet, and all active rows are about to get one: no addition is needed.
        alone = len(rows) == len(self._active.rows) and all(p.grad is None for p in self._named.values())
        while start < len(rows):
            stop = min(start + self._chunk(batches), len(rows))
            part = slice_rows(batches, start, stop)
            factor = None if scale is None else scale[start:stop]
            try:
                losses.append(self._descend(rows[start:stop], part, factor, backward, alone))
            except RuntimeError as error:
                if stop - start == 1 or not out_of_memory(error):
                    raise
                if alone and start == 0:  # some gradients may already be written
                    for p in self._named.values():
                        p.grad = None
                self.chunk = (stop - start) // 2
                warn_of_memory(stop - start, self.chunk)
                continue
            start = stop
        return losses[0] if len(losses) == 1 else torch.cat(losses)

    def _descend(
        self,
        rows: list[int],
        batches: Batches,
        scale: Tensor | None,
        backward: Callable[[Tensor], None],
        alone: bool,
    ) -> Tensor:
        """Losses of a chunk; gradients and buffers are written last, so a failed chunk can be repeated."""
        where = self._active.where(rows)
        live = {n: t.detach() for n, t in self._active.live.items()}
        buffers = {n: live[n] if where is None else live[n][where] for n in self._stacked_buffers}
        changed = {f"student.{n}": b.clone() for n, b in buffers.items()}
        parameters = self._at(where, {n: live[n] for n in self._named})
        inputs = (changed, *tensors_of(batches))
        replayed, learned = None, self._learned
        seed = sum(batches.keys) & (2**63 - 1)  # the same for every order of rows
        if self.recorded is not None and self.training:
            replayed = self.recorded(seed, learned, parameters, *inputs)
        if replayed is None:
            at_home = alone and where is None
            leaves = self._at(None, self._named) if at_home else parameters
            for n in learned if not at_home else ():
                leaves[n].requires_grad_()
            losses = self._rowwise(self._loss, seed, leaves, *inputs)
        if replayed is not None:
            gradients, losses = replayed
            if scale is not None:
                scale_rows_(gradients, scale)
            self._gradients.add(where, self._by_parameter(gradients), alone)
        else:
            backward((losses if scale is None else losses * scale).sum())
            if not at_home:
                reached = {n: g for n in learned if (g := leaves[n].grad) is not None}
                self._gradients.add(where, self._by_parameter(reached), alone)
        for n, buffer in changed.items():
            live[n.removeprefix("student.")][... if where is None else where] = buffer
        detached: Tensor = losses.detach()
        return detached

    def _by_parameter(self, gradients: Mapping[str, Tensor]) -> dict[Tensor, Tensor]:
        """Gradients by parameter, from their names in ``functional_call``."""
        return {self._named[n.removeprefix("student.")]: g for n, g in gradients.items()}

    def _loss(self, p: Any, b: Any, *tensors: Any) -> Tensor:
        """Loss of one row; an empty tuple stands for a part of the batch that is None."""
        return cast(Tensor, functional_call(self._call, {**p, **b}, (objective, batch_of(*tensors))))

    @torch.no_grad()
    def terms(self, function: Callable[[Student, Batch], Tensor], batches: Batches) -> Float[Tensor, " rows"]:
        """The count that ``function`` makes of each peer's batch."""

        def count(p: Any, b: Any, *tensors: Any) -> Tensor:
            return cast(Tensor, functional_call(self._call, {**p, **b}, (function, batch_of(*tensors))))

        rows, counts = self.rows(batches.peers), []
        for start in range(0, len(rows), self._chunk(batches)):
            part = slice_rows(batches, start, start + self._chunk(batches))
            taken = self._taken(rows[start : start + self._chunk(batches)])
            counts.append(self._rowwise(count, sum(part.keys), *taken, *tensors_of(part)))
        return torch.cat(counts)

    def _rowwise(self, function: Callable[..., Any], seed: int, *stacks: Any) -> Any:
        """Apply a function of one row to every row by ``vmap``; random layers draw from one stream."""
        with keyed(seed & (2**63 - 1), self._template.device):
            return rowwise(function, self.names[0].rpartition("/")[0], *stacks)

    def _taken(
        self, rows: Sequence[int], *, copied: bool = True
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters and buffers of rows, named as ``functional_call`` takes them; buffers are copies."""
        tensors = self._active.read(rows)
        buffers = {n: tensors[n].clone() if copied else tensors[n] for n in self._stacked_buffers}
        return self._at(None, {n: tensors[n] for n in self._named}), self._at(None, buffers)

    def _chunk(self, batches: Batches) -> int:
        """How many rows go through the student in one pass; if not set, from the memory of one row."""
        if self.chunk is None:
            row = self.rows(batches.peers)[:1]
            # Copies, because a view would be counted with all of the tensor behind it.
            inputs = tree_map(torch.clone, tensors_of(slice_rows(batches, 0, 1)))
            own = {f"student.{n}": t.detach().clone() for n, t in self._active.read(row).items()}
            loss, device = partial(self._rowwise, self._loss, 0), self._template.device
            self.chunk = rows_together(loss, own, self._learned, ({}, *inputs), device)
        return self.chunk

    def record(self, *, compile: bool) -> None:
        """Replay recorded losses and gradients from now on, instead of running the student's Python."""
        self.recorded = Recorded(self._loss, compile=compile)

    def predict(self, rows: Sequence[int], x: Views, stream: int | None = None) -> Predictions:
        """Predictions of the rows on the same samples ``x``, in chunks where no gradient is needed."""
        size = len(rows) if torch.is_grad_enabled() or self.chunk is None else self.chunk
        parts = []
        for start in range(0, len(rows), max(size, 1)):
            taken = self._taken(rows[start : start + size], copied=self.training)
            seed = key_of_text(text_of(stream or 0), self._everybody)
            parts.append(self._rowwise(partial(self._predictions, x=x), seed, *taken))
        return joined(parts)

    def taught_losses(self, batches: Batches) -> Float[Tensor, " rows"]:
        """Losses of public samples against their targets, with gradients; statistics stay as they are."""
        taken = self._taken(self.rows(batches.peers))
        return cast(Tensor, self._rowwise(self._loss, sum(batches.keys), *taken, *tensors_of(batches)))

    def predict_own(self, batches: Batches) -> Predictions:
        """Predictions of each peer of ``batches`` on its own samples."""
        taken = self._taken(self.rows(batches.peers))
        return cast(Predictions, self._rowwise(self._predictions, sum(batches.keys), *taken, batches.x))

    def _predictions(self, p: Any, b: Any, x: Views) -> Predictions:
        """Predictions of one row on ``x``."""
        return cast(Predictions, functional_call(self._call, {**p, **b}, (predictions_of, x)))

    # --- gradients and weights along the peer axis ---------------------------------------------------

    def parameters_of(self, rows: Sequence[int]) -> dict[str, Float[Tensor, "rows ..."]]:
        """Parameters that may leave a peer: the group's own if these are all active rows, else copies."""
        tensors = self._active.read(rows)
        return {n: tensors[n].detach() for n in self.travelling(buffers=False)}

    def gradients(self, rows: Sequence[int]) -> dict[str, Float[Tensor, "rows ..."]]:
        """Gradients that a loss has reached: the group's own if these are all active rows, else copies."""
        self._gradients.lent, places = True, self._active.places(rows)
        found = {n: self._named[n].grad for n in self.travelling(buffers=False)}
        return {n: g if places is None else g[places] for n, g in found.items() if g is not None}

    def load_gradients(self, rows: Sequence[int], gradients: dict[str, Float[Tensor, "rows ..."]]) -> None:
        """Overwrite the rows' gradients."""
        self._gradients.lent, places = True, self._active.places(rows)
        for name, stacked in gradients.items():
            if places is None:
                self._named[name].grad = stacked
            else:
                self._named[name].grad[places] = stacked  # type: ignore[index]  # a loss has reached it

    @torch.enable_grad()
    def gradients_at(
        self, batches: Batches, at: Mapping[str, Float[Tensor, "1 ..."]]
    ) -> dict[str, Float[Tensor, "rows ..."]]:
        """Gradient of each peer's private loss at weights ``at``."""
        rows, found = self.rows(batches.peers), []
        for start in range(0, len(rows), self._chunk(batches)):
            part = slice_rows(batches, start, start + self._chunk(batches))
            parameters, buffers = self._taken(rows[start : start + self._chunk(batches)])
            # An expanded leaf keeps one row in memory for all peers; it is read, never written.
            leaves = {
                n: t.expand(len(part.peers), *t.shape[1:]).detach().requires_grad_() for n, t in at.items()
            }
            parameters = {n: p.detach() for n, p in parameters.items()} | self._at(None, leaves)
            with unscaled(self._template.device):
                losses = self._rowwise(self._loss, sum(part.keys), parameters, buffers, *tensors_of(part))
            found.append(torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True))
        return {
            n: parts[0] if len(parts) == 1 else torch.cat(parts) for n, *parts in zip(at, *found, strict=True)
        }

    def clip(self, rows: Sequence[int], limit: float) -> None:
        """Scale each row's gradient to an L2 norm of at most ``limit``."""
        self._engine.clip(limit)

    def advance(self, rows: Sequence[int]) -> None:
        """Optimizer and schedule step of each row; gradients are cleared."""
        self._engine.step(rows)
        for p in self._engine.parameters:
            p.grad = None
        self._gradients.forget()
        self._engine.step_schedules(rows)

    def finite(self, rows: Sequence[int]) -> list[int]:
        """The rows whose gradients are all finite."""
        return self._engine.finite(rows)

    def drop(self, rows: Sequence[int]) -> None:
        """Clear the gradients of rows."""
        self._engine.drop(rows)

    def weights(self, rows: Sequence[int], *, buffers: bool) -> dict[str, Float[Tensor, "rows ..."]]:
        """A copy of the weights that may leave a peer, stacked."""
        tensors, live = self._active.read(rows), list(rows) == self._active.rows
        names = self.travelling(buffers=buffers)
        return {n: tensors[n].detach().clone() if live else tensors[n].detach() for n in names}

    def norms(self, rows: Sequence[int]) -> Float[Tensor, " rows"]:
        """L2 norm of each row's weights."""
        return row_norms(self._active.read(rows), self._stacked_buffers)

    def load(self, rows: Sequence[int], weights: dict[str, Float[Tensor, "rows ..."]]) -> None:
        """Overwrite the rows' weights."""
        self._active.write(rows, weights)

    def build_optimizers(self, scales: Sequence[float]) -> None:
        """Ask the student for an optimizer once a row, and scale each row's learning rate.

        Meanwhile parameters have the shape of one student, since a student may group them by dimension.

        Raises:
            ConfigError: the optimizer cannot act on stacked parameters.
        """
        self.activate(range(len(self.names)))
        stacks = {p: p.data for p in self._template.parameters()}
        rows = []
        for row, scale in enumerate(scales):
            for p, stack in stacks.items():
                p.data = stack[row]
            rows.append(local_optimizer(self._template, scale))
        for p, stack in stacks.items():
            p.data = stack
        self._rows = RowOptimizer(rows, self._folder)

    def follow(self, factor: float) -> None:
        """Each row's."""
        for local in self._engine.rows:
            local.follow(factor)

    def optimizers(self) -> list[Optimizer]:
        """The optimizers that hold the rows' hyper-parameters."""
        return self._engine.optimizers

    def reset_optimizer(self, row: int) -> None:
        """Forget the row's optimizer state; its schedule goes on."""
        self._engine.reset(row)

    def optimizer_state(self, row: int) -> dict[str, Any]:
        """Optimizer and schedule state of a row by parameter name."""
        return self._engine.saved(row, self._names)

    def load_optimizer_state(self, row: int, state: dict[str, Any]) -> None:
        """Load a row's saved optimizer and schedule state, whichever kind of group saved it."""
        self._engine.load(row, self._names, state)

    def tensors(self, row: int) -> Iterator[tuple[str, Tensor]]:
        """Name and a view of the row of everything that a student of this kind saves."""
        for name, live in self._saved.items():
            yield name, self._active.view(live, row)
