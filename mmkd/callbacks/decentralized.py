"""The Lightning callback that coordinates a cohort: its arguments are the settings of a method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mmkd.cohort.cohort import Cohort
from mmkd.cohort.coordinator import Coordination
from mmkd.coordination.coordinator import Coordinator
from mmkd.coordination.method import Method
from mmkd.coordination.oracle import Oracle
from mmkd.data.base import PeerData
from mmkd.description import Setting
from mmkd.encoding.messages import encode
from mmkd.federated import Aggregation
from mmkd.functional.random import key
from mmkd.knowledge import Statements
from mmkd.ledger import EVERYBODY, JOINING, Ledger
from mmkd.participation import Attendance, Participation, Trace
from mmkd.schedule import Schedule, Timetable
from mmkd.topology import Complete, Topology
from mmkd.transport import Facts, LocalTransport, Transport
from mmkd.types import ConfigError, PeerName


class DecentralizedCallback(Callback, Coordination):
    """Coordinates the exchange of knowledge and weights among the peers of a cohort.

    A method combines settings: what is said (``knowledge``, ``aggregation``, both or neither), to whom
    (``topology``), when (``schedule``) and how it is carried (``transport``). Everybody speaks, then
    everybody listens, so a round does not depend on the order of peers.

    Args:
        knowledge: what peers teach about public samples.
        aggregation: how weights are combined at the end of a round.
        topology: who hears whom; for weights, within each cluster. Complete if left out.
        schedule: the length of a round, and how often knowledge is exchanged.
        transport: what carries messages; within this process if left out.
        participation: who takes part in a round, drawn for each cluster; everybody if left out.
        between: who hears whom among the clusters of the aggregation, for each of which its hub then speaks,
            after its peers were averaged: weights inside, knowledge between. A peer of no cluster speaks for
            itself. If left out, all speak for themselves over ``topology``.
        oracle: teaches every peer on the peer's own samples, which are sent to it.
    """

    def __init__(
        self,
        knowledge: Statements | None = None,
        aggregation: Aggregation | None = None,
        topology: Topology | None = None,
        schedule: Schedule | None = None,
        transport: Transport | None = None,
        participation: Participation | None = None,
        between: Topology | None = None,
        oracle: Oracle | None = None,
    ) -> None:
        self.method = Method(
            knowledge,
            aggregation,
            topology or Complete(),
            schedule or Schedule(),
            transport or LocalTransport(),
            participation,
            between,
            oracle,
        )
        self.ledger = Ledger([])
        self._coordinator: Coordinator | None = None
        self._saved: dict[str, Any] | None = None

    @property
    def coordinator(self) -> Coordinator | None:
        """The coordinator of the last fit that began."""
        return self._coordinator

    @property
    def begins(self) -> int:
        """The first round in which the peers of this process take part."""
        return self.method.transport.begins

    @property
    def draws_public(self) -> bool:
        """Whether local steps read public samples."""
        return self.method.draws_public

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings of the method but its transport, which may be another after a resume."""
        return {name: part for name, part in vars(self.method).items() if name != "transport"}

    # --- setting up --------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the seed and the peers that are to be coordinated; ``join`` follows once their data are known.

        Raises:
            ConfigError: there is no cohort.
        """
        if not isinstance(pl_module, Cohort):
            raise ConfigError(
                f"DecentralizedCallback coordinates a Cohort, not a {type(pl_module).__name__}; a single"
                " student trains without it"
            )
        data: PeerData = trainer.datamodule  # type: ignore[attr-defined]  # Lightning types it too late
        self._seed = data.seed
        if stage != "fit" and not self.ledger.flops:
            self.ledger = Ledger(pl_module.names)

    def join(
        self,
        facts: Mapping[PeerName, Facts],
        awaited: Collection[PeerName] = (),
        settings: Mapping[str, Setting] = MappingProxyType({}),
        *,
        may_leave: bool,
    ) -> tuple[Mapping[PeerName, Facts], Timetable]:
        """Join the transport, then check the method for all peers and make their timetable.

        Raises:
            ConfigError: a graph, a cluster or the schedule has no meaning for these peers, or some may leave
                of whom other processes would not know it.
        """
        method = self.method
        everybody = method.transport.join(facts, awaited, settings)
        names = list(everybody)
        if not self.ledger.flops:
            self.ledger = Ledger(names)
            if len(names) > len(facts):
                for name, own in facts.items():
                    self.ledger.send(0, name, EVERYBODY, JOINING, len(encode(own.payload(name))))
        ids = {name: own.id for name, own in everybody.items()}
        clusters = method.clusters({name: own.modality for name, own in everybody.items()})
        method.topology.check(names)
        self._attendance: Attendance | None = None
        if may_leave and len(names) > len(facts):
            raise ConfigError(
                "peers in other processes do not know who sits out: set model.on_divergence to stop"
            )
        participation = method.participation or (Trace({}) if may_leave else None)
        if participation is not None:
            participation.check(names)
            samples = {name: own.samples for name, own in everybody.items()}
            # A peer outside of all clusters takes part in every round; without clusters, all peers form one.
            together = clusters if method.aggregation is not None else [names]
            self._attendance = Attendance(participation, together, samples, ids, self._seed)
        streams = {peer: key(self._seed, name, "work") for peer, name in ids.items()}
        steps = {name: own.steps_per_epoch for name, own in everybody.items()}
        return everybody, method.schedule.timetable(steps, self._attendance, streams)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the coordinator of the fit, with the state of a saved run if one is resumed.

        Raises:
            ConfigError: the method has no meaning for these students.
        """
        assert isinstance(pl_module, Cohort)
        self._coordinator = Coordinator(
            self.method,
            pl_module.peers,
            trainer.datamodule,  # type: ignore[attr-defined]  # Lightning types it too late
            self.ledger,
            self._attendance,
            None if trainer.fast_dev_run else trainer.max_epochs,  # type: ignore[attr-defined]  # a trial has all exchanges
            self._saved,
        )
        self._saved = None

    # --- while a fit lasts -------------------------------------------------------------------------

    def on_train_batch_end(self, *args: Any) -> None:
        """Count what the block has cost in the ledger."""
        if self._coordinator is not None:
            self._coordinator.account()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give peers that sat out the last round its result, and leave other processes."""
        if self._coordinator is not None:
            self._coordinator.close()
        self.method.transport.leave()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where peers may sit out, evaluate the hub's weights and not those that each peer got last."""
        if self._coordinator is not None:
            self._coordinator.show_hub()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give each peer its own weights back."""
        if self._coordinator is not None:
            self._coordinator.show_own()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give each peer its own weights back, if an error ends an evaluation, and leave other processes."""
        self.on_validation_end(trainer, pl_module)
        self.method.transport.leave(at_once=True)

    # --- for figures of the graph -------------------------------------------------------------------

    def edges(self, names: list[PeerName]) -> list[tuple[str, str]]:
        """The directed edges (sender, receiver) of round 0, of a fit that has begun."""
        if self._coordinator is not None and self._coordinator.lessons is not None:
            exchange = self._coordinator.lessons.exchange
            return exchange.topology.edges(exchange.everybody, 0)
        federations = self._coordinator.federations if self._coordinator is not None else []
        among = [edge for f in federations for edge in self.method.topology.edges(f.members, 0)]
        oracle = self.method.oracle
        return among or (oracle.edges(names) if oracle is not None else [])

    @property
    def hub(self) -> str | None:
        """Name of the hub among the participants of ``edges``; None if there is no hub."""
        method = self.method
        asked = method.oracle is not None and method.knowledge is None and method.aggregation is None
        return method.oracle.name if method.oracle is not None and asked else method.topology.hub

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The ledger, and the state of the coordinator."""
        if self._coordinator is None:
            return {"ledger": self.ledger.state_dict(), **(self._saved or {})}
        self._coordinator.account()
        return {"ledger": self.ledger.state_dict(), **self._coordinator.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state of a saved run until the fit starts."""
        self.ledger = Ledger.from_state(state_dict["ledger"])
        self._saved = {name: part for name, part in state_dict.items() if name != "ledger"}
