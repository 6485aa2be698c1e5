"""A method: the settings of what is said, to whom, when, and how it is carried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmkd.coordination.oracle import Oracle
from mmkd.coordination.refusals import check_hearing
from mmkd.federated import Aggregation
from mmkd.knowledge import Statements
from mmkd.participation import Participation
from mmkd.schedule import Schedule
from mmkd.topology import Topology
from mmkd.transport import Transport
from mmkd.types import ConfigError, Modality, PeerName


@dataclass(frozen=True)
class Method:
    """The settings of a method, described in ``DecentralizedCallback``.

    Raises:
        ConfigError: some of them have no meaning together.
    """

    knowledge: Statements | None
    aggregation: Aggregation | None
    topology: Topology
    schedule: Schedule
    transport: Transport
    participation: Participation | None
    between: Topology | None
    oracle: Oracle | None

    def __post_init__(self) -> None:
        oracle, knowledge = self.oracle, self.knowledge
        if oracle is not None and oracle.name == self.topology.hub:
            raise ConfigError(
                f"the oracle and the hub are both called '{oracle.name}'; give the oracle another name"
            )
        if oracle is not None and not oracle.knowledge.keep and knowledge and knowledge.about == "classes":
            raise ConfigError(
                f"{type(knowledge).__name__} is about labels, which nobody reads beside an oracle at alpha 0:"
                " raise its alpha"
            )
        if self.between is None:
            return
        if knowledge is None or self.aggregation is None:
            raise ConfigError("decentralized.between joins clusters: give knowledge and an aggregation, too")
        if self.topology.hub is None:
            raise ConfigError(
                "decentralized.between needs hubs that speak for clusters: choose topology Star"
            )
        if self.aggregation.slices:
            raise ConfigError(
                "decentralized.between lets a hub speak for a cluster of equal students, and peers that hold"
                " slices differ: leave it out, or choose another aggregation"
            )
        if knowledge.samples != "all" or not knowledge.about == "public":
            raise ConfigError(
                "decentralized.between lets hubs speak, which see public samples only: set samples: all"
            )
        if knowledge.recall is not None:
            raise ConfigError("knowledge.recall is drawn by every peer for itself: leave it or between out")

    def check_elsewhere(self, divided: Sequence[Sequence[PeerName]]) -> None:
        """Refuse settings that have no meaning where some peers are in other processes.

        Args:
            divided: clusters of which some peers are in this process and some are not.

        Raises:
            ConfigError: a hub needs students of peers, or an oracle their samples.
        """
        where = "where some peers are in other processes"
        if self.oracle is not None:
            raise ConfigError(f"an oracle reads samples of peers beside it: leave it out {where}")
        if self.between is not None and divided:
            raise ConfigError(
                "decentralized.between lets a hub speak with students beside it: hold all of"
                f" {', '.join(divided[0])} in one process"
            )
        if self.aggregation is not None and self.aggregation.distils:
            kind = type(self.aggregation).__name__
            raise ConfigError(f"the hub of {kind} predicts with students beside it: choose FedAvg {where}")

    def check_asynchronous(self) -> None:
        """Refuse settings that have no meaning where peers are in different rounds.

        Raises:
            ConfigError: something is said that is of use only in the round in which it is said.
        """
        where = "where processes wait for nobody"
        if self.knowledge is not None and self.knowledge.samples == "batch":
            raise ConfigError(f"peers do not read the same batch {where}: set knowledge.samples to all")
        if self.knowledge is not None and self.knowledge.cache is not None:
            raise ConfigError(f"knowledge.cache takes turns of speaking for granted: leave it out {where}")
        if self.knowledge is not None and self.knowledge.teachers is not None:
            raise ConfigError(f"knowledge.teachers are drawn anew in each exchange: leave it out {where}")
        if self.aggregation is not None and self.aggregation.in_step:
            kind = type(self.aggregation).__name__
            raise ConfigError(f"{kind} combines weights of one round: choose FedBuff or Gossip {where}")
        if self.participation is not None:
            raise ConfigError(f"nobody knows who takes part in a round: leave participation out {where}")
        if self.between is not None or not self.topology.fixed:
            what = "decentralized.between" if self.between is not None else type(self.topology).__name__
            raise ConfigError(f"{what} is of one round: choose Star, or a graph that stays, {where}")

    def check_settings(self, modalities: Mapping[PeerName, Modality]) -> None:
        """Refuse a configuration of which a part has no effect; a control in Python may want just that.

        Args:
            modalities: of all peers.

        Raises:
            ConfigError: such a configuration.
        """
        self.topology.check(list(modalities))
        clusters = self.clusters(modalities)
        if self.knowledge is None and self.schedule.knowledge_every is not None:
            raise ConfigError(
                "schedule.knowledge_every needs knowledge to exchange: leave it out, or add some"
            )
        if self.knowledge is not None:
            speakers = self.speakers(clusters)
            spoken_for = {peer for members in speakers.values() for peer in members}
            everybody = [*speakers, *(peer for peer in modalities if peer not in spoken_for)]
            check_hearing(self.between or self.topology, [everybody])
        if clusters and self.between is None and self.aggregation is not None:
            check_hearing(self.topology, clusters)

    @property
    def draws_public(self) -> bool:
        """Whether local steps read public samples."""
        return self.knowledge is not None and self.knowledge.about == "public"

    def clusters(self, modalities: Mapping[PeerName, Modality]) -> list[list[PeerName]]:
        """Peers by cluster, within which they share weights."""
        return self.aggregation.clusters(modalities) if self.aggregation is not None else []

    def speakers(self, clusters: list[list[PeerName]]) -> dict[str, list[PeerName]]:
        """Clusters by the name of the hub that speaks for each; empty, if all peers speak for themselves."""
        if self.between is None:
            return {}
        return {f"{self.topology.hub}/{cluster[0]}": cluster for cluster in clusters}
