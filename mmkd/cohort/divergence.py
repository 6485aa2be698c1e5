"""Who has diverged: peers whose losses or weights are no longer finite, or whose weights have leapt."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from mmkd.cohort.groups.norms import row_norms
from mmkd.cohort.losses import Losses
from mmkd.cohort.peer_axis import PeerAxis
from mmkd.functional.trees import Tree
from mmkd.schedule import Timetable
from mmkd.types import ConfigError, DivergedError, PeerName

OnDivergence = Literal["stop", "sit_out"]
"""What happens when a peer diverges: the run stops, or that peer sits out from then on."""
LEAP = 30.0
"""How many times its running norm the norm of a peer's weights may be; beyond, the peer has diverged."""
FLOOR = 1.0
"""The least running norm, for students whose weights begin at zero."""


class Absence(NamedTuple):
    """Since when a peer sits out, and why."""

    round: int
    reason: str


class Divergence:
    """Looks at peers before anything leaves them: statements, weights, checkpoints and scores.

    A peer has diverged where a loss or a weight is not finite, where the square of a weight is not, or
    where the norm of its weights is more than ``LEAP`` times its *running norm*: the greatest norm at
    which it was seen, or was given weights by others, since training began. From one look to the next the
    running norm at most doubles, so weights that grow ever faster are found, too. Learning-rate schedules,
    thawed layers and averages do not change a norm that much. The displacement since the last look is at
    least the difference of both norms, so a peer that is named has moved ``LEAP - 1`` running norms away.

    Args:
        choice: ``stop`` raises; with ``sit_out`` peers that diverge leave.
        axis: weights of all peers.
        losses: their private losses.
        timetable: in whose ``attendance`` a peer is absent from then on.
    """

    def __init__(self, choice: OnDivergence, axis: PeerAxis, losses: Losses, timetable: Timetable) -> None:
        self._choice, self._axis, self._losses, self._timetable = choice, axis, losses, timetable
        self.absent: dict[PeerName, Absence] = {}
        """Peers that have diverged and sit out."""
        self._running: dict[PeerName, float] = {}
        self._good: dict[PeerName, dict[str, Tensor]] = {}

    def begin(self) -> None:
        """Take the norms with which training begins, of peers for which a saved run has none."""
        norms = self._norms([name for name in self._axis.names if name not in self.absent])
        for name, norm in norms.items():
            self._running.setdefault(name, max(norm, FLOOR))
        self._remember(norms)

    def heed_losses(self, round: int) -> None:
        """Look at the losses since the last call alone.

        Args:
            round: from which a peer that has diverged sits out.

        Raises:
            DivergedError: a loss is not finite, and the run is to stop; or nobody is left.
        """
        self.leave(self._losses.settle(), round)

    def look(self, names: Collection[PeerName], round: int) -> bool:
        """Look at losses, and at the weights of peers.

        Args:
            names: peers whose weights, or what they make of them, are about to be used.
            round: from which a peer that has diverged sits out.

        Returns:
            whether a peer has left.

        Raises:
            DivergedError: a peer has diverged, and the run is to stop; or nobody is left.
        """
        before = len(self.absent)
        self.heed_losses(round)
        norms = self._norms([name for name in names if name not in self.absent])
        found = {name: reason for name, norm in norms.items() if (reason := self._wrong(name, norm))}
        self.leave(found, round)
        for name in found:
            del norms[name]
        for name, norm in norms.items():
            if name in self._running:
                running = self._running[name]
                self._running[name] = max(running, min(norm, 2 * running))
        self._remember(norms)
        return len(self.absent) > before

    def look_at_present(self, tick: int) -> None:
        """Look at the peers that take part in the round of a tick."""
        round_ = self._timetable.round_of(tick)
        there = self._timetable.there(round_)
        self.look([name for name in self._axis.names if name in there], round_)

    def given(self, names: Sequence[PeerName], weights: Tree) -> None:
        """Note the norms of weights that peers are given, and refuse those that make no sense.

        Args:
            names: who gets them.
            weights: ``[names, ...]``, or ``[1, ...]`` for all.

        Raises:
            DivergedError: they are not finite, or have leapt, although nobody's did of whom they were made.
        """
        if not self._running:
            return
        norms, limit = row_norms(weights, ()).tolist(), LEAP * max(self._running.values())
        for name, norm in zip(names, norms * len(names) if len(norms) == 1 else norms, strict=True):
            if not norm <= limit:
                raise DivergedError(
                    f"the weights that peer '{name}' is given are not finite, or more than {LEAP:.0f} times"
                    " those of which they were made: lower the learning rate of the aggregation"
                )
            self._running[name] = max(self._running[name], norm)

    def leave(self, found: Mapping[PeerName, str], round: int) -> None:
        """Stop, or let peers sit out and take up the weights with which they were last seen.

        Args:
            found: peers that have diverged, and what is wrong with each.
            round: from which they sit out.

        Raises:
            DivergedError: the run is to stop; or nobody is left.
        """
        for name, reason in found.items():
            if name in self.absent:
                continue
            attendance = self._timetable.attendance
            if self._choice == "stop" or attendance is None:
                raise DivergedError(reason, name)
            self.absent[name] = Absence(round, reason)
            attendance.leave(name, round)
            group, row = self._axis.locate(name)
            good = self._good.pop(name, {})
            for n, tensor in group.tensors(row):
                if n in good:
                    tensor.detach().copy_(good[n])
            self._axis.reset_optimizers([name])
            warnings.warn(f"peer '{name}' sits out from round {round}: {reason}", stacklevel=2)
            if len(self.absent) == len(self._axis.names):
                raise DivergedError(f"all peers have diverged; the last: {reason}", name)

    def _wrong(self, name: PeerName, norm: float) -> str | None:
        """What is wrong with a peer whose weights have that norm."""
        if not math.isfinite(norm):
            return "its weights are no longer finite, or so large that their products are not"
        running = self._running.get(name, math.inf)
        if norm > LEAP * running:
            return f"the norm of its weights is {norm / running:.0f} times what it was, {LEAP:.0f} at most"
        return None

    def _norms(self, names: Sequence[PeerName]) -> dict[PeerName, float]:
        return dict(zip(names, self._axis.norms(names), strict=True)) if names else {}

    def _remember(self, names: Iterable[PeerName]) -> None:
        """Copy what peers hold, for one that diverges before the next look."""
        if self._choice == "stop":
            return
        for name in names:
            group, row = self._axis.locate(name)
            self._good[name] = {n: t.detach().clone() for n, t in group.tensors(row)}

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Running norms, and who sits out."""
        absent = {name: list(absence) for name, absence in self.absent.items()}
        return {"running": dict(self._running), "absent": absent}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on with those of a saved run.

        Raises:
            ConfigError: peers sit out there, and would not here.
        """
        self._running = dict(saved["running"])
        self.absent = {name: Absence(*absence) for name, absence in saved["absent"].items()}
        for name, absence in self.absent.items():
            if self._timetable.attendance is None:
                raise ConfigError(
                    f"'{name}' sits out in the saved run, because it has diverged: set model.on_divergence to"
                    " sit_out"
                )
            self._timetable.attendance.leave(name, absence.round)
