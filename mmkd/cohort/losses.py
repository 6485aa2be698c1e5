"""Private losses while a cohort trains: their means for the logger, and who has one that is not finite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mmkd.schedule import Timetable
from mmkd.types import PeerName


class Losses:
    """Losses of local steps, kept as tensors until needed, since reading one waits for the device.

    Args:
        timetable: tells the local step of a peer at a tick, for the error of one that diverges.
    """

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable
        self._pending: list[tuple[int, list[PeerName], Float[Tensor, " peers"]]] = []
        self._sums: dict[PeerName, tuple[float, int]] = {}
        self._samples: dict[PeerName, int] = defaultdict(int)

    def add(self, tick: int, names: Sequence[PeerName], losses: Float[Tensor, " peers"], size: int) -> None:
        """Add the losses of one local step of some peers, of ``size`` samples each."""
        self._pending.append((tick, list(names), losses))
        for name in names:
            self._samples[name] += size

    def settle(self) -> dict[PeerName, str]:
        """Check and add up the losses since the last call, before anything computed from them leaves a peer.

        Returns:
            peers of which one is not finite, in the order in which that happened, and what was wrong.
        """
        wrong: dict[PeerName, str] = {}
        for tick, names, losses in self._pending:
            for name, loss in zip(names, losses.tolist(), strict=True):
                if name in wrong:
                    continue
                if not -float("inf") < loss < float("inf"):
                    step = self._timetable.local_step(name, tick)
                    wrong[name] = f"its private loss is {loss} at its local step {step}"
                    continue
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = (total + loss, count + 1)
        self._pending = []
        return wrong

    def means(self) -> dict[PeerName, float]:
        """Mean loss of each peer since the last call."""
        sums, self._sums = self._sums, {}
        return {name: total / count for name, (total, count) in sums.items()}

    def samples(self) -> dict[PeerName, int]:
        """Number of private samples in the losses of each peer since the last call."""
        samples, self._samples = self._samples, defaultdict(int)
        return samples

    def state_dict(self) -> dict[str, object]:
        """The losses of an unfinished epoch."""
        return {"sums": dict(self._sums), "samples": dict(self._samples)}

    def load_state_dict(self, saved: dict[str, dict[PeerName, tuple[float, int]]]) -> None:
        """Go on with the losses of a saved run."""
        self._sums = dict(saved["sums"])
