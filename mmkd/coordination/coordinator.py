"""The coordinator: one round of a cohort from its first tick to its last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmkd.cohort.coordinator import Lesson, Needs
from mmkd.cohort.peers import Peers
from mmkd.coordination.delivery import Delivery
from mmkd.coordination.federation import Federation
from mmkd.coordination.hub_distillation import HubDistillation
from mmkd.coordination.lessons import Lessons
from mmkd.coordination.method import Method
from mmkd.coordination.oracle import AskedOracle
from mmkd.cost.flops import Flops, count_flops
from mmkd.data.base import PeerData
from mmkd.data.blocks import PrivateBatches
from mmkd.ledger import Ledger
from mmkd.participation import Attendance
from mmkd.types import ConfigError, PeerName, Step


class Coordinator:
    """Coordinates the exchange of knowledge and weights among peers, while a fit lasts.

    Args:
        method: what is said, to whom, when and how it is carried.
        peers: of the cohort.
        data: holds their samples.
        ledger: counts what is sent and computed.
        attendance: who is there in which round; everybody, if None.
        epochs: how many a fit has; the last exchange of knowledge serves nobody. None if it is open.
        saved: what ``state_dict`` of a saved run gave; a run that begins, if None.

    Raises:
        ConfigError: the method has no meaning for these peers.
    """

    def __init__(
        self,
        method: Method,
        peers: Peers,
        data: PeerData,
        ledger: Ledger,
        attendance: Attendance | None,
        epochs: int | None,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self.method, self.ledger = method, ledger
        self._peers, timetable = peers, peers.timetable
        self._last = (epochs or -1) * timetable.rounds_per_epoch * timetable.round_ticks  # negative if open
        if method.between is not None and timetable.knowledge_every % timetable.round_ticks:
            raise ConfigError(
                f"decentralized.between exchanges at the end of rounds of {timetable.round_ticks} ticks: set"
                " schedule.knowledge_every to a multiple"
            )
        saved = saved or {}
        delivery = Delivery(method.transport, ledger)
        self._flops = flops = costs(peers, data)
        clusters = method.clusters(peers.modalities)
        self.oracle: AskedOracle | None = None
        if method.oracle is not None:
            self.oracle = AskedOracle(method.oracle, peers, data, delivery, saved.get("oracle"))
        self.lessons: Lessons | None = None
        if method.knowledge is not None:
            graph, hubs = method.between or method.topology, method.speakers(clusters)
            known = saved.get("lessons")
            self.lessons = Lessons(method.knowledge, peers, data, delivery, graph, hubs, flops, known)
        self._distillation: HubDistillation | None = None
        hub = method.topology.hub
        if method.aggregation is not None and method.aggregation.distils and hub is not None:
            self._distillation = HubDistillation(peers, data, ledger, hub, flops)
        self.federations: list[Federation] = []
        kept: Sequence[Any] = saved.get("federations", [])
        for i, cluster in enumerate(clusters):
            assert method.aggregation is not None
            self.federations.append(
                Federation(
                    method.aggregation,
                    cluster,
                    peers,
                    data,
                    delivery,
                    method.topology,
                    attendance,
                    flops,
                    self._distillation,
                    self.oracle,
                    kept[i] if i < len(kept) else None,
                )
            )
        self._corrects = any(federation.corrects for federation in self.federations)

    # --- the cohort calls these at the ticks that need them ----------------------------------------

    def needs(self, tick: int) -> Needs:
        """What there is to do at a tick."""
        first = tick % self._peers.timetable.round_ticks == 0
        return Needs(
            begin=self.oracle is not None or (first and bool(self.federations)),
            teach=self.lessons is not None and self.lessons.teaches(tick),
            correct=self._corrects,
            end=self._peers.timetable.ends_round(tick) or self._shares(tick),
        )

    def _shares(self, tick: int) -> bool:
        """Whether knowledge is exchanged after this tick; nobody would use the last."""
        return self.lessons is not None and tick + 1 != self._last and self.lessons.shares(tick)

    def begin(self, step: Step) -> Step:
        """Ask the oracle, and begin a round if this is its first tick."""
        if self.oracle is not None:
            step = self.oracle.tell(step)
        if step.tick % self._peers.timetable.round_ticks == 0:
            for federation in self.federations:
                federation.begin(step)
        return step

    def teach(self, step: Step, rows: list[list[int]]) -> list[Lesson | None]:
        """Distillation for the active rows of every group.

        Args:
            step: the samples of this tick.
            rows: active rows of every group.
        """
        assert self.lessons is not None
        return self.lessons.lessons(step, rows)

    def correct(self, step: Step, kept: Mapping[PeerName, float]) -> None:
        """Change local gradients, where an aggregation does.

        Args:
            step: the samples that they are of.
            kept: how much of its private loss a peer keeps; all of it, for peers that are not named.
        """
        for federation in self.federations:
            if federation.corrects:
                federation.correct(step, kept)

    def end(self, tick: int) -> None:
        """Exchange knowledge that is not of a step, and combine weights, each if it is due.

        Knowledge comes first: peers that have trained alone differ in what they know, and a consensus of
        peers that have just been averaged would be one opinion said many times.
        """
        shares, between = self._shares(tick), self.method.between is not None
        if shares and not between:
            self._share(tick)
        if not self._peers.timetable.ends_round(tick):
            return
        if self.federations:
            self._peers.losses.settle()
            for federation in self.federations:
                self._peers.axis.refuse_diverged(federation.present)
            if self._distillation is not None:
                self._distillation.ask([peer for f in self.federations for peer in f.present])
            for federation in self.federations:
                federation.finish()
        if shares and between:  # each hub speaks for its own
            self.show_hub()
            try:
                self._share(tick)
            finally:
                self.show_own()

    def _share(self, tick: int) -> None:
        assert self.lessons is not None
        self.lessons.share(tick)

    def figures(self, tick: int) -> dict[str, float]:
        """What was sent and computed by the end of a round, and how old is what listeners know."""
        self.account()
        ledger = self.ledger
        figures = {"ledger/bytes_per_peer": ledger.bytes_per_peer()}
        figures |= {f"ledger/{kind}_bytes": ledger.total(kind) for kind in ledger.kinds()}
        figures["ledger/flops_per_peer"] = ledger.flops_per_peer()
        stale = self.lessons.exchange.pool.staleness(tick) if self.lessons is not None else None
        return figures if stale is None else {**figures, "knowledge/staleness": stale}

    # --- whoever runs the cohort calls these -------------------------------------------------------

    def account(self) -> None:
        """Write down what private losses have cost since the last call."""
        for peer, samples in self._peers.losses.samples().items():
            self.ledger.compute(peer, samples * self._flops[peer].train)

    def close(self) -> None:
        """Training is over: peers that sat out the last round hear how it ended."""
        for federation in self.federations:
            federation.close()
        self.account()

    def show_hub(self) -> None:
        """Where peers sit out, let all stand where their hub stands: that is evaluated, and that speaks."""
        for federation in self.federations:
            federation.show_hub()

    def show_own(self) -> None:
        """Back to what each peer holds."""
        for federation in self.federations:
            federation.show_own()

    def state_dict(self) -> dict[str, Any]:
        """What listeners have heard, what the oracle has said, and what aggregations remember."""
        return {
            "lessons": self.lessons.state_dict() if self.lessons is not None else None,
            "federations": [federation.state_dict() for federation in self.federations],
            "oracle": self.oracle.state_dict() if self.oracle is not None else None,
        }


def costs(peers: Peers, data: PeerData) -> dict[PeerName, Flops]:
    """What a sample costs each peer's student, counted once an architecture."""
    cost: dict[PeerName, Flops] = {}
    for group in peers.groups:
        first = PrivateBatches(data, group.names[0])[0]
        cost |= dict.fromkeys(group.names, count_flops(group.student(0), peers.to_device(first)))
    return cost
