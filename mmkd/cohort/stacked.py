"""Students stacked along the peer axis and trained in one vectorised step."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, vmap
from torch.optim import Optimizer

from mmkd.cohort.group import Group
from mmkd.cohort.optim import ELEMENTWISE, RowOptimizer, local_optimizer
from mmkd.cohort.recorded import Recorded
from mmkd.cohort.seats import Seats
from mmkd.cohort.sequential import Method, restore_rates
from mmkd.functional.random import key, keyed
from mmkd.students.base import Student
from mmkd.types import Batch, Batches, ConfigError, PeerName, Predictions, Views


class StackedGroup(Group):
    """One student module whose parameters and saved buffers hold all rows: ``[peers, ...]``.

    Buffers that are not saved (a window, a filter bank) are the same for all and stay as they are.
    Gradients agree with the one-after-the-other path up to rounding; random layers agree in
    distribution only, because the rows share one stream.

    Args:
        names: of the peers.
        ids: what keys their random streams.
        students: of each row, or a single one with whose weights all rows begin.
    """

    def __init__(self, names: Sequence[PeerName], ids: Sequence[str], students: Sequence[Student]) -> None:
        super().__init__(names, ids)
        # Hidden in a tuple: the blueprint must be neither a submodule nor part of any state.
        self._blueprint = (copy.deepcopy(students[0]),)
        template = copy.deepcopy(students[0])
        saved = set(template.state_dict())
        modules = [dict([*s.named_parameters(), *s.named_buffers()]) for s in students]
        self._stacked_buffers = [n for n, _ in template.named_buffers() if n in saved]
        with torch.no_grad():
            for name, tensor in [*template.named_parameters(), *template.named_buffers()]:
                if name in saved:
                    rows = torch.stack([module[name].detach() for module in modules])
                    tensor.data = rows if len(rows) == len(names) else rows.repeat_interleave(len(names), 0)
        self._call = Method(template)
        self._rows: RowOptimizer | None = None
        self.recorded: Recorded | None = None
        self._take_seats()

    def _take_seats(self) -> None:
        """Learn where tensors are: walking through a LightningModule for names takes longer than a step."""
        live = self._template.state_dict(keep_vars=True)
        self._seats = Seats(dict(live), len(self.names))
        self._named = dict(self._template.named_parameters())

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """All rows move together."""
        self._seats.seat(range(len(self.names)))
        moved = super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]  # torch has no types here
        self._take_seats()
        return moved

    def seat(self, rows: Sequence[int]) -> None:
        """Rows that take the coming local steps lie together until others are named."""
        self._seats.seat(rows)
        if self._rows is not None:
            self._rows.seats.seat(rows)

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
        named = dict([*student.named_parameters(), *student.named_buffers()])
        named = {name: tensor for name, tensor in named.items() if name in self._seats.live}
        for row in rows:
            for name, tensor in named.items():
                tensor.data = self._seats.view(name, row)
            yield student

    def _select(self, rows: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters and buffers of the rows, named for the call; live only if they are all who sit."""
        tensors = self._seats.read(rows)
        parameters = {f"student.{n}": tensors[n] for n in self._named}
        return parameters, {f"student.{n}": tensors[n] for n in self._stacked_buffers}

    def private_loss(self, batches: Batches) -> Float[Tensor, " rows"]:
        """Mean private loss of each peer of ``batches`` on its own."""
        rows = self.rows(batches.peers)
        if not all(row in self._seats for row in rows):
            self.seat(range(len(self.names)))
        parameters, buffers = self._select(rows)
        losses = self._private(parameters, buffers, batches)
        if rows != self._seats.rows:  # the rows' buffers were copies
            self._seats.write(rows, {n: buffers[f"student.{n}"] for n in self._stacked_buffers})
        return losses

    def _private(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], batches: Batches) -> Tensor:
        """Private losses; buffers change in place."""
        stream = sum(batches.keys) & (2**63 - 1)  # whatever the order of rows
        inputs = (parameters, buffers, batches.x, batches.y, batches.ids)
        with keyed(stream, self._template.device):
            losses = self.recorded(*inputs) if self.recorded is not None and self.training else None
            if losses is None:
                losses = vmap(self._loss, randomness="different")(*inputs)
        return losses

    def _loss(self, p: Any, b: Any, x: Any, y: Tensor, ids: Tensor) -> Tensor:
        """Private loss of one row."""
        loss: Tensor = functional_call(self._call, {**p, **b}, ("private_loss", Batch(x, y, ids, 0)))
        return loss

    def record(self, *, compile: bool) -> None:
        """Replay the private loss from now on instead of walking through the student."""
        self.recorded = Recorded(self._loss, compile=compile)

    def parameters_of(self, rows: Sequence[int]) -> dict[str, Float[Tensor, "rows ..."]]:
        """The live stacks if the rows are all who sit."""
        tensors = self._seats.read(rows)
        return {n: tensors[n].detach() for n in self.travelling(buffers=False)}

    def gradients(self, rows: Sequence[int]) -> dict[str, Float[Tensor, "rows ..."]]:
        """Gradients that a loss has reached; the live ones if the rows are all who sit."""
        places = self._seats.places(rows)
        found = {n: self._named[n].grad for n in self.travelling(buffers=False)}
        return {n: g if places is None else g[places] for n, g in found.items() if g is not None}

    def load_gradients(self, rows: Sequence[int], gradients: dict[str, Float[Tensor, "rows ..."]]) -> None:
        """Overwrite the rows' gradients."""
        places = self._seats.places(rows)
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
        rows = self.rows(batches.peers)
        parameters, buffers = self._select(rows)
        buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        # One row for all stays one in memory: the expanded leaf is read, never written.
        leaves = {n: t.expand(len(rows), *t.shape[1:]).detach().requires_grad_() for n, t in at.items()}
        parameters = {n: p.detach() for n, p in parameters.items()}
        parameters |= {f"student.{n}": leaf for n, leaf in leaves.items()}
        loss = self._private(parameters, buffers, batches).sum()
        found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    def predict(self, rows: Sequence[int], x: Views, stream: int | None = None) -> Predictions:
        """What each row teaches on the same samples ``x``."""
        parameters, buffers = self._select(rows)
        if self.training:
            buffers = {name: buffer.clone() for name, buffer in buffers.items()}

        def predict(p: Any, b: Any) -> Any:
            return functional_call(self._call, {**p, **b}, ("predict", x))

        with keyed(key(stream or 0, *self.ids), self._template.device):
            predictions: Predictions = vmap(predict, randomness="different")(parameters, buffers)
        return predictions

    def predict_own(self, batches: Batches) -> Predictions:
        """What each peer of ``batches`` predicts on its own."""
        parameters, buffers = self._select(self.rows(batches.peers))
        buffers = {name: buffer.clone() for name, buffer in buffers.items()}

        def predict(p: Any, b: Any, x: Any) -> Any:
            return functional_call(self._call, {**p, **b}, ("predict", x))

        with keyed(sum(batches.keys) & (2**63 - 1), self._template.device):
            predictions: Predictions = vmap(predict, randomness="different")(parameters, buffers, batches.x)
        return predictions

    def clip(self, rows: Sequence[int], limit: float) -> None:
        """Scale each row's gradient to an L2 norm of at most ``limit``."""
        gradients = [p.grad for p in self._engine.parameters if p.grad is not None]
        if not gradients:
            return
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients])
        norm = squares.sum(0).sqrt()
        scale = (limit / (norm + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(scale.view(-1, *[1] * (g.dim() - 1)).to(g.dtype))

    def advance(self, rows: Sequence[int]) -> None:
        """Optimizer and schedule step of each row; gradients are cleared."""
        engine = self._engine
        engine.step(rows)
        for p in engine.parameters:
            p.grad = None
        for row in rows if engine.scheduled else ():
            scheduler = engine.schedulers[row]
            if scheduler is not None:
                engine.optimizers[row]._opt_called = True  # type: ignore[attr-defined]  # the engine stepped
                scheduler.step()

    def weights(self, rows: Sequence[int], *, buffers: bool) -> dict[str, Float[Tensor, "rows ..."]]:
        """A copy of the weights that may leave a peer, stacked."""
        tensors, live = self._seats.read(rows), list(rows) == self._seats.rows
        names = self.travelling(buffers=buffers)
        return {n: tensors[n].detach().clone() if live else tensors[n].detach() for n in names}

    def load(self, rows: Sequence[int], weights: dict[str, Float[Tensor, "rows ..."]]) -> None:
        """Overwrite the rows' weights."""
        self._seats.write(rows, weights)

    def build_optimizers(self, scales: Sequence[float]) -> None:
        """Ask the student for an optimizer once a row, and scale each row's learning rate.

        Parameters have their single-student shape while asked: a student may sort them by dimension.

        Raises:
            ConfigError: the optimizer cannot act on stacked parameters.
        """
        self.seat(range(len(self.names)))
        stacks = {p: p.data for p in self._template.parameters()}
        rows = []
        for row, scale in enumerate(scales):
            for p, stack in stacks.items():
                p.data = stack[row]
            rows.append(local_optimizer(self._template, scale))
        for p, stack in stacks.items():
            p.data = stack
        if type(rows[0][0]) not in ELEMENTWISE:
            raise ConfigError(
                f"{type(rows[0][0]).__name__} cannot step many peers at once; set vectorize: never"
            )
        self._rows = RowOptimizer(rows)

    def optimizers(self) -> list[Optimizer]:
        """The optimizers that hold the rows' hyper-parameters."""
        return self._engine.optimizers

    def reset_optimizer(self, row: int) -> None:
        """Forget the row's optimizer state; its schedule goes on."""
        self._engine.reset(row)

    def _names(self) -> dict[Tensor, str]:
        return {p: name for name, p in self._named.items()}

    def optimizer_state(self, row: int) -> dict[str, Any]:
        """Optimizer and schedule state of a row by parameter name."""
        scheduler = self._engine.schedulers[row]
        return {
            "clock": self._engine.clock[row],
            "state": self._engine.state(row, self._names()),
            "rates": [group["lr"] for group in self._engine.optimizers[row].param_groups],
            "scheduler": scheduler.state_dict() if scheduler is not None else None,
        }

    def load_optimizer_state(self, row: int, state: dict[str, Any]) -> None:
        """Take up a saved state, whichever kind of group saved it."""
        engine = self._engine
        engine.load(row, self._names(), state["state"], state["clock"])
        restore_rates(engine.optimizers[row], engine.schedulers[row], state)

    def tensors(self, row: int) -> Iterator[tuple[str, Tensor]]:
        """Name and live row view of everything that a student of this kind saves."""
        for name in self._seats.live:
            yield name, self._seats.view(name, row)
