"""Cohorts whose peers own what their ids say, so that whoever changes, comes or goes changes nobody else's data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.samples import Samples
from mmkd.functional.random import generator
from mmkd.knowledge import Knowledge
from mmkd.schedule import Schedule
from mmkd.topology import Topology
from mmkd.transport import LocalTransport, Mail
from tests.spies import Began
from tests.tiny import CLASSES, FEATURES, Ear, Eye, TinyDataDouble, sgd, trainer

OWNED = 40
"""Private samples of every peer."""


class Apart(TinyDataDouble):
    """Private samples are a pure function of the peer's id.

    Args:
        changed: ids of peers who own other samples than usual.
        kwargs: arguments of ``PeerDataModule``.
    """

    def __init__(self, *, changed: Collection[str] = (), **kwargs: Any) -> None:
        super().__init__(**{"batch_size": 16, **kwargs})
        self.changed = changed

    def private(self, peer: str, split: str) -> Any:
        if split != "train":
            return self.held_out
        owner = self.ids[peer]
        stream = generator("private", owner, int(owner in self.changed))
        x = torch.randn(OWNED, FEATURES, generator=stream, dtype=torch.float64)
        return Samples(x, torch.randint(CLASSES, (OWNED,), generator=stream))


class Counting(LocalTransport):
    """Counts the exchanges."""

    exchanges = 0

    def deliver(self, mail: Mail) -> Mail:
        self.exchanges += 1
        return super().deliver(mail)


def fleets(
    cameras: int = 4,
    microphones: int = 3,
    *,
    eye: Callable[..., Eye] = Eye,
    ear: Callable[..., Ear] = Ear,
    ids: Mapping[str, list[str]] | None = None,
    **student: Any,
) -> dict[str, Fleet]:
    """Two modalities of students with auxiliary heads that learn fast."""
    student = {"heads": 2, "optimizer": sgd(0.5), **student}
    ids = ids or {}
    return {
        "cameras": Fleet(lambda n: eye(n, **student), cameras, ids.get("cameras")),
        "microphones": Fleet(lambda n: ear(n, **student), microphones, ids.get("microphones")),
    }


class Outcome:
    """A cohort after training, and the callback that coordinated it."""

    def __init__(self, cohort: Cohort, callback: DecentralizedCallback, transport: Counting) -> None:
        self.cohort, self.callback, self.transport = cohort, callback, transport

    def state(self, ident: str) -> dict[str, Tensor]:
        """Weights and buffers of the peer of that id."""
        (name,) = (name for name, other in self.cohort.ids.items() if other == ident)
        return {n: t.detach().clone() for n, t in self.cohort.student(name).state_dict().items()}

    def differs(self, other: Outcome, ident: str, part: str = "") -> bool:
        """Whether any bit of the peer differs, in what ``part`` begins the name of."""
        mine, theirs = self.state(ident), other.state(ident)
        assert mine.keys() == theirs.keys()
        names = [n for n in mine if n.startswith(part)]
        assert names
        return any(not torch.equal(mine[n], theirs[n]) for n in names)

    def who_differs(self, other: Outcome) -> set[str]:
        """Ids of the peers of which any bit differs."""
        return {ident for ident in self.cohort.ids.values() if self.differs(other, ident)}


def learn(
    knowledge: Knowledge | None,
    topology: Topology | None = None,
    *,
    peers: dict[str, Fleet] | None = None,
    ticks: int = 6,
    every: int = 1,
    block: int = 3,
    vectorize: Any = "never",
    data: TinyDataDouble | None = None,
    before: Callable[[Cohort], None] | None = None,
    coordinate: type[DecentralizedCallback] = DecentralizedCallback,
) -> Outcome:
    """Train for ``ticks``, exchanging knowledge at every ``every``-th; each peer starts from its own draw."""
    cohort = Cohort(peers or fleets(), CLASSES, init="own", vectorize=vectorize).double()
    if before is not None:
        before(cohort)
    transport = Counting()
    schedule = Schedule(local_steps=ticks, knowledge_every=every, block=block)
    callback = coordinate(knowledge, None, topology, schedule, transport)
    run = trainer(callback, Began(), max_epochs=1, limit_val_batches=0)
    run.fit(cohort, datamodule=data or Apart())
    return Outcome(cohort, callback, transport)
