"""The coordinator: who learns what from whom, and when."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mmkd.cohort.cohort import Cohort
from mmkd.cohort.coordinator import Lesson
from mmkd.coordination.delivery import Post
from mmkd.coordination.federation import Collective
from mmkd.coordination.hub_distillation import Ensemble
from mmkd.coordination.lessons import Teaching
from mmkd.coordination.oracle import Oracle
from mmkd.cost.flops import Flops
from mmkd.cost.profiler import timed
from mmkd.federated import Aggregation
from mmkd.functional.random import key
from mmkd.knowledge.base import Knowledge
from mmkd.ledger import Ledger
from mmkd.participation import Attendance, Participation
from mmkd.schedule import Schedule, Timetable
from mmkd.topology import Complete, Topology
from mmkd.transport import LocalTransport, Transport
from mmkd.types import ConfigError, PeerName, Step


class DecentralizedCallback(Callback):
    """Coordinates the exchange of knowledge and weights among the peers of a cohort.

    A method is a product: what is said (``knowledge``, ``aggregation``, both or neither), to whom
    (``topology``), when (``schedule``) and how it is carried (``transport``). Everybody speaks, then
    everybody listens, so a round does not depend on the order of peers.

    Args:
        knowledge: what peers teach about public samples.
        aggregation: how weights are combined at the end of a round.
        topology: who hears whom; for weights, within each cluster. Complete if left out.
        between: who hears whom among the clusters of the aggregation, each of which then speaks with one
            voice, that of its hub, after its peers were averaged: weights inside, knowledge between. A
            peer of no cluster speaks for itself. If left out, all speak for themselves over ``topology``.
        oracle: teaches every peer on the peer's own samples, which are sent to it.
        schedule: the length of a round, and how often knowledge is exchanged.
        transport: what carries payloads; within this process if left out.
        participation: who takes part in a round, drawn for each cluster; everybody if left out.
    """

    def __init__(
        self,
        knowledge: Knowledge | None = None,
        aggregation: Aggregation | None = None,
        topology: Topology | None = None,
        schedule: Schedule | None = None,
        transport: Transport | None = None,
        participation: Participation | None = None,
        between: Topology | None = None,
        oracle: Oracle | None = None,
    ) -> None:
        self.oracle = oracle
        self.knowledge, self.aggregation = knowledge, aggregation
        self.topology = topology or Complete()
        self.schedule = schedule or Schedule()
        self.participation, self.between = participation, between
        self.collectives: list[Collective] = []
        self.transport = transport or LocalTransport()
        self.ledger = Ledger([])
        self.teaching: Teaching | None = None
        self._ensemble: Ensemble | None = None
        self._last = -1
        self._kept: dict[PeerName, float] = {}
        self._flops: dict[PeerName, Flops] = {}

    @property
    def draws_public(self) -> bool:
        """Whether local steps read public samples."""
        return self.knowledge is not None and self.knowledge.about == "public"

    # --- setting up --------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Join the cohort; find what cannot work before anything is trained.

        Raises:
            ConfigError: there is no cohort, a graph or cluster has no meaning for these peers, or no
                public sample shows a modality.
        """
        if not isinstance(pl_module, Cohort):
            raise ConfigError(
                f"DecentralizedCallback coordinates a Cohort, not a {type(pl_module).__name__}; a single"
                " student trains without it"
            )
        self._cohort, self._data = pl_module, trainer.datamodule  # type: ignore[attr-defined]  # Lightning types it too late
        pl_module.coordinator = self
        if not self.ledger.flops:
            self.ledger = Ledger(pl_module.names)
        self.post = Post(self.transport, self.ledger)
        modalities, ids = pl_module.roster
        clusters = self.aggregation.clusters(modalities) if self.aggregation is not None else []
        self._attendance: Attendance | None = None
        if self.participation is not None:
            self.participation.check(pl_module.names)
            samples = {name: self._data.samples_of(name) for name in pl_module.names}
            # A peer that shares weights with nobody is never left out; without any clusters all are one.
            together = clusters if self.aggregation is not None else [pl_module.names]
            self._attendance = Attendance(self.participation, together, samples, ids, self._data.seed)
        self.topology.check(pl_module.names)
        voices = self._voices(clusters)
        tools = (pl_module, self._data, self.post, self.topology, self._attendance)
        if self.oracle is not None and self.oracle.name == self.topology.hub:
            raise ConfigError(
                f"the oracle and the hub are both called '{self.oracle.name}'; give the oracle another name"
            )
        if self.oracle is not None and stage == "fit":
            self.oracle.join(pl_module, self._data, self.post)
            if not self.oracle.knowledge.keep and self.knowledge and self.knowledge.about == "classes":
                raise ConfigError(
                    f"{type(self.knowledge).__name__} is about labels, which nobody reads beside an oracle at"
                    " alpha 0: raise its alpha"
                )
        if self.knowledge is not None and stage == "fit":
            graph = self.between or self.topology
            self.teaching = Teaching(self.knowledge, pl_module, self._data, self.post, graph, voices)
        if self.aggregation is not None and stage == "fit":
            if self.aggregation.distils and self.topology.hub is not None:
                self._ensemble = Ensemble(pl_module, self._data, self.post, self.topology.hub)
            self.collectives = [
                Collective(self.aggregation, cluster, *tools, self._ensemble) for cluster in clusters
            ]
            for collective in self.collectives:
                collective.oracle = self.oracle

    def _voices(self, clusters: list[list[PeerName]]) -> dict[str, list[PeerName]]:
        """The clusters by the name of the hub that speaks for each."""
        if self.between is None:
            return {}
        knowledge, hub = self.knowledge, self.topology.hub
        if knowledge is None or self.aggregation is None:
            raise ConfigError(
                "decentralized.between joins collectives: give knowledge and an aggregation, too"
            )
        if hub is None:
            raise ConfigError(
                "decentralized.between needs hubs that speak for clusters: choose topology Star"
            )
        if self.aggregation.slices:
            raise ConfigError(
                "decentralized.between lets a cluster speak with one voice, and peers that hold slices have"
                " several: leave it out, or choose an aggregation of equal students"
            )
        if knowledge.samples != "all" or not knowledge.about == "public":
            raise ConfigError(
                "decentralized.between lets hubs speak, which see public samples only: set samples: all"
            )
        if knowledge.recall is not None:
            raise ConfigError("knowledge.recall is drawn by every peer for itself: leave it or between out")
        return {f"{hub}/{cluster[0]}": cluster for cluster in clusters}

    def timetable(self, steps_per_epoch: dict[PeerName, int]) -> Timetable:
        """The schedule of the cohort's peers."""
        streams = {peer: key(self._data.seed, name, "work") for peer, name in self._cohort.ids.items()}
        return self.schedule.timetable(steps_per_epoch, self._attendance, streams)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what a sample costs to compute, and bring public samples to the device."""
        self._flops = self._cohort.flops()
        timetable, epochs = self._cohort.timetable, trainer.max_epochs or -1
        self._last = epochs * timetable.rounds_per_epoch * timetable.round_ticks  # negative if open
        if self.between is not None and timetable.knowledge_every % timetable.round_ticks:
            raise ConfigError(
                f"decentralized.between exchanges at the end of rounds of {timetable.round_ticks} ticks: set"
                " schedule.knowledge_every to a multiple"
            )
        for collective in self.collectives:
            collective.flops = self._flops
            collective.check()
        for reader in (self.teaching, self._ensemble):
            if reader is not None:
                reader.prepare(self._flops)
        if self.oracle is not None:
            self.oracle.prepare()

    # --- the cohort calls these at every tick ------------------------------------------------------

    def before_step(self, step: Step) -> Step:
        """Ask the oracle, and begin a round if this is its first tick."""
        if self.oracle is not None:
            step = self.oracle.tell(step)
        for collective in self.collectives:
            collective.before_step(step)
        return step

    def correct(self) -> None:
        """Change local gradients, where an aggregation does."""
        for collective in self.collectives:
            collective.correct(self._kept)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Peers that sat out the last round hear how it ended."""
        for collective in self.collectives:
            collective.deliver()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where peers sit out, what is evaluated is the hub's weights and not what each heard last."""
        for collective in self.collectives:
            collective.show_hub()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to what each peer holds."""
        for collective in self.collectives:
            collective.show_own()

    def teach(self, step: Step, rows: list[list[int]]) -> list[Lesson | None]:
        """Distillation for the active rows of every group.

        Args:
            step: the samples of this tick.
            rows: active rows of every group.
        """
        lessons: list[Lesson | None] = [None] * len(rows)
        if self.teaching is not None:
            lessons = self.teaching.lessons(step, rows)
        self._kept = {}
        idle = set()
        for (_, group), active, lesson in zip(self._cohort.rows(), rows, lessons, strict=True):
            if lesson is not None:
                names = [group.names[row] for row in active]
                if self.collectives:
                    self._kept |= dict(zip(names, lesson.keep.tolist(), strict=True))
                idle |= {name for name, needed in zip(names, lesson.private, strict=True) if not needed}
        for same in step.private:
            for peer in same.peers:
                if peer not in idle:
                    self.ledger.compute(peer, same.y.shape[1] * self._flops[peer].train)
        return lessons

    def after_step(self, tick: int) -> None:
        """Exchange knowledge that is not of a step, combine weights and log, each if it is due.

        Knowledge comes first: peers that have trained alone differ in what they know, and a consensus of
        peers that have just been averaged would be one opinion said many times.
        """
        timetable = self._cohort.timetable
        teaching = self.teaching if tick + 1 != self._last else None  # nobody would use the last
        if teaching is not None and self.between is None:
            teaching.share(tick)
        if not timetable.ends_round(tick):
            return
        round_ = timetable.round_of(tick)
        if self.collectives:
            self._cohort.verify()
            if self._ensemble is not None:
                self._ensemble.ask([peer for collective in self.collectives for peer in collective.present])
            for collective in self.collectives:
                collective.finish()
        if teaching is not None and self.between is not None:  # each hub speaks for its own
            for collective in self.collectives:
                collective.show_hub()
            teaching.share(tick)
            for collective in self.collectives:
                collective.show_own()
        if not self._cohort.loggers:
            return
        figures = {"ledger/bytes_per_peer": self.ledger.bytes_per_peer()}
        figures |= {f"ledger/{kind}_bytes": self.ledger.total(kind) for kind in self.ledger.kinds()}
        figures["ledger/flops_per_peer"] = self.ledger.flops_per_peer()
        stale = self.teaching.exchange.staleness(tick) if self.teaching is not None else None
        if stale is not None:
            figures["knowledge/staleness"] = stale
        with timed(self._cohort.trainer, "logging"):
            for logger in self._cohort.loggers:
                logger.log_metrics({"round": round_, **figures}, step=self._cohort.global_step)

    def edges(self) -> list[tuple[str, str]]:
        """Who sends to whom in round 0, for drawing."""
        if self.teaching is not None:
            return self.teaching.exchange.topology.edges(self.teaching.exchange.everybody, 0)
        among = [edge for c in self.collectives for edge in self.topology.edges(c.peers, 0)]
        return among or (self.oracle.edges(self._cohort.names) if self.oracle is not None else [])

    @property
    def hub(self) -> str | None:
        """Whom ``edges`` names besides peers."""
        asked = self.oracle is not None and self.teaching is None and not self.collectives
        return self.oracle.name if self.oracle is not None and asked else self.topology.hub

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The ledger, what listeners were told, and what aggregations remember."""
        return {
            "ledger": self.ledger.state_dict(),
            "teaching": self.teaching.state_dict() if self.teaching is not None else {},
            "collectives": [collective.state_dict() for collective in self.collectives],
            "oracle": self.oracle.state_dict() if self.oracle is not None else {},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a saved run stood."""
        self.ledger = Ledger.from_state(state_dict["ledger"])
        self.post.ledger = self.ledger
        for collective, kept in zip(self.collectives, state_dict["collectives"], strict=False):
            collective.load_state_dict(kept)
        if self.teaching is not None:
            self.teaching.load_state_dict(state_dict["teaching"])
        if self.oracle is not None:
            self.oracle.load_state_dict(state_dict["oracle"])
