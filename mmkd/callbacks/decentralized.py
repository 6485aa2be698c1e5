"""The coordinator: who learns what from whom, and when."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from mmkd.callbacks.collective import Collective
from mmkd.callbacks.post import Post
from mmkd.cohort.cohort import Cohort
from mmkd.cohort.coordinator import Lesson
from mmkd.cohort.flops import Flops
from mmkd.data.samples import take_public
from mmkd.federated import Aggregation
from mmkd.functional.random import key
from mmkd.knowledge.base import Knowledge, Targets
from mmkd.knowledge.packing import pack, unpack
from mmkd.ledger import Ledger
from mmkd.participation import Attendance, Participation
from mmkd.schedule import Schedule, Timetable
from mmkd.topology import Complete, Topology
from mmkd.transport import LocalTransport, Transport
from mmkd.types import ConfigError, PeerName, Predictions, Public, Step


class DecentralizedCallback(Callback):
    """Coordinates the exchange of knowledge and weights among the peers of a cohort.

    A method is a product: what is said (``knowledge``, ``aggregation``, both or neither), to whom
    (``topology``), when (``schedule``) and how it is carried (``transport``). Everybody speaks, then
    everybody listens, so a round does not depend on the order of peers.

    Args:
        knowledge: what peers teach about public samples.
        aggregation: how weights are combined at the end of a round.
        topology: who hears whom; for weights, within each cluster. Complete if left out.
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
    ) -> None:
        self.knowledge, self.aggregation = knowledge, aggregation
        self.topology = topology or Complete()
        self.schedule = schedule or Schedule()
        self.participation = participation
        self.collectives: list[Collective] = []
        self.transport = transport or LocalTransport()
        self.ledger = Ledger([])
        self._targets: Targets | None = None
        self._last = -1
        self._kept: dict[PeerName, float] = {}
        self._flops: dict[PeerName, Flops] = {}

    @property
    def draws_public(self) -> bool:
        """Whether local steps read public samples."""
        return self.knowledge is not None

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
            samples = {name: int(self._data.label_counts(name).sum()) for name in pl_module.names}
            # A peer that shares weights with nobody is never left out; without any clusters all are one.
            together = clusters if self.aggregation is not None else [pl_module.names]
            self._attendance = Attendance(self.participation, together, samples, ids, self._data.seed)
        self.topology.check(pl_module.names)
        if self.knowledge is not None:
            self.topology.adjacency(pl_module.names, 0)
            if stage == "fit":
                self._see_public(set(modalities.values()))
        if self.aggregation is not None and stage == "fit":
            tools = (pl_module, self._data, self.post, self.topology, self._attendance)
            self.collectives = [Collective(self.aggregation, cluster, *tools) for cluster in clusters]

    def timetable(self, steps_per_epoch: dict[PeerName, int]) -> Timetable:
        """The schedule of the cohort's peers."""
        streams = {peer: key(self._data.seed, name, "work") for peer, name in self._cohort.ids.items()}
        return self.schedule.timetable(steps_per_epoch, self._attendance, streams)

    def _see_public(self, modalities: set[str]) -> None:
        samples: Any = self._data.public("train")
        if len(samples) == 0:
            raise ConfigError("there are no public samples to distil on; raise the data's public part")
        self._public: Public = take_public(samples, torch.arange(len(samples)))
        for modality in sorted(modalities):
            shown = self._public.shown.get(modality)
            if shown is None or not bool(shown.any()):
                raise ConfigError(
                    f"no public sample shows '{modality}', so its peers can neither teach nor learn;"
                    " add public views or remove the fleet"
                )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what a sample costs to compute, and bring public samples to the device."""
        self._flops = self._cohort.flops()
        timetable, epochs = self._cohort.timetable, trainer.max_epochs or -1
        self._last = epochs * timetable.rounds_per_epoch * timetable.round_ticks  # negative if open
        for collective in self.collectives:
            collective.flops = self._flops
            collective.check()
        if self.knowledge is not None:
            self._public = self._cohort.transfer_batch_to_device(self._public, self._cohort.device, 0)

    # --- the cohort calls these at every tick ------------------------------------------------------

    def before_step(self, step: Step) -> None:
        """Begin a round if this is its first tick."""
        for collective in self.collectives:
            collective.before_step(step)

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
        groups = self._cohort.rows()
        lessons: list[Lesson | None] = [None] * len(groups)
        self._kept = {}
        for same in step.private:
            size = same.y.shape[1]
            for peer in same.peers:
                self.ledger.compute(peer, size * self._flops[peer].train)
        knowledge, public = self.knowledge, step.public
        if knowledge is None or public is None:
            return lessons
        busy = [(number, rows[number]) for number, _ in groups if rows[number]]
        fresh = knowledge.samples == "batch"
        if (
            (self._targets is None)
            if not fresh
            else not self._cohort.timetable.exchanges_knowledge(step.tick)
        ):
            return lessons
        there = {peer for same in step.private for peer in same.peers}
        names = [name for name in self._cohort.names if name in there]
        predictions = [self._cohort.predict_public(n, r, public, step.tick) for n, r in busy]
        if fresh:
            self._cohort.verify()
            spoken = self._evaluate(rows, public, step.tick) if knowledge.speaks_in == "eval" else predictions
            targets = self._exchange(names, spoken, public, step.tick, busy)
            order = {name: i for i, name in enumerate(names)}
        else:
            assert self._targets is not None
            ids = public.ids
            targets = Targets(self._targets.values[:, ids], self._targets.told[:, ids])
            order = {name: i for i, name in enumerate(self._cohort.names)}
        for (number, active), predicted in zip(busy, predictions, strict=True):
            if predicted is None:
                continue
            members = [groups[number][1].names[row] for row in active]
            chosen = [order[name] for name in members]
            shown = public.shown[self._cohort.modality(number)].to(predicted.logits.device)
            seen = targets.told[chosen] & shown
            distilled = knowledge.loss(predicted, targets.values[chosen], seen)
            taught = seen.any(-1)
            lesson = lessons[number] = Lesson(
                torch.where(taught, knowledge.alpha, 1.0).to(distilled),
                torch.where(taught, (1 - knowledge.alpha) * distilled, 0.0),
            )
            if self.collectives:
                self._kept |= dict(zip(members, lesson.keep.tolist(), strict=True))
            for name in members:
                self.ledger.compute(name, len(shown) * self._flops[name].train)
        return lessons

    def after_step(self, tick: int) -> None:
        """Exchange knowledge of the whole public set, combine weights and log, each if it is due.

        Knowledge comes first: peers that have trained alone differ in what they know, and a consensus of
        peers that have just been averaged would be one opinion said many times.
        """
        timetable = self._cohort.timetable
        self._share_all(tick)
        if not timetable.ends_round(tick):
            return
        round_ = timetable.round_of(tick)
        if self.collectives:
            self._cohort.verify()
            for collective in self.collectives:
                collective.finish()
        figures = {"ledger/bytes_per_peer": self.ledger.bytes_per_peer()}
        figures |= {f"ledger/{kind}_bytes": self.ledger.total(kind) for kind in self.ledger.kinds()}
        figures["ledger/flops_per_peer"] = self.ledger.flops_per_peer()
        for logger in self._cohort.loggers:
            logger.log_metrics({"round": round_, **figures}, step=self._cohort.global_step)

    def _share_all(self, tick: int) -> None:
        """Exchange knowledge of the whole public set after this tick, unless nobody would use it."""
        knowledge, after = self.knowledge, tick + 1
        if knowledge is None or knowledge.samples != "all" or after == self._last:
            return
        if self._cohort.timetable.exchanges_knowledge(after):
            self._cohort.verify()
            every, groups = self._cohort.names, self._cohort.rows()
            there = set(every)
            if self._attendance is not None:  # those who sit out the coming round neither speak nor hear
                there = set(self._attendance.present(self._cohort.timetable.round_of(after)))
            rows = [[row for row, name in enumerate(group.names) if name in there] for _, group in groups]
            busy = [(number, rows[number]) for number, _ in groups if rows[number]]
            names = [name for name in every if name in there]
            if not names:
                return
            spoken = self._evaluate(rows, self._public, tick)
            targets = self._exchange(names, spoken, self._public, tick, busy)
            if len(names) < len(every):
                targets = self._merge(targets, [every.index(name) for name in names])
            self._targets = targets

    def _merge(self, heard: Targets, places: list[int]) -> Targets:
        """What those at ``places`` have heard now, and the others before."""
        size = len(self._cohort.names)
        before = self._targets or Targets(*(t.new_zeros(size, *t.shape[1:]) for t in heard))
        values, told = before.values.clone(), before.told.clone()
        values[places], told[places] = heard.values, heard.told
        return Targets(values, told)

    def edges(self) -> list[tuple[str, str]]:
        """Who sends to whom in round 0, for drawing."""
        if self.knowledge is not None:
            return self.topology.edges(self._cohort.names, 0)
        return [edge for c in self.collectives for edge in self.topology.edges(c.peers, 0)]

    # --- knowledge ---------------------------------------------------------------------------------

    @torch.no_grad()
    def _evaluate(self, rows: list[list[int]], public: Public, stream: int) -> list[Predictions | None]:
        """Predictions of the rows in evaluation mode; a large public set goes in pieces."""
        was_training = self._cohort.training
        self._cohort.groups.eval()
        spoken: list[Predictions | None] = []
        for number, group in self._cohort.rows():
            if not rows[number]:
                continue
            parts = [self._cohort.predict_public(number, rows[number], p, stream) for p in _pieces(public)]
            whole = [part for part in parts if part is not None]
            spoken.append(
                Predictions(
                    torch.cat([part.logits for part in whole], 1),
                    torch.cat([part.auxiliary for part in whole], 2),
                    torch.cat([part.embedding for part in whole], 1),
                )
                if whole
                else None
            )
            for row in rows[number] if whole else ():
                name = group.names[row]
                self.ledger.compute(name, len(public.ids) * self._flops[name].predict)
        self._cohort.groups.train(was_training)
        return spoken

    @torch.no_grad()
    def _exchange(
        self,
        names: list[PeerName],
        spoken: list[Predictions | None],
        public: Public,
        tick: int,
        busy: list[tuple[int, list[int]]] | None = None,
    ) -> Targets:
        """Everybody in ``names`` speaks about ``public``, then everybody listens."""
        knowledge = self.knowledge
        assert knowledge is not None
        groups = self._cohort.rows()
        busy = busy or [(number, list(range(len(group.names)))) for number, group in groups]
        said: dict[PeerName, dict[str, Tensor]] = {}
        for (number, active), predictions in zip(busy, spoken, strict=True):
            if predictions is not None:
                shown = public.shown[self._cohort.modality(number)]
                values = knowledge.speak(Predictions(*(t.detach() for t in predictions)))
                for row, value in zip(active, values, strict=True):
                    said[groups[number][1].names[row]] = pack(value, shown, knowledge.wire)
        round_ = self._cohort.timetable.round_of(tick)
        inbox, adjacency = self.post.gather(
            knowledge.kind, round_, said, self.topology, self._cohort.names, names
        )
        size, device = len(public.ids), self._cohort.device
        spoke = torch.zeros(len(names), size, dtype=torch.bool, device=device)
        heard = torch.zeros(())
        for i, name in enumerate(names):
            if name in inbox:
                value, present = unpack(inbox[name].tensors, size)
                if heard.dim() == 0:
                    heard = value.new_zeros(len(names), *value.shape)
                heard[i], spoke[i] = value, present
        if self.topology.hub is None:
            hears = adjacency.to(device)
            if knowledge.include_self:
                hears = hears | torch.eye(len(names), dtype=torch.bool, device=device)
            return knowledge.listen(heard, hears, spoke)
        hears = torch.ones(1, len(names), dtype=torch.bool, device=device)
        values, told = knowledge.listen(heard, hears, spoke)
        answer = pack(values[0], told[0], knowledge.wire)
        self.post.spread(knowledge.kind, round_, answer, names, self.topology.hub)
        values, told = (t.expand(len(names), *t.shape) for t in unpack(answer, size))
        return Targets(values, told)

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The ledger, what listeners were told last, and what aggregations remember."""
        targets = None
        if self._targets is not None:
            # A hub tells everybody the same: keep one copy.
            same = self.topology.hub is not None and self._attendance is None
            targets = [t[:1].clone() if same else t.clone() for t in self._targets]
        return {
            "ledger": self.ledger.state_dict(),
            "targets": targets,
            "collectives": [collective.state_dict() for collective in self.collectives],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a saved run stood."""
        self.ledger = Ledger.from_state(state_dict["ledger"])
        self.post.ledger = self.ledger
        for collective, kept in zip(self.collectives, state_dict["collectives"], strict=False):
            collective.load_state_dict(kept)
        saved = state_dict["targets"]
        if saved is not None:
            size, device = len(self._cohort.names), self._cohort.device
            self._targets = Targets(*(t.to(device).expand(size, *t.shape[1:]) for t in saved))


def _pieces(public: Public, size: int = 512) -> list[Public]:
    """A public set cut so that a forward fits in memory."""
    ids = public.ids.split(size)
    views = {m: x.split(size) for m, x in public.views.items()}
    shown = {m: s.split(size) for m, s in public.shown.items()}
    return [
        Public(ids[i], {m: x[i] for m, x in views.items()}, {m: s[i] for m, s in shown.items()})
        for i in range(len(ids))
    ]
