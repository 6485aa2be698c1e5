"""The coordinator as a Lightning callback."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mmkd.cohort.cohort import Cohort
from mmkd.cohort.coordinator import Coordination
from mmkd.coordination.coordinator import Coordinator
from mmkd.coordination.method import Method
from mmkd.coordination.oracle import Oracle
from mmkd.federated import Aggregation
from mmkd.functional.random import key
from mmkd.knowledge import Statements
from mmkd.ledger import Ledger
from mmkd.participation import Attendance, Participation
from mmkd.schedule import Schedule, Timetable
from mmkd.topology import Complete, Topology
from mmkd.transport import LocalTransport, Transport
from mmkd.types import ConfigError, PeerName


class DecentralizedCallback(Callback, Coordination):
    """Coordinates the exchange of knowledge and weights among the peers of a cohort.

    A method is a product: what is said (``knowledge``, ``aggregation``, both or neither), to whom
    (``topology``), when (``schedule``) and how it is carried (``transport``). Everybody speaks, then
    everybody listens, so a round does not depend on the order of peers.

    Args:
        knowledge: what peers teach about public samples.
        aggregation: how weights are combined at the end of a round.
        topology: who hears whom; for weights, within each cluster. Complete if left out.
        schedule: the length of a round, and how often knowledge is exchanged.
        transport: what carries what is said; within this process if left out.
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
        """At work since the last fit began."""
        return self._coordinator

    @property
    def draws_public(self) -> bool:
        """Whether local steps read public samples."""
        return self.method.draws_public

    # --- setting up --------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find what cannot work before anything is trained.

        Raises:
            ConfigError: there is no cohort, or a graph or cluster has no meaning for these peers.
        """
        if not isinstance(pl_module, Cohort):
            raise ConfigError(
                f"DecentralizedCallback coordinates a Cohort, not a {type(pl_module).__name__}; a single"
                " student trains without it"
            )
        method, data = self.method, trainer.datamodule  # type: ignore[attr-defined]  # Lightning types it too late
        if not self.ledger.flops:
            self.ledger = Ledger(pl_module.names)
        modalities, ids = pl_module.roster
        clusters = method.clusters(modalities)
        method.topology.check(pl_module.names)
        self._attendance: Attendance | None = None
        if method.participation is not None:
            method.participation.check(pl_module.names)
            samples = {name: data.samples_of(name) for name in pl_module.names}
            # A peer that shares weights with nobody is never left out; without any clusters all are one.
            together = clusters if method.aggregation is not None else [pl_module.names]
            self._attendance = Attendance(method.participation, together, samples, ids, data.seed)
        self._streams = {peer: key(data.seed, name, "work") for peer, name in ids.items()}

    def timetable(self, steps_per_epoch: dict[PeerName, int]) -> Timetable:
        """The schedule of the cohort's peers."""
        return self.method.schedule.timetable(steps_per_epoch, self._attendance, self._streams)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the coordinator to work, from where a saved run stood if one is resumed.

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
        """Write down what the block has cost."""
        if self._coordinator is not None:
            self._coordinator.account()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Peers that sat out the last round hear how it ended."""
        if self._coordinator is not None:
            self._coordinator.close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where peers sit out, what is evaluated is the hub's weights and not what each heard last."""
        if self._coordinator is not None:
            self._coordinator.show_hub()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back to what each peer holds."""
        if self._coordinator is not None:
            self._coordinator.show_own()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A run that was cut off leaves every peer where it stood."""
        self.on_validation_end(trainer, pl_module)

    # --- for whoever draws the graph ---------------------------------------------------------------

    def edges(self, names: list[PeerName]) -> list[tuple[str, str]]:
        """Who sends to whom in round 0, of a fit that has begun."""
        if self._coordinator is not None and self._coordinator.lessons is not None:
            exchange = self._coordinator.lessons.exchange
            return exchange.topology.edges(exchange.everybody, 0)
        federations = self._coordinator.federations if self._coordinator is not None else []
        among = [edge for f in federations for edge in self.method.topology.edges(f.members, 0)]
        oracle = self.method.oracle
        return among or (oracle.edges(names) if oracle is not None else [])

    @property
    def hub(self) -> str | None:
        """Whom ``edges`` names besides peers."""
        method = self.method
        asked = method.oracle is not None and method.knowledge is None and method.aggregation is None
        return method.oracle.name if method.oracle is not None and asked else method.topology.hub

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The ledger, and all that the coordinator remembers."""
        if self._coordinator is None:
            return {"ledger": self.ledger.state_dict(), **(self._saved or {})}
        self._coordinator.account()
        return {"ledger": self.ledger.state_dict(), **self._coordinator.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a saved run stood, when the fit starts."""
        self.ledger = Ledger.from_state(state_dict["ledger"])
        self._saved = {name: part for name, part in state_dict.items() if name != "ledger"}
