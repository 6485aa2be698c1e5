"""A cluster and its aggregation: begins, corrects and ends its federated rounds."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from mmkd.cohort.peers import Peers
from mmkd.coordination.alone import Alone
from mmkd.coordination.answers import Answers
from mmkd.coordination.cluster_mail import ClusterMail, with_own
from mmkd.coordination.delivery import Delivery
from mmkd.coordination.hub_distillation import HubDistillation
from mmkd.coordination.members import Members
from mmkd.coordination.oracle import AskedOracle
from mmkd.coordination.private_gradients import PrivateGradients
from mmkd.coordination.refusals import check_finished, check_thawed
from mmkd.coordination.setting import setting_of
from mmkd.data.base import PeerData
from mmkd.encoding import Compression
from mmkd.federated import Aggregation, Round
from mmkd.functional.graph import Graph
from mmkd.functional.mixing import Mixing, mix, weighs_only_heard, without
from mmkd.functional.neighbourhoods import Rule, reduce_neighbourhoods, shares
from mmkd.functional.trees import Tree, add_, scale_rows_
from mmkd.participation import Attendance
from mmkd.topology import Topology
from mmkd.types import ConfigError, PeerName, Step


class Federation(Round):
    """The rounds of one cluster: calls its aggregation when it is due, and is the ``Round`` that this sees.

    Args:
        aggregation: of which this cluster has a copy of its own.
        members: peers of the cluster, in canonical order.
        peers: all peers of the cohort, and the facts of peers in other processes.
        data: holds their samples.
        delivery: carries what they say.
        topology: who hears whom among them.
        attendance: who takes part in which round; everybody, if None.
        distillation: trains the hub's weights on public samples, if the aggregation distils.
        oracle: teaches peers on their own samples, if there is one.
        saved: ``state_dict`` of a saved run; None for a new run.

    Raises:
        ConfigError: the aggregation has no meaning for these peers, or other peers were saved.
    """

    def __init__(
        self,
        aggregation: Aggregation,
        members: list[PeerName],
        peers: Peers,
        data: PeerData,
        delivery: Delivery,
        topology: Topology,
        attendance: Attendance | None,
        distillation: HubDistillation | None = None,
        oracle: AskedOracle | None = None,
        saved: dict[str, Any] | None = None,
    ) -> None:
        self.aggregation, self.members = copy.deepcopy(aggregation), members
        self._peers = peers
        self._topology, self._attendance, self._distillation = topology, attendance, distillation
        self._gradients = PrivateGradients(peers, data, delivery.ledger, oracle)
        self._row = {peer: row for row, peer in enumerate(members)}
        self._all = torch.arange(len(members))
        self._members = Members(members, peers, slices=aggregation.slices)
        located = {peer: peers.axis.locate(peer) for peer in self._members.here}
        self._optimizers = {peer: group.optimizers()[place] for peer, (group, place) in located.items()}
        facts = [peers.everybody[peer] for peer in members]
        self._samples_per_step = torch.tensor([own.samples_per_step for own in facts], dtype=torch.float64)
        self.p = aggregation.proportions(
            {peer: float(own.samples) for peer, own in zip(members, facts, strict=True)}
        )
        self.number, self._varied = -1, True
        self._graph: Graph | None = None
        self._alone = Alone(usual=delivery.asynchronous)
        self._known: tuple[Collection[PeerName], list[int]] = ((), [])
        self._current: Step | None = None
        self._stepping: list[PeerName] = []
        self._kept: Mapping[PeerName, float] = {}
        self._closing = False
        self._absent: set[int] = set()  # positions among those present of whom nothing has arrived
        self.shapes = self._members.shapes
        slices = dict(zip(members, self.shapes, strict=True)) if aggregation.slices else None
        self._mail = ClusterMail(delivery, topology.hub, peers.ids, slices, whole=self._members.whole)
        self._answers = Answers(self._members, self._mail)
        if saved is not None:
            self._load_state(saved)
        if self.aggregation.agrees:
            self._members.check_start(hub=topology.hub is not None and self._mail.hosts)
        setting = setting_of(
            self._members, peers, topology, attendance, self._optimizers, self.p, begun=self.number >= 0
        )
        self.q, self.agree = setting.q, setting.agree
        self.aggregation.check(setting)

    # --- the coordinator calls ---------------------------------------------------------------------

    def begin(self, step: Step) -> None:
        """Begin the round whose first tick this is."""
        timetable = self._peers.timetable
        self._current, self.step = step, 0
        self._alone.begin()
        if self.number < 0 and self.aggregation.slices:
            self._answers.latest["weights"] = self._members.cut(buffers=self.aggregation.buffers == "average")
        self._enter(timetable.round_of(step.tick))
        if len(self.rows):
            self._answers.fetch(self.number, self.rows.tolist(), list(self._answers.latest))
            with torch.no_grad(), self._alone.unless_heard():
                x = check_thawed(self.aggregation, self._beginning())
                self.aggregation.begin(x, self)

    def _beginning(self) -> Tree:
        """Weights of those present; in other processes, too, where all begin a round with equal ones."""
        if not self.aggregation.agrees:
            return self._members.parameters_of(self.present)
        known = self._answers.latest.get("weights", {}) if self._mail.hosts else {}
        return self._members.beginning(self.present, known, equal=self.aggregation.in_step)

    def _enter(self, round_: int) -> None:
        timetable = self._peers.timetable
        self.number, self.ticks = round_, timetable.round_ticks
        work = [timetable.work[peer] for peer in self.members] if self._varied else []
        if work:
            self.steps = torch.tensor([float(w.steps(round_)) for w in work], dtype=torch.float64)
            self._varied = any(w.least < w.most for w in work)
        self.rows = torch.tensor(self._there(round_), dtype=torch.long)
        self._absent.clear()
        if not self._topology.fixed or self._attendance is not None:
            self._graph = None

    @property
    def graph(self) -> Graph:
        """Who hears whom among those who take part, computed when it is needed."""
        if self._graph is None:
            self._graph = self._topology.within(self.present, self.members, self.number)
        return self._graph

    def _there(self, round_: int) -> list[int]:
        if self._attendance is None:
            return list(self._row.values())
        present = self._attendance.present(round_)  # another set, once somebody has left
        if self._known[0] is not present:
            self._known = present, sorted(self._row[peer] for peer in present if peer in self._row)
        return self._known[1]

    @property
    def present(self) -> list[PeerName]:
        """The peers that take part in this round."""
        return [self.members[row] for row in self.rows.tolist()]

    @property
    def corrects(self) -> bool:
        """Whether local gradients are changed or read."""
        return self.aggregation.corrects

    @torch.no_grad()
    def correct(self, step: Step, kept: Mapping[PeerName, float]) -> None:
        """Change the gradients of the peers that are about to step.

        Args:
            step: the samples that they are of.
            kept: weight of the private loss in them; 1, for peers that are not named.
        """
        self._current, self._kept = step, kept
        self.step = step.tick % self._peers.timetable.round_ticks
        stepping = {peer for batches in step.private for peer in batches.peers}
        self._stepping = [peer for peer in self._members.here if peer in stepping]
        if self._stepping and not self._alone:
            everybody = len(self._stepping) == len(self.members)
            rows = self._all if everybody else torch.tensor([self._row[peer] for peer in self._stepping])
            g = self._peers.axis.gradients(self._stepping)
            self._peers.axis.load_gradients(self._stepping, self.aggregation.correct(g, rows, self))

    @torch.no_grad()
    def finish(self) -> None:
        """End the round: combine weights, send them and load them into students."""
        if len(there := self._there(self.number)) < len(self.rows):  # some have diverged since it began
            self.rows, self._graph = torch.tensor(there, dtype=torch.long), None
        if self.present and not self._alone:
            with self._alone.unless_heard():
                self._combine(self.present)
        self._closing = False

    def _combine(self, names: list[PeerName]) -> None:
        self._closing = True
        self._absent.clear()
        members = self._members
        x = self.aggregation.finish(members.parameters_of(names), self)
        if not self.agree:
            check_finished(self.aggregation, x, len(names))
        if members.statistics and self.aggregation.buffers == "average":
            found = members.weights(names)
            statistics = {name: leaf for name, leaf in found.items() if name in members.statistics}
            x = x | self.aggregation.average(statistics, self)
        rows = self._listeners()
        if self._topology.hub is not None:
            self._answers.conclude(x, rows)
        members.load([self.members[row] for row in rows] if self._topology.hub is not None else names, x)
        if self.aggregation.optimizer_state == "reset":
            self._peers.axis.reset_optimizers(members.held(names))

    def _listeners(self) -> list[int]:
        """Who gets the hub's answer: at the end of a round the peers of the next one."""
        return self._there(self.number + 1) if self._closing else self.rows.tolist()

    def close(self) -> None:
        """End training: send the hub's weights to every peer that lacks them."""
        absent = self._peers.divergence.absent
        rows = [row for row, name in enumerate(self.members) if name not in absent]
        self._answers.fetch(self.number, rows, ["weights"])

    def show_hub(self) -> None:
        """Give every peer the hub's weights, to be evaluated; nothing is counted as sent."""
        self._answers.show()

    def show_own(self) -> None:
        """Give each peer its own weights back, after ``show_hub``."""
        self._answers.hide()

    # --- the aggregation calls ---------------------------------------------------------------------

    @property
    def counted(self) -> Tensor:
        """Weights p of those present, 0 for those of whom nothing has arrived; equal, if others have none."""
        p = super().counted
        if not self._absent:
            return p
        left = p.masked_fill(self._gone(), 0.0)
        return left if float(left.sum()) > 0 else (~self._gone()).to(p.dtype)

    def _gone(self) -> Tensor:
        """For each of those present, whether nothing has arrived of it."""
        return torch.isin(torch.arange(len(self.rows)), torch.tensor(sorted(self._absent), dtype=torch.long))

    @property
    def hub(self) -> Tree:
        """The hub's weights."""
        return self._answers.latest["weights"]

    def send(self, kind: str, tree: Tree, compression: Compression | None = None) -> Tree:
        """Send what everybody present says to everybody."""
        if not self.agree:
            name = type(self.aggregation).__name__
            raise ConfigError(
                f"{name} asks what everybody says, and on this graph not everybody hears everybody: derive it"
                " from Combination and write combine, or choose topology Star or Complete"
            )
        return self._said(kind, tree, compression)

    def mix(
        self,
        kind: str,
        tree: Tree,
        mixing: Tensor | Mixing,
        *,
        compression: Compression | None = None,
        memory: Tree | None = None,
    ) -> Tree:
        """Send what everybody present says to those that hear it, each of whom adds it up."""
        if not self.agree and not weighs_only_heard(mixing, self.graph):
            raise ConfigError(
                f"{type(self.aggregation).__name__} weighs peers that are not heard: build its weights from"
                " round.graph"
            )
        heard = self._said(kind, tree, compression)
        if memory is not None:  # of one that is absent, what it said before
            add_(memory, heard)
            heard = memory
        elif self._absent:
            mixing, heard = without(mixing, self._gone()), with_own(heard, tree, self._absent)
        mixed = mix(heard, mixing)
        return self.answer(kind, mixed) if self.agree and len(next(iter(mixed.values()))) == 1 else mixed

    def reduce(self, kind: str, tree: Tree, rule: Rule) -> Tree:
        """Send what everybody present says, and combine what each listener hears by a rule."""
        heard, p = self._said(kind, tree, None), self.p[self.rows]
        there = [i for i in range(len(p)) if i not in self._absent]
        if not self.agree:
            here = torch.tensor(self._peers.here(self.present), dtype=torch.long)
            graph = self.graph if len(there) == len(p) else self.graph.hearing(torch.tensor(there))
            return reduce_neighbourhoods(with_own(heard, tree, self._absent), graph, p, rule, here)
        if len(there) < len(p):
            heard, p = {name: leaf[there] for name, leaf in heard.items()}, p[there]
        if not self._mail.hosts:  # the hub hears all
            return self.answer(kind, {name: leaf[:1] for name, leaf in heard.items()})
        combined = rule({name: leaf[None] for name, leaf in heard.items()}, shares(p[None]))
        if any(len(leaf) != 1 for leaf in combined.values()):
            raise ConfigError(f"{type(self.aggregation).__name__}.combine gave no row for each listener")
        return self.answer(kind, combined)

    def _said(self, kind: str, tree: Tree, compression: Compression | None) -> Tree:
        """Send what everybody present says, and return it as it arrives, ``[present, ...]``."""
        graph = None if self._topology.hub is not None else self.graph
        heard, absent = self._mail.gather(kind, self.number, tree, self.present, graph, compression)
        self._absent.update(absent)
        return heard

    def answer(
        self,
        kind: str,
        tree: Tree,
        *,
        compression: Compression | None = None,
        told: Tree | None = None,
        rows: Sequence[int] | None = None,
    ) -> Tree:
        """Send one answer of the hub to all who listen; what they know then."""
        hub = self._topology.hub is not None
        rows = self._listeners() if rows is None and hub else rows or ()
        known = self._answers.say(kind, self.number, tree, rows, compression, told)
        if hub and self._closing and kind != self.aggregation.kind:
            self._answers.latest[kind] = known
        return known

    def heard(self, kind: str, otherwise: Tree) -> Tree:
        """What the hub sent last of a kind."""
        return self._answers.latest.get(kind, otherwise)

    def weights(self) -> Tree:
        """Weights of the peers that are about to step."""
        return self._peers.axis.parameters_of(self._stepping)

    def minibatch(self, at: Tree) -> Tree:
        """Gradients on the current batches at weights ``at``."""
        assert self._current is not None
        batches = [b for b in self._current.private if any(peer in self._row for peer in b.peers)]
        return self._gradients.on(self._stepping, batches, at)

    def scale(self, correction: Tree) -> Tree:
        """Corrections, multiplied by the weight of the private loss in this step."""
        if not self._kept:
            return correction
        kept = torch.tensor([self._kept.get(peer, 1.0) for peer in self._stepping], dtype=torch.float64)
        scaled = {name: leaf.clone() for name, leaf in correction.items()}
        scale_rows_(scaled, kept)
        return scaled

    def full(self, at: Tree) -> Tree:
        """Gradients over all private samples, batch by batch."""
        names, members = self.present, self._members
        if members.whole:
            return self._gradients.full(names, at, self.number)
        here = members.held(names)
        none = {n: leaf[:0] for n, leaf in at.items()}
        return members.among(names, self._gradients.full(here, at, self.number) if here else none)

    def distil(self, x: Tree, **how: Any) -> Tree:
        """Train the hub's weights on public samples."""
        assert self._distillation is not None
        return self._distillation.teach(x, self.present, self.number, **how)

    def rates(self) -> list[float]:
        """Learning rates of the peers that are about to step."""
        return [self._optimizers[peer].param_groups[0]["lr"] for peer in self._stepping]

    def portions(self) -> Tensor:
        """Sizes of the current batches divided by all that the peers read in this round."""
        assert self._current is not None
        sizes = {peer: same.size for same in self._current.private for peer in same.peers}
        rows = [self._row[peer] for peer in self._stepping]
        read = torch.tensor([sizes[peer] for peer in self._stepping], dtype=torch.float64)
        return read / self._samples_per_step[rows] / self.steps[rows]

    def optimizer(self, row: int) -> Optimizer | None:
        """The local optimizer of a peer."""
        return self._optimizers.get(self.members[row])

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """State of the aggregation and of the hub, with the names of the rows."""
        hub = {"latest": self._answers.latest, "fresh": self._answers.fresh, "number": self.number}
        return {"peers": self.members, "aggregation": self.aggregation.state, **hub}

    def _load_state(self, saved: dict[str, Any]) -> None:
        """Load the state of a saved run."""
        if saved["peers"] != self.members:
            raise ConfigError("the checkpoint has other clusters; set aggregation.among as in the saved run")
        trees = (saved["aggregation"], saved["latest"])
        self.aggregation.state, self._answers.latest = tree_map(lambda t: t.to(self._peers.device), trees)
        self._answers.fresh = saved["fresh"]
        if saved["number"] >= 0:
            self._enter(saved["number"])
