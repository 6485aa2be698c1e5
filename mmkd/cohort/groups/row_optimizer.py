"""One Lightning optimizer for many peers, each of whom keeps an optimizer of its own."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmkd.cohort.groups.active_rows import ActiveRows
from mmkd.types import ConfigError, PeerName

if TYPE_CHECKING:
    from mmkd.cohort.groups.base import Group
    from mmkd.students.base import Student

ELEMENTWISE = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.Adamax,
)
"""Optimizers whose update of an element reads that element alone and is linear in the learning rate,
so that one of them can serve the stacked parameters of many peers."""


def local_optimizer(student: Student, scale: float = 1.0) -> tuple[Optimizer, LRScheduler | None]:
    """The optimizer and schedule that a student asks for, its learning rates times ``scale``.

    Raises:
        ConfigError: the student asks for several optimizers, or a schedule that does not count steps.
    """
    asked: Any = student.configure_optimizers()
    scheduler: Any = None
    if isinstance(asked, tuple | list) and asked and isinstance(asked[0], list | tuple):
        optimizers, schedulers = asked
        asked = optimizers[0] if len(optimizers) == 1 and len(schedulers) <= 1 else None
        scheduler = schedulers[0] if schedulers else None
    elif isinstance(asked, dict):
        asked, scheduler = asked.get("optimizer"), asked.get("lr_scheduler")
    if not isinstance(asked, Optimizer):
        raise ConfigError(f"{type(student).__name__} must configure exactly one optimizer to join a cohort")
    if isinstance(scheduler, dict):
        if scheduler.get("interval", "epoch") != "step" or scheduler.get("frequency", 1) != 1:
            raise ConfigError(
                f"{type(student).__name__}'s schedule must count local steps: set its interval to 'step'"
            )
        scheduler = scheduler["scheduler"]
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        raise ConfigError(f"{type(scheduler).__name__} is no schedule of local steps")
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ConfigError("ReduceLROnPlateau waits for a metric; a cohort's schedules count local steps")
    if scale != 1.0:
        for group in asked.param_groups:
            group["lr"] = group["lr"] * scale
            if "initial_lr" in group:
                group["initial_lr"] = group["initial_lr"] * scale
        if scheduler is not None:
            scheduler.base_lrs = [rate * scale for rate in scheduler.base_lrs]
    return asked, scheduler


class RowOptimizer:
    """Steps chosen rows of stacked parameters as if each row had an optimizer to itself.

    Rows that have taken equally many steps are stepped together by one torch optimizer, on the rows
    alone: a zero gradient would not do for a row that rests (under Adam it still moves), and
    scalar state such as Adam's step count belongs to the row. Learning rates of rows differ by a
    ratio s, which enters exactly: p <- p_old + s (p_step - p_old).

    Args:
        rows: an optimizer (with its schedule) of each row, over the same stacked parameters; they
            hold the hyper-parameters, the first one does the work.
        folder: where the state of rows that are not active is parked (see ``ActiveRows``).

    Raises:
        ConfigError: the optimizer cannot act on stacked parameters.
    """

    def __init__(self, rows: list[tuple[Optimizer, LRScheduler | None]], folder: Path | None = None) -> None:
        self.optimizers = [optimizer for optimizer, _ in rows]
        kind = type(self.optimizers[0])
        if kind not in ELEMENTWISE:
            raise ConfigError(f"{kind.__name__} cannot step many peers at once; set vectorize: never")
        self.schedulers = [scheduler for _, scheduler in rows]
        self.scheduled = any(scheduler is not None for scheduler in self.schedulers)
        self._engine = copy.copy(self.optimizers[0])
        self._engine.param_groups = [dict(group) for group in self.optimizers[0].param_groups]
        self.parameters: list[Tensor] = [
            p for group in self._engine.param_groups for p in group["params"] if p.requires_grad
        ]
        # Elsewhere torch chooses well by itself, and not every optimizer has a fused kernel.
        self._may_fuse = all(p.device.type == "cpu" and p.is_floating_point() for p in self.parameters)
        self.clock = [0] * len(rows)
        self.active: ActiveRows[tuple[Tensor, str]] = ActiveRows({}, len(rows), folder)
        self.scalar: list[dict[Tensor, dict[str, Any]]] = [{} for _ in rows]
        self._fixed = [self._options(row) for row in range(len(rows))]

    def reset(self, row: int) -> None:
        """Forget what the row's optimizer has learned; its learning-rate schedule goes on."""
        self.clock[row] = 0
        self.scalar[row] = {}

    def step(self, rows: Sequence[int]) -> None:
        """One step of each of ``rows`` along its row of ``p.grad``."""
        for row in rows if self.scheduled else ():
            if self.schedulers[row] is not None:  # it may turn more than the learning rate
                self._fixed[row] = self._options(row)
        kinds = [(self.clock[row], self._fixed[row]) for row in rows]
        several = dict.fromkeys(kinds)
        for kind in several:
            same = [row for row, other in zip(rows, kinds, strict=True) if other == kind]
            self._step(same if len(several) > 1 else list(rows))

    def step_schedules(self, rows: Sequence[int]) -> None:
        """One step of the learning-rate schedule of each of ``rows``."""
        for row in rows if self.scheduled else ():
            scheduler = self.schedulers[row]
            if scheduler is not None:
                self.optimizers[row]._opt_called = True  # type: ignore[attr-defined]  # the engine stepped
                scheduler.step()

    def clip(self, limit: float) -> None:
        """Scale the gradient of each row that has one to an L2 norm of at most ``limit``."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            return
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients])
        scale = (limit / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(scale.view(-1, *[1] * (g.dim() - 1)).to(g.dtype))

    def _options(self, row: int) -> str:
        """Hyper-parameters but for the learning rate, which enters as a ratio."""
        return str(
            [
                {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr")}
                for group in self.optimizers[row].param_groups
            ]
        )

    @torch.no_grad()
    def _step(self, rows: list[int]) -> None:
        first, places = rows[0], self.active.places(rows)
        parameters = [p for p in self.parameters if p.grad is not None]
        for group, chosen in zip(self._engine.param_groups, self.optimizers[first].param_groups, strict=True):
            group.update({k: v for k, v in chosen.items() if k != "params"})
            if self._may_fuse and group.get("fused", False) is None and group.get("foreach") is None:
                group["fused"] = True  # nobody chose, and it is the fastest there
        live = {p: p.data for p in parameters}
        gradients = {p: p.grad for p in parameters}
        self._engine.state = defaultdict(dict)
        if places is not None:
            for p in parameters:
                p.grad = None  # data and gradient must agree in shape at all times
                p.data, p.grad = live[p][places], gradients[p][places]  # type: ignore[index]  # not None: see above
        if self.clock[first]:
            for (p, name), value in self.active.read(rows).items():
                self._engine.state[p][name] = value
            for p, values in self.scalar[first].items():
                for name, value in values.items():
                    self._engine.state[p][name] = value.clone() if isinstance(value, Tensor) else value
        ratios = self._ratios(rows)
        before = {p: p.data.clone() for p in parameters} if ratios else {}
        self._engine.step()
        for p, ratio in ratios.items() if ratios else ():
            shaped = ratio.view(-1, *[1] * (p.dim() - 1))
            p.data.sub_(before[p]).mul_(shaped).add_(before[p])
        self._keep(parameters, rows, places)
        if places is not None:
            for p in parameters:
                live[p][places] = p.data
                p.grad = None
                p.data, p.grad = live[p], gradients[p]
        for row in rows:
            self.clock[row] += 1

    def _ratios(self, rows: list[int]) -> dict[Tensor, Tensor]:
        """Learning rates of the rows over the greatest, by parameter; empty if all are equal.

        The engine steps at the greatest, which is 0 only where all are.
        """
        ratios = {}
        for i, group in enumerate(self._engine.param_groups):
            rates = [float(self.optimizers[row].param_groups[i]["lr"]) for row in rows]
            if len(set(rates)) > 1:
                group["lr"] = max(rates)
                for p in group["params"]:
                    if p.grad is not None:
                        ratios[p] = p.new_tensor([rate / group["lr"] for rate in rates])
        return ratios

    def _keep(self, parameters: list[Tensor], rows: list[int], places: list[int] | None) -> None:
        """Put the engine's state back where rows own it; what is no row's own is one for all of them.

        One object for all rows will do there: it is cloned before it is stepped again.
        """
        common: dict[Tensor, dict[str, Any]] = {}
        for p in parameters:
            for name, value in self._engine.state[p].items():
                if not isinstance(value, Tensor) or value.shape != p.shape:
                    common.setdefault(p, {})[name] = value
                elif places is None:
                    self.active.add((p, name), value)
                else:
                    if (p, name) not in self.active.live:
                        self.active.add((p, name), value.new_zeros(len(self.active.rows), *value.shape[1:]))
                    self.active.write(rows, {(p, name): value})
        if common:
            for row in rows:
                self.scalar[row] = {**self.scalar[row], **common}

    def state(self, row: int, names: dict[Tensor, str]) -> dict[str, Any]:
        """State of one row by parameter name."""
        state: dict[str, Any] = {}
        if self.clock[row]:
            for p in self.parameters:
                state[names[p]] = {}
            for p, name in self.active.live:
                state[names[p]][name] = self.active.view((p, name), row).clone()
            for p, values in self.scalar[row].items():
                state[names[p]] |= values
        return state

    def saved(self, row: int, names: dict[Tensor, str]) -> dict[str, Any]:
        """What a checkpoint holds of one row's optimizer and schedule."""
        scheduler = self.schedulers[row]
        return {
            "clock": self.clock[row],
            "state": self.state(row, names),
            "rates": [group["lr"] for group in self.optimizers[row].param_groups],
            "scheduler": scheduler.state_dict() if scheduler is not None else None,
        }

    def load(self, row: int, names: dict[Tensor, str], state: dict[str, Any], clock: int) -> None:
        """Take up the state of one row."""
        self.reset(row)
        self.clock[row] = clock
        for p in self.parameters:
            for name, value in state.get(names[p], {}).items():
                if isinstance(value, Tensor) and value.shape == p.shape[1:]:
                    if (p, name) not in self.active.live:
                        self.active.add((p, name), torch.zeros_like(p, dtype=value.dtype))
                    self.active.write([row], {(p, name): value.to(p.device)[None]})
                else:
                    self.scalar[row].setdefault(p, {})[name] = value


class CohortOptimizer(Optimizer):
    """What Lightning sees: one optimizer, whose step is a local step of every active peer.

    Its ``param_groups`` are the peers' own dictionaries, so monitors read the true learning rates.
    Its state is keyed by peer and parameter name, never by group.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        optimizers = [optimizer for group in groups for optimizer in group.optimizers()]
        hyper = [group for optimizer in optimizers for group in optimizer.param_groups]
        super().__init__(list(dict.fromkeys(p for group in hyper for p in group["params"])), {})
        self.param_groups = hyper
        self._groups = list(groups)
        self.active: list[list[int]] = [list(range(len(group.names))) for group in groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One local step of the rows in ``active``, group by group."""
        loss = closure() if closure is not None else None
        for group, rows in zip(self._groups, self.active, strict=True):
            if rows:
                group.advance(rows)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and schedule state by peer and parameter name."""
        return {
            "peers": {
                name: group.optimizer_state(row)
                for group in self._groups
                for row, name in enumerate(group.names)
            }
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of every peer.

        Raises:
            ConfigError: the saved peers are not the ones of this cohort.
        """
        saved: dict[PeerName, Any] = state_dict["peers"]
        names = {name for group in self._groups for name in group.names}
        if names != set(saved):
            raise ConfigError(f"the checkpoint has other peers: {', '.join(sorted(names ^ set(saved)))}")
        for group in self._groups:
            for row, name in enumerate(group.names):
                group.load_optimizer_state(row, saved[name])
