"""One cluster and its aggregation at work: a federated round from the first local step to the last."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmkd.cohort.cohort import Cohort
from mmkd.coordination.delivery import Post
from mmkd.coordination.hub_distillation import Ensemble
from mmkd.cost.flops import Flops
from mmkd.data.base import PeerData
from mmkd.data.blocks import sweep
from mmkd.encoding import Compression
from mmkd.encoding.messages import sizes
from mmkd.federated import Aggregation, Round, Setting
from mmkd.functional.random import key
from mmkd.functional.slices import leading, padded
from mmkd.functional.trees import Tree, add, pick, put, scale_rows_
from mmkd.participation import Attendance
from mmkd.topology import Topology
from mmkd.types import Batches, ConfigError, Payload, PeerName, Step

if TYPE_CHECKING:
    from mmkd.coordination.oracle import Oracle


class Collective(Round):
    """The round that an aggregation sees, and who tells it when.

    Args:
        aggregation: a copy of it works for this cluster alone.
        peers: of the cluster, in canonical order.
        cohort: holds the students.
        data: holds their samples.
        post: carries what they say.
        topology: who hears whom among them.
        attendance: who is there in which round; everybody, if None.
        ensemble: what the hub asks of public samples, if its aggregation does.
    """

    def __init__(
        self,
        aggregation: Aggregation,
        peers: list[PeerName],
        cohort: Cohort,
        data: PeerData,
        post: Post,
        topology: Topology,
        attendance: Attendance | None,
        ensemble: Ensemble | None = None,
    ) -> None:
        self.ensemble = ensemble
        self.oracle: Oracle | None = None
        self.aggregation, self.peers = copy.deepcopy(aggregation), peers
        self._row = {peer: row for row, peer in enumerate(peers)}
        self._all = torch.arange(len(peers))
        self._optimizers: list[Optimizer] = []
        self._reads: dict[PeerName, float] = {}  # samples in a step, on average over a local epoch
        self._cohort, self._data, self._post = cohort, data, post
        self._topology, self._attendance = topology, attendance
        counts = {peer: float(data.samples_of(peer)) for peer in peers}
        self.p = aggregation.proportions(counts)
        self.q = attendance.chances(peers) if attendance is not None else torch.ones_like(self.p)
        self.agree = topology.complete(peers)
        self.flops: Mapping[PeerName, Flops] = {}
        self.number, self._varied = -1, True
        self._adjacency: Tensor | None = None
        self._known: tuple[int, list[int]] = (-1, [])
        self._current: Step | None = None
        self._stepping: list[PeerName] = []
        self._kept: Mapping[PeerName, float] = {}
        self._closing = False
        # What the hub said last, and who has heard it: a peer that comes back fetches it first.
        self._latest: dict[str, Tree] = {}
        self._fresh = torch.ones(len(peers), dtype=torch.bool)
        self._own: Tree | None = None
        self.shapes = [cohort.axis.shapes(peer) for peer in peers]
        self._widest = cohort.axis.widest(peers) if aggregation.slices else peers
        cohort.axis.alike(self._widest)

    def check(self) -> None:
        """Refuse what has no meaning, now that local optimizers are known."""
        for peer in self.peers:
            group, place = self._cohort.axis.locate(peer)
            self._optimizers.append(group.optimizers()[place])
        topology = self._topology
        work = [self._cohort.timetable.work[peer] for peer in self.peers]
        epochs = [self._data.steps_per_epoch(peer) for peer in self.peers]
        first = self._cohort.axis.parameters_of(self._widest)
        attendance = self._attendance
        self.aggregation.check(
            Setting(
                self.peers,
                [self.optimizer(row) for row in range(len(self.peers))],
                [w.unit * w.most for w in work],
                clipped=self._cohort.clip is not None,
                hub=topology.hub is not None,
                agree=self.agree,
                fixed=topology.fixed,
                undirected=topology.undirected(self.peers),
                sampled=attendance is not None,
                drawn=attendance is None or attendance.participation.drawn,
                common=all(bool((leaf == leaf[:1]).all()) for leaf in first.values()) or self.number >= 0,
                whole_epochs=all(
                    w.unit % n == 0 or (w.least == w.most and w.unit * w.most % n == 0)
                    for w, n in zip(work, epochs, strict=True)
                ),
                p=self.p,
                q=self.q,
            )
        )

    # --- the coordinator calls ---------------------------------------------------------------------

    def before_step(self, step: Step) -> None:
        """Enter the round of this tick; begin it if this is its first."""
        timetable = self._cohort.timetable
        self._current, self.step = step, step.tick % timetable.round_ticks
        round_ = timetable.round_of(step.tick)
        if self.number < 0 and self.aggregation.slices:
            self._cut()
        if round_ != self.number:
            self._enter(round_)
        if self.step == 0 and len(self.rows):
            self._fetch(self.rows.tolist(), list(self._latest))
            with torch.no_grad():
                self.aggregation.begin(self._cohort.axis.parameters_of(self.present), self)

    def _cut(self) -> None:
        """Begin with slices of the widest student's initial weights, which all know without a word."""
        average = self.aggregation.buffers == "average"
        self._latest["weights"] = x = self._cohort.axis.weights(self._widest[:1], buffers=average)
        self._load([peer for peer in self.peers if peer not in self._widest], x)

    def _enter(self, round_: int) -> None:
        timetable = self._cohort.timetable
        self.number, self.ticks = round_, timetable.round_ticks
        work = [timetable.work[peer] for peer in self.peers] if self._varied else []
        if work:
            self.steps = torch.tensor([float(w.steps(round_)) for w in work], dtype=torch.float64)
            self._varied = any(w.least < w.most for w in work)
        self.rows = torch.tensor(self._there(round_), dtype=torch.long)
        self._adjacency = None

    @property
    def adjacency(self) -> Tensor:
        """Who hears whom among those who take part; drawn when somebody asks."""
        if self._adjacency is None:
            self._adjacency = self._topology.within(self.present, self.peers, self.number)
        return self._adjacency

    def _there(self, round_: int) -> list[int]:
        if self._attendance is None:
            return list(self._row.values())
        if self._known[0] != round_:
            present = self._attendance.present(round_)
            self._known = round_, sorted(self._row[peer] for peer in present if peer in self._row)
        return self._known[1]

    @property
    def present(self) -> list[PeerName]:
        """Who takes part in this round."""
        return [self.peers[row] for row in self.rows.tolist()]

    @torch.no_grad()
    def correct(self, kept: Mapping[PeerName, float]) -> None:
        """Change the gradients of those who are about to step.

        Args:
            kept: how much of the private loss is in them; all of it, for peers that are not named.
        """
        assert self._current is not None
        self._kept = kept
        if not self.aggregation.corrects:
            return
        there = {peer for batches in self._current.private for peer in batches.peers}
        self._stepping = [peer for peer in self.peers if peer in there]
        if self._stepping:
            everybody = len(self._stepping) == len(self.peers)
            rows = self._all if everybody else torch.tensor([self._row[peer] for peer in self._stepping])
            g = self._cohort.axis.gradients(self._stepping)
            self._cohort.axis.load_gradients(self._stepping, self.aggregation.correct(g, rows, self))

    @torch.no_grad()
    def finish(self) -> None:
        """End the round."""
        names = self.present
        if not names:
            return
        self._closing = True
        y = self._cohort.axis.parameters_of(names)
        x = self.aggregation.finish(y, self)
        travelling = self._cohort.axis.statistics(names[0])
        if travelling and self.aggregation.buffers == "average":
            whole = self._cohort.axis.weights(names, buffers=True, slices=self.aggregation.slices)
            statistics = {name: leaf for name, leaf in whole.items() if name in travelling}
            heard = self.send(self.aggregation.kind, statistics)
            statistics = self.aggregation.average(heard, self)
            x = x | (self.answer(self.aggregation.kind, statistics) if self.agree else statistics)
        rows = self._listeners()
        self._closing = False
        if self._topology.hub is not None:
            self._fresh = torch.zeros_like(self._fresh)
            self._fresh[rows] = True
            self._latest["weights"] = x
            self._load([self.peers[row] for row in rows], x)
        else:
            self._load(names, x)
        if self.aggregation.optimizer_state == "reset":
            self._cohort.axis.reset_optimizers(names)

    def _load(self, names: list[PeerName], x: Tree) -> None:
        rows = {n: t.expand(len(names), *t.shape[1:]) if len(t) == 1 else t for n, t in x.items()}
        if names:
            self._cohort.axis.load_weights(names, rows)

    def _listeners(self) -> list[int]:
        """Who hears the hub: at the end of a round those of the next."""
        return self._there(self.number + 1) if self._closing else self.rows.tolist()

    def _fetch(self, rows: Sequence[int], kinds: Sequence[str]) -> None:
        """Peers that were not there when the hub spoke last hear it now."""
        fresh = self._fresh.tolist()
        stale = [row for row in rows if not fresh[row]]
        if not stale or self._topology.hub is None:
            return
        for kind in kinds:
            self._tell(kind, self._latest[kind], stale)
        self._load([self.peers[row] for row in stale], self._latest["weights"])
        self._fresh[stale] = True

    def deliver(self) -> None:
        """Training is over: everybody gets what the hub has."""
        self._fetch(range(len(self.peers)), ["weights"])

    def show_hub(self) -> None:
        """Stand every peer where the hub stands, to be evaluated; costs nothing."""
        if "weights" in self._latest and not bool(self._fresh.all()):
            slices = self.aggregation.slices
            self._own = self._cohort.axis.weights(self.peers, buffers=True, slices=slices)
            self._load(self.peers, self._latest["weights"])

    def show_own(self) -> None:
        """Back to where each stood."""
        if self._own is not None:
            self._cohort.axis.load_weights(self.peers, self._own)
            self._own = None

    # --- the aggregation calls ---------------------------------------------------------------------

    @property
    def hub(self) -> Tree:
        """What the hub has."""
        return self._latest["weights"]

    def send(self, kind: str, tree: Tree, compression: Compression | None = None) -> Tree:
        """Everybody present speaks."""
        names = self.present
        ids = self._cohort.ids
        said = tree
        if compression is not None:
            said = compression.encode(tree, [(ids[name], self.number, kind) for name in names])
        hub = self._topology.hub
        hears = self.adjacency if hub is None else None
        if self._post.at_hand and not self.aggregation.slices:
            example = Payload("", kind, self.number, {name: leaf[0] for name, leaf in said.items()})
            cost = dict(zip(names, sizes(example, names), strict=True))
            self._post.count(kind, self.number, cost, names, hears, hub)
            return said if compression is None else compression.decode(said, tree)
        rows = zip(*(leaf.unbind() for leaf in said.values()), strict=True)
        spoken = {
            name: self._slice(name, dict(zip(said, row, strict=True)))
            for name, row in zip(names, rows, strict=True)
        }
        inbox = self._post.gather(kind, self.number, spoken, names, hears, hub)
        heard = said
        if any(inbox[name].tensors is not spoken[name] for name in names):  # it came from elsewhere
            heard = {
                n: torch.stack([padded(inbox[name].tensors[n], leaf.shape[1:]) for name in names])
                for n, leaf in said.items()
            }
        return heard if compression is None else compression.decode(heard, tree)

    def answer(
        self, kind: str, tree: Tree, *, said: Tree | None = None, rows: Sequence[int] | None = None
    ) -> Tree:
        """The hub tells all who listen the same."""
        if self._topology.hub is not None:
            self._tell(kind, tree if said is None else said, self._listeners() if rows is None else rows)
            if self._closing and kind != self.aggregation.kind:
                self._latest[kind] = tree
        return tree

    def _slice(self, name: PeerName, tree: Tree) -> Tree:
        """What of ``tree`` (one peer's, not stacked) crosses the wire to or from that peer."""
        if not self.aggregation.slices:
            return tree
        shapes = self.shapes[self._row[name]]
        return {n: leading(leaf, shapes[n]) for n, leaf in tree.items()}

    def _tell(self, kind: str, tree: Tree, rows: Sequence[int]) -> None:
        names, answer = [self.peers[row] for row in rows], {name: leaf[0] for name, leaf in tree.items()}
        hub = self._topology.hub
        assert hub is not None
        if not self.aggregation.slices:
            self._post.spread(kind, self.number, answer, names, hub)
            return
        for name in names:
            self._post.spread(kind, self.number, self._slice(name, answer), [name], hub)

    def weights(self) -> Tree:
        """Weights of those who are about to step."""
        return self._cohort.axis.parameters_of(self._stepping)

    def minibatch(self, at: Tree) -> Tree:
        """Gradients on the current batches at ``at``."""
        assert self._current is not None
        batches = [b for b in self._current.private if any(peer in self._row for peer in b.peers)]
        return self._gradient(self._stepping, batches, at)

    def scale(self, correction: Tree) -> Tree:
        """By how much of the private loss there is."""
        if not self._kept:
            return correction
        kept = torch.tensor([self._kept.get(peer, 1.0) for peer in self._stepping], dtype=torch.float64)
        scaled = {name: leaf.clone() for name, leaf in correction.items()}
        scale_rows_(scaled, kept)
        return scaled

    def full(self, at: Tree) -> Tree:
        """Gradients over private samples, batch by batch."""
        names, data = self.present, self._data
        readings = {}
        for name in names:
            stream = key(data.seed, self._cohort.ids[name], "full", self.number)
            readings[name] = sweep(data.private(name, "train"), data.batch_size, stream)
        counts = [len(reading.batch.y) for reading in readings.values()]
        sizes = zip_longest(*(reading.sizes for reading in readings.values()), fillvalue=0)
        total: Tree = {}
        for batches, read in zip(self._cohort.axis.side_by_side(readings), sizes, strict=True):
            here = [i for i, size in enumerate(read) if size]
            batches = self._cohort.transfer_batch_to_device(batches, self._cohort.device, 0)
            if self.oracle is not None:
                batches = [self.oracle.beside(same, self.number) for same in batches]
            part = self._gradient([names[i] for i in here], batches, at)
            shares = torch.tensor([read[i] / counts[i] for i in here], dtype=torch.float64)
            scale_rows_(part, shares)
            if not total:
                total = part  # everybody reads a first batch
            else:
                put(total, torch.tensor(here), add(pick(total, torch.tensor(here)), part))
        return total

    def _gradient(self, names: list[PeerName], batches: list[Batches], at: Tree) -> Tree:
        for same in batches:
            for peer in self._row.keys() & same.peers:
                self._post.ledger.compute(peer, same.y.shape[1] * self.flops[peer].train)
        return self._cohort.axis.gradients_at(names, batches, at, self._cohort.accumulate)

    def distil(self, x: Tree, **how: Any) -> Tree:
        """The hub trains weights on public samples."""
        assert self.ensemble is not None
        return self.ensemble.teach(x, self.present, self.number, **how)

    def rates(self) -> list[float]:
        """Learning rates in force."""
        return [self._optimizers[self._row[p]].param_groups[0]["lr"] for p in self._stepping]

    def portions(self) -> Tensor:
        """Batch sizes over what is read in this round."""
        assert self._current is not None
        sizes = {peer: same.y.shape[1] for same in self._current.private for peer in same.peers}
        mean = torch.tensor([sizes[p] / self._read_by(p) for p in self._stepping], dtype=torch.float64)
        return mean / self.steps[[self._row[peer] for peer in self._stepping]]

    def _read_by(self, peer: PeerName) -> float:
        if peer not in self._reads:
            an_epoch = self._data.steps_per_epoch(peer)
            samples = float(self._data.samples_of(peer))
            if self._data.drop_last and samples > self._data.batch_size:
                samples = an_epoch * self._data.batch_size
            self._reads[peer] = samples / an_epoch
        return self._reads[peer]

    def optimizer(self, row: int) -> Optimizer:
        """The local optimizer of a peer."""
        return self._optimizers[row]

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the aggregation and the hub remember, with the names of the rows."""
        return {
            "peers": self.peers,
            "aggregation": self.aggregation.state,
            "latest": self._latest,
            "fresh": self._fresh,
            "number": self.number,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where a saved run stood."""
        device = self._cohort.device

        def there(trees: dict[str, Tree]) -> dict[str, Tree]:
            return {k: {n: t.to(device) for n, t in tree.items()} for k, tree in trees.items()}

        if saved["peers"] != self.peers:
            raise ConfigError("the checkpoint has other clusters; set aggregation.among as in the saved run")
        self.aggregation.state = there(saved["aggregation"])
        self._latest, self._fresh = there(saved["latest"]), saved["fresh"]
        if saved["number"] >= 0:
            self._enter(saved["number"])
