"""The coordinator: exchanges knowledge and weights at the ticks of a round where they are due."""

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
from mmkd.coordination.refusals import check_lessons
from mmkd.data.base import PeerData
from mmkd.ledger import Ledger
from mmkd.participation import Attendance
from mmkd.transport import LocalTransport
from mmkd.types import ConfigError, PeerName, Step


class Coordinator:
    """Coordinates the exchange of knowledge and weights among peers, while a fit lasts.

    Args:
        method: what is said, to whom, when and how it is carried.
        peers: of the cohort.
        data: holds their samples.
        ledger: counts what is sent and computed.
        attendance: who takes part in which round; everybody, if None.
        epochs: how many a fit has, None if unknown; after its last step knowledge is not exchanged.
        saved: ``state_dict`` of a saved run; None for a new run.

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
        # Negative, so that it equals no tick, if the number of epochs is unknown.
        self._last = (epochs or -1) * timetable.rounds_per_epoch * timetable.round_ticks
        if method.between is not None and timetable.knowledge_every % timetable.round_ticks:
            raise ConfigError(
                f"decentralized.between exchanges at the end of rounds of {timetable.round_ticks} ticks: set"
                " schedule.knowledge_every to a multiple"
            )
        saved = saved or {}
        delivery = Delivery(method.transport, ledger)
        clusters = method.clusters({name: own.modality for name, own in peers.everybody.items()})
        inside, federated = delivery, clusters
        if delivery.asynchronous:
            method.check_asynchronous()
        if not peers.whole:
            method.check_elsewhere([c for c in clusters if 0 < len(peers.here(c)) < len(c)])
            if method.between is not None:  # each cluster and its hub are in one process
                inside = Delivery(LocalTransport(), ledger)
                federated = [c for c in clusters if peers.here(c)]
        self.oracle: AskedOracle | None = None
        if method.oracle is not None:
            self.oracle = AskedOracle(method.oracle, peers, data, delivery, saved.get("oracle"))
        self.lessons: Lessons | None = None
        if method.knowledge is not None:
            graph, hubs = method.between or method.topology, method.speakers(clusters)
            known = saved.get("lessons")
            self.lessons = Lessons(method.knowledge, peers, data, delivery, graph, hubs, inside, known)
            check_lessons(method.knowledge, method.schedule.knowledge_every, self._last)
        self._distillation: HubDistillation | None = None
        hub = method.topology.hub
        if method.aggregation is not None and method.aggregation.distils and hub is not None:
            self._distillation = HubDistillation(peers, data, ledger, hub)
        self.federations: list[Federation] = []
        kept: Sequence[Any] = saved.get("federations", [])
        for i, cluster in enumerate(federated):
            assert method.aggregation is not None
            self.federations.append(
                Federation(
                    method.aggregation,
                    cluster,
                    peers,
                    data,
                    inside,
                    method.topology,
                    attendance,
                    self._distillation,
                    self.oracle,
                    kept[i] if i < len(kept) else None,
                )
            )
        self._corrects = any(federation.corrects for federation in self.federations)

    # --- the cohort calls these at the ticks that need them ----------------------------------------

    def needs(self, tick: int) -> Needs:
        """The methods that have something to do at a tick."""
        first = tick % self._peers.timetable.round_ticks == 0
        return Needs(
            speak=self.lessons is not None and self.lessons.speaks(tick),
            begin=self.oracle is not None or (first and bool(self.federations)),
            teach=self.lessons is not None and self.lessons.teaches(tick),
            correct=self._corrects,
            end=self._peers.timetable.ends_round(tick) or self._shares(tick),
        )

    def _shares(self, tick: int) -> bool:
        """Whether knowledge is exchanged after this tick; never after the last, where nobody would use it."""
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
        """The lesson of the active rows of each group that has one.

        Args:
            step: the samples of this tick.
            rows: active rows of every group.
        """
        assert self.lessons is not None
        return self.lessons.lessons(step, rows)

    def correct(self, step: Step, kept: Mapping[PeerName, float]) -> None:
        """Change local gradients, where an aggregation corrects them.

        Args:
            step: the samples that they are of.
            kept: how much of its private loss a peer keeps; all of it, for peers that are not named.
        """
        for federation in self.federations:
            if federation.corrects:
                federation.correct(step, kept)

    def end(self, tick: int) -> None:
        """Exchange knowledge about the whole public set or classes, and combine weights, each if it is due.

        Knowledge comes first, because peers that have trained alone differ in what they know, while
        peers that have just been averaged would all say the same.
        """
        shares, between = self._shares(tick), self.method.between is not None
        if shares or self.federations:
            self._peers.divergence.look_at_present(tick)
        if shares and not between:
            self._share(tick)
        if not self._peers.timetable.ends_round(tick):
            return
        if self.federations:
            if self._distillation is not None:
                round_ = self._peers.timetable.round_of(tick)
                there = self._peers.timetable.there(round_)
                asked = [peer for f in self.federations for peer in f.members if peer in there]
                self._distillation.ask(asked, round_)
            for federation in self.federations:
                federation.finish()
        if shares and between:  # each hub speaks for its cluster
            self.show_hub()
            try:
                self._share(tick)
            finally:
                self.show_own()

    def _share(self, tick: int) -> None:
        assert self.lessons is not None
        self.lessons.share(tick)

    def figures(self, tick: int) -> dict[str, float]:
        """Bytes and operations up to the end of a round, and the age of what listeners know."""
        self.account()
        ledger = self.ledger
        figures = {"ledger/bytes_per_peer": ledger.bytes_per_peer()}
        figures |= {f"ledger/{kind}_bytes": ledger.total(kind) for kind in ledger.kinds()}
        figures["ledger/flops_per_peer"] = ledger.flops_per_peer()
        if self.lessons is None:
            return figures
        exchange = self.lessons.exchange
        stale = exchange.pool.staleness(tick)
        figures |= {} if stale is None else {"knowledge/staleness": stale}
        return figures | (exchange.held.figures() if exchange.held is not None else {})

    # --- callbacks call these --------------------------------------------------------------------

    def account(self) -> None:
        """Count in the ledger what private losses have cost since the last call."""
        for peer, samples in self._peers.losses.samples().items():
            self.ledger.compute(peer, samples * self._peers.everybody[peer].train)

    def close(self) -> None:
        """End training: peers that sat out the last round get its result."""
        for federation in self.federations:
            federation.close()
        self.account()

    def show_hub(self) -> None:
        """Where peers may sit out, give them their hub's weights, with which they are evaluated and speak."""
        for federation in self.federations:
            federation.show_hub()

    def show_own(self) -> None:
        """Give each peer its own weights back, after ``show_hub``."""
        for federation in self.federations:
            federation.show_own()

    def state_dict(self) -> dict[str, Any]:
        """State of a saved run: targets of listeners, answers of the oracle, state of aggregations."""
        return {
            "lessons": self.lessons.state_dict() if self.lessons is not None else None,
            "federations": [federation.state_dict() for federation in self.federations],
            "oracle": self.oracle.state_dict() if self.oracle is not None else None,
        }
