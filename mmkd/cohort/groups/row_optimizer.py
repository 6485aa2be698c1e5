"""One Lightning optimizer for many peers, each of whom keeps an optimizer of its own."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmkd.cohort.groups.active_rows import ActiveRows
from mmkd.cohort.groups.local_optimizer import LocalOptimizer
from mmkd.cohort.groups.reason import VectorizeError
from mmkd.types import ConfigError, PeerName

if TYPE_CHECKING:
    from mmkd.cohort.groups.base import Group

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


class RowOptimizer:
    """Steps chosen rows of stacked parameters as if each row had an optimizer to itself.

    Rows whose parameters have taken equally many steps are stepped together by one torch optimizer, on
    the rows alone: a zero gradient would not leave a row unchanged (Adam moves it), and
    scalar state such as Adam's step count belongs to the row. Learning rates of rows differ by a
    ratio s, which enters exactly: p <- p_old + s (p_step - p_old).

    Args:
        rows: an optimizer (with its schedule) of each row, over the same stacked parameters; they
            hold the hyper-parameters, and the first one (the engine) takes the steps.
        folder: where the state of rows that are not active is parked (see ``ActiveRows``).

    Raises:
        VectorizeError: the optimizer cannot act on stacked parameters.
    """

    def __init__(self, rows: Sequence[LocalOptimizer], folder: Path | None = None) -> None:
        self.rows = list(rows)
        first = self.rows[0].optimizer
        if type(first) not in ELEMENTWISE:
            raise VectorizeError(
                f"{type(first).__name__} cannot step many peers at once; set model.vectorize: never"
            )
        self._scheduled = any(row.scheduler is not None for row in self.rows)
        self._engine = copy.copy(first)
        self._engine.param_groups = [dict(group) for group in first.param_groups]
        # Frozen ones are included, because they may thaw.
        self.parameters: list[Tensor] = [p for group in self._engine.param_groups for p in group["params"]]
        for row in self.rows[1:]:  # so that all groups together hold each parameter once
            for group in row.optimizer.param_groups:
                group["params"] = []
        # On other devices torch chooses well by itself, and not every optimizer has a fused kernel.
        self._may_fuse = all(p.device.type == "cpu" and p.is_floating_point() for p in self.parameters)
        self._none = (0,) * len(self.parameters)
        self.steps: list[tuple[int, ...]] = [self._none] * len(rows)
        """Steps that each parameter of each row has taken; a parameter without a gradient takes none."""
        self.active: ActiveRows[tuple[Tensor, str]] = ActiveRows({}, len(rows), folder)
        self.scalar: list[dict[Tensor, dict[str, Any]]] = [{} for _ in rows]
        self._fixed = [self._options(row) for row in range(len(rows))]

    @property
    def optimizers(self) -> list[Optimizer]:
        """Optimizers that hold the rows' hyper-parameters."""
        return [row.optimizer for row in self.rows]

    def reset(self, row: int) -> None:
        """Forget what the row's optimizer has learned; its learning-rate schedule goes on."""
        self.steps[row] = self._none
        self.scalar[row] = {}

    def step(self, rows: Sequence[int]) -> None:
        """One step of each of ``rows`` along its row of ``p.grad``."""
        for row in rows if self._scheduled else ():
            if self.rows[row].scheduler is not None:  # a schedule may change more than the learning rate
                self._fixed[row] = self._options(row)
        kinds: dict[tuple[tuple[int, ...], str], list[int]] = {}
        for row in rows:
            kinds.setdefault((self.steps[row], self._fixed[row]), []).append(row)
        for same in kinds.values():
            self._step(same if len(kinds) > 1 else list(rows))

    def step_schedules(self, rows: Sequence[int]) -> None:
        """One step of the learning-rate schedule of each of ``rows``."""
        for row in rows if self._scheduled else ():
            self.rows[row].optimizer._opt_called = True  # type: ignore[attr-defined]  # the engine stepped
            self.rows[row].advance()

    def clip(self, limit: float) -> None:
        """Scale the gradient of each row that has one to an L2 norm of at most ``limit``."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            return
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients])
        scale = (limit / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(scale.view(-1, *[1] * (g.dim() - 1)).to(g.dtype))

    def finite(self, rows: Sequence[int]) -> list[int]:
        """The rows whose gradients are all finite."""
        finite = [p.grad.isfinite().flatten(1).all(1) for p in self.parameters if p.grad is not None]
        if not finite:
            return list(rows)
        good, places = torch.stack(finite).all(0).tolist(), self.active.places(rows)
        return [row for row, place in zip(rows, places or range(len(rows)), strict=True) if good[place]]

    def drop(self, rows: Sequence[int]) -> None:
        """Clear the gradients of rows; those of other rows stay."""
        places = self.active.places(rows)
        for p in self.parameters:
            if p.grad is not None:
                p.grad[... if places is None else places] = 0

    def _options(self, row: int) -> str:
        """Hyper-parameters but for the learning rate, which enters as a ratio."""
        rates = ("lr", "initial_lr", "max_lr", "min_lr")  # and further rates that schedules keep
        return str([{k: v for k, v in s.items() if k not in rates} for s in self.rows[row].settings])

    @torch.no_grad()
    def _step(self, rows: list[int]) -> None:
        first, places = rows[0], self.active.places(rows)
        parameters = [p for p in self.parameters if p.grad is not None]
        steps = dict(zip(self.parameters, self.steps[first], strict=True))
        alike = len({steps[p] > 0 for p in parameters}) < 2  # fused kernels need a state of all, or of none
        for group, settings in zip(self._engine.param_groups, self.rows[first].settings, strict=True):
            group.update(settings)
            chosen = group.get("fused", False) is not None or group.get("foreach") is not None
            if self._may_fuse and alike and not chosen:
                group["fused"] = True  # the user chose no kernel, and this is the fastest
        live = {p: p.data for p in parameters}
        gradients = {p: p.grad for p in parameters}
        self._engine.state = defaultdict(dict)
        if places is not None:
            for p in parameters:
                p.grad = None  # data and gradient must agree in shape at all times
                p.data, p.grad = live[p][places], gradients[p][places]  # type: ignore[index]  # not None: see above
        if any(self.steps[first]):
            for (p, name), value in self.active.read(rows).items():
                if steps[p]:
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
        taken = tuple(n + (p.grad is not None) for p, n in steps.items())
        for row in rows:
            self.steps[row] = taken

    def _ratios(self, rows: list[int]) -> dict[Tensor, Tensor]:
        """Learning rates of the rows divided by the greatest, by parameter; empty if all are equal.

        The engine steps at the greatest, which is 0 only where all are.
        """
        ratios = {}
        for i, group in enumerate(self._engine.param_groups):
            rates = [float(self.rows[row].optimizer.param_groups[i]["lr"]) for row in rows]
            if len(set(rates)) > 1:
                group["lr"] = max(rates)
                for p in group["params"]:
                    if p.grad is not None:
                        ratios[p] = p.new_tensor([rate / group["lr"] for rate in rates])
        return ratios

    def _keep(self, parameters: list[Tensor], rows: list[int], places: list[int] | None) -> None:
        """Store the engine's state row by row; state that is no row's own, such as a step count, is shared.

        Rows may share one object of it, which is cloned before it is stepped again.
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

    def saved(self, row: int, names: Mapping[Tensor, str]) -> dict[str, Any]:
        """What a checkpoint holds of one row's optimizer and schedule, its state by parameter name."""
        stepped = [p for p, n in zip(self.parameters, self.steps[row], strict=True) if n]
        state: dict[str, Any] = {names[p]: dict(self.scalar[row].get(p, {})) for p in stepped}
        for p, name in self.active.live:
            if names[p] in state:
                state[names[p]][name] = self.active.view((p, name), row).clone()
        # A parameter that has stepped and has no state is saved like one that has not: a run that goes on and
        # ends at once is saved as it was.
        return {"state": {n: own for n, own in state.items() if own}, **self.rows[row].state_dict()}

    def load(self, row: int, names: Mapping[Tensor, str], saved: dict[str, Any]) -> None:
        """Load the saved optimizer and schedule of one row, whichever kind of group saved it."""
        self.reset(row)
        self.rows[row].load_state_dict(saved)
        self._fixed[row] = self._options(row)
        steps = []
        for p in self.parameters:
            kept = saved["state"].get(names[p], {})
            # An optimizer without a count needs to know only whether there was a first step.
            steps.append(int(kept.get("step", bool(kept))))
            for name, value in kept.items():
                if isinstance(value, Tensor) and value.shape == p.shape[1:]:
                    if (p, name) not in self.active.live:
                        self.active.add((p, name), torch.zeros_like(p, dtype=value.dtype))
                    self.active.write([row], {(p, name): value.to(p.device)[None]})
                else:
                    self.scalar[row].setdefault(p, {})[name] = value
        self.steps[row] = tuple(steps)


class CohortOptimizer(Optimizer):
    """The one optimizer that Lightning sees, whose step is a local step of every active peer.

    Its ``param_groups`` are the peers' own dictionaries, so monitors read the true learning rates, and call
    them by the names of peers; each parameter is in one of them. Its state is keyed by peer and parameter
    name, never by group.
    """

    _step_supports_amp_scaling = True  # torch's: the cohort unscales gradients, and says which rows step

    def __init__(self, groups: Sequence[Group]) -> None:
        hyper: list[dict[str, Any]] = []
        for group in groups:
            for name, optimizer in zip(group.names, group.optimizers(), strict=True):
                for i, options in enumerate(optimizer.param_groups, 1):
                    part = options.get("name") or (f"pg{i}" if len(optimizer.param_groups) > 1 else "")
                    options["name"] = f"{name}/{part}".rstrip("/")
                    hyper.append(options)
        super().__init__([p for options in hyper for p in options["params"]], {})
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
        """Load the saved state of every peer.

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
