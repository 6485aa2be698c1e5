"""Lessons: the distillation losses of a step, from statements that are exchanged over a graph."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from mmkd.cohort.coordinator import Lesson
from mmkd.cohort.peers import Peers
from mmkd.coordination.class_means import class_means
from mmkd.coordination.collectives import passed_on
from mmkd.coordination.delivery import Delivery
from mmkd.coordination.exchange import Exchange, Speech
from mmkd.coordination.public_set import evaluate, see_public, some
from mmkd.coordination.refusals import check_classes, check_kind, check_listening, check_rows
from mmkd.coordination.speaking import evaluated_speeches, sound, speech_of, statements_of
from mmkd.coordination.targets import Targets, heard_any, loaded_targets, merged, of_labels, saved_targets
from mmkd.coordination.targets import seen as seen_by
from mmkd.data.base import PeerData
from mmkd.data.samples import view_of
from mmkd.functional.classification import log_softmax
from mmkd.functional.random import key
from mmkd.knowledge.base import Heard, Knowledge, Statements
from mmkd.topology import Topology
from mmkd.types import NO_LABEL, Batches, Classes, ConfigError, PeerName, Predictions, Public, Step, Views


class Lessons:
    """Makes the lessons of one knowledge, for each step.

    Args:
        knowledge: what is said, and what listeners make of it.
        peers: of the cohort.
        data: holds the samples.
        delivery: carries what is said.
        topology: who hears whom.
        clusters: peers for whom a hub speaks, by its name; all peers of one are in one process.
        inside: carries what such a hub sends to them.
        saved: ``state_dict`` of a saved run; None for a new run.

    Raises:
        ConfigError: the students cannot be taught so, some have heads or embeddings of which nobody can
            speak, or the knowledge has no meaning with these settings.
    """

    def __init__(
        self,
        knowledge: Statements,
        peers: Peers,
        data: PeerData,
        delivery: Delivery,
        topology: Topology,
        clusters: Mapping[str, list[PeerName]],
        inside: Delivery,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        check_kind(knowledge, peers)
        check_classes(knowledge, peers, data)
        if data.augment and data.augment_public and not isinstance(knowledge, Knowledge):
            raise ConfigError(
                f"{type(knowledge).__name__} teaches by a student's own loss, of samples as they are: leave"
                " data.augment_public out"
            )
        self.knowledge = knowledge
        self._peers, self._data, self._delivery = peers, data, delivery
        self._order = {name: i for i, name in enumerate(peers.names)}
        self._targets: Targets | None = None  # of all peers, made at the last exchange
        self._merged = False  # whether it was joined here, so that nobody else reads it
        self._clusters, self._inside = clusters, inside
        self._spoken_for = self._who_speaks()
        facts = peers.everybody
        ids = ["+".join(facts[peer].id for peer in members) for members in self._spoken_for.values()]
        speakers = list(self._spoken_for)
        here = [speaker for speaker, members in self._spoken_for.items() if peers.here(members)]
        self.exchange = Exchange(
            knowledge, speakers, ids, delivery, topology, data.seed, peers.num_classes, here, peers.device
        )
        every = peers.timetable.knowledge_every
        if knowledge.digest is not None and knowledge.digest > every:
            raise ConfigError(
                f"knowledge.digest is {knowledge.digest}, but new knowledge comes every {every} ticks;"
                " lower it or raise schedule.knowledge_every"
            )
        self._labels: Tensor | None = None
        if self.reads_public:
            self._public = see_public(peers, data)
            self._labels = data.read_public_labels().to(peers.device) if knowledge.pretrain else None
            self._check()
        if not peers.whole:
            self.exchange.says |= statements_of(knowledge, peers, data)
        if saved is not None:
            self._load_state(saved)

    def _who_speaks(self) -> dict[str, list[PeerName]]:
        """Peers by their speaker: themselves, or the hub of their cluster."""
        hub_of = {peer: hub for hub, members in self._clusters.items() for peer in members}
        spoken_for: dict[str, list[PeerName]] = {}
        for peer in self._peers.everybody:
            spoken_for.setdefault(hub_of.get(peer, peer), []).append(peer)
        return spoken_for

    def _check(self) -> None:
        """Refuse knowledge that nobody can teach, or learn, with the students and public samples given."""
        shapes: dict[PeerName, Predictions] = {}
        for number, group in enumerate(self._peers.groups):
            seen = view_of(self._public, self._peers.modality(number))[1]
            sample = some(self._public, seen.nonzero()[:2, 0])
            for _, _, predictions in evaluate(self._peers, {number: [0]}, sample, 0):
                check_rows(self.knowledge, predictions, everywhere=self._everywhere)
                shapes |= dict.fromkeys(group.names, predictions)
        self.knowledge.check(shapes)
        for group in self._peers.groups:
            check_listening(self.knowledge, shapes[group.names[0]])

    @property
    def _everywhere(self) -> bool:
        """Whether every peer sees and speaks about every public sample."""
        kinds = {facts.modality for facts in self._peers.everybody.values()}
        shown = all(bool(view_of(self._public, kind)[1].all()) for kind in kinds)
        return shown and not self.knowledge.confident

    @property
    def reads_public(self) -> bool:
        """Whether the knowledge is about public samples."""
        return self.knowledge.about == "public"

    # --- lessons -----------------------------------------------------------------------------------

    def teaches(self, tick: int) -> bool:
        """Whether targets may be learned at this tick."""
        if not self._phase(tick)[1]:
            return False
        if tick < self.knowledge.pretrain:
            return True
        if self.reads_public and self.knowledge.samples == "batch":
            return self._peers.timetable.exchanges_knowledge(tick)
        return self._targets is not None

    def speaks(self, tick: int) -> bool:
        """Whether peers say what they predict about the public samples of this tick."""
        asked = self.reads_public and self.knowledge.samples == "batch" and tick >= self.knowledge.pretrain
        return asked and self.teaches(tick)

    def shares(self, tick: int) -> bool:
        """Whether what is known about all samples, or about classes, is exchanged after this tick."""
        return self.knowledge.samples == "all" and self._peers.timetable.exchanges_knowledge(tick + 1)

    def lessons(self, step: Step, rows: list[list[int]]) -> list[Lesson | None]:
        """The lesson of the active rows of each group that has one.

        Args:
            step: the samples of this tick.
            rows: active rows of every group.
        """
        if not step.private and (self._peers.whole or not self._peers.timetable.active(step.tick)):
            return [None] * len(rows)  # all sit out
        keep, weight = self._phase(step.tick)
        if not self.reads_public:
            return self._about_classes(step, rows)
        return self._about_samples(step, rows, keep, weight)

    def _phase(self, tick: int) -> tuple[float, float]:
        """Weights of the private and of the distillation loss at this tick."""
        knowledge = self.knowledge
        if tick < knowledge.pretrain:
            return 0.0, 1.0
        if knowledge.digest is not None and self._targets is not None:
            since = tick % self._peers.timetable.knowledge_every
            return (0.0, 1.0) if since < knowledge.digest else (1.0, 0.0)
        return knowledge.keep, knowledge.weight

    def _about_samples(
        self, step: Step, rows: list[list[int]], keep: float, weight: float
    ) -> list[Lesson | None]:
        knowledge, public, peers = self.knowledge, step.public, self._peers
        learned = step.learned or public
        lessons: list[Lesson | None] = [None] * len(rows)
        assert public is not None
        assert learned is not None
        labelled = step.tick < knowledge.pretrain
        fresh = knowledge.samples == "batch" and not labelled
        learning: list[tuple[int, list[int], Predictions]] = []
        for number, active in enumerate(rows):
            if active and isinstance(knowledge, Knowledge):
                predicted = peers.predict_public(number, active, learned, step.tick)
                if predicted is not None:
                    learning.append((number, active, predicted))
        order, targets = self._order, self._targets or {}
        if fresh:
            # Nothing is said about samples that were changed.
            order, targets = self._exchanged(step, [] if step.learned else learning, public)
        elif knowledge.recall is not None and not labelled:
            fresh, targets = True, self.exchange.recall(public.ids, step.tick)
        if not targets and not labelled:
            return lessons
        predictions = {number: predicted for number, _, predicted in learning}
        for number, active in enumerate(rows):
            view, shown = view_of(public, peers.modality(number))
            if not active or view is None:
                continue
            group, shown = peers.groups[number], shown.to(public.ids.device)
            members = [group.names[row] for row in active]
            if labelled:
                loss, taught = self._from_labels(predictions[number], public, shown)
            else:
                places = [order[name] for name in members]
                own = seen_by(targets, places, None if fresh else public.ids, shown)
                taught = heard_any(own)
                if isinstance(knowledge, Knowledge):
                    loss = knowledge.loss(predictions[number], own)
                else:
                    loss = group.taught_losses(self._batches(members, view, public.ids, own, step.tick))
            lessons[number] = _lesson(loss, taught, keep, weight)
            for name in members:
                self._delivery.ledger.compute(name, len(shown) * self._peers.everybody[name].train)
        return lessons

    def _exchanged(
        self, step: Step, learning: list[tuple[int, list[int], Predictions]], public: Public
    ) -> tuple[dict[PeerName, int], Targets]:
        """Targets of those who take part, with the row of each, from what they say about this batch."""
        peers, timetable = self._peers, self._peers.timetable
        round_ = timetable.round_of(step.tick)
        stepping = [same.peers for same in step.private] if peers.whole else [timetable.active(step.tick)]
        taking_part = set[PeerName]().union(*stepping) | (timetable.static & timetable.there(round_))
        names = [name for name in peers.everybody if name in taking_part]
        speeches = self._speeches(learning, names, public, step.tick)
        speeches = sound(speeches, peers.divergence, round_)
        targets = self.exchange(names, speeches, step.tick, round_, timetable.static, public.ids)
        return {names[place]: i for i, place in enumerate(peers.here(names))}, targets

    def _batches(
        self, members: list[PeerName], view: Views, ids: Tensor, targets: Targets, tick: int
    ) -> Batches:
        """Public samples as batches that students read like their own, with targets in place of labels."""
        (target,) = targets.values()
        count, size = target.weight.shape
        x = tree_map(lambda leaf: leaf.expand(count, *leaf.shape), view)
        streams = [key(self._data.seed, self._peers.ids[name], "told", tick) for name in members]
        return Batches(members, x, None, ids.expand(count, size), streams, target)

    def _from_labels(self, predicted: Predictions, public: Public, shown: Tensor) -> tuple[Tensor, Tensor]:
        assert self._labels is not None
        assert isinstance(predicted, Classes)
        log_p = log_softmax(predicted.logits.to(torch.promote_types(predicted.logits.dtype, torch.float32)))
        y = self._labels[public.ids]
        wrong = F.nll_loss(log_p.mT, y.expand(len(log_p), -1), ignore_index=NO_LABEL, reduction="none")
        shown = shown & (y != NO_LABEL)
        loss = (wrong * shown).sum(1) / shown.sum().clamp(min=1)
        return loss, shown.any().expand(len(log_p))

    def _about_classes(self, step: Step, rows: list[list[int]]) -> list[Lesson | None]:
        knowledge, peers = self.knowledge, self._peers
        assert self._targets is not None
        assert isinstance(knowledge, Knowledge)
        parts: dict[int, list[tuple[list[int], Tensor, Tensor]]] = {}
        for batches in step.private:
            assert batches.y is not None
            number, group = peers.axis.group_of(batches.peers)
            predicted = group.predict_own(batches)
            places = torch.tensor([self._order[name] for name in batches.peers], device=batches.y.device)
            targets = {name: of_labels(target, places, batches) for name, target in self._targets.items()}
            loss = knowledge.loss(predicted, targets)
            parts.setdefault(number, []).append((group.rows(batches.peers), loss, heard_any(targets)))
            for name in batches.peers:
                self._delivery.ledger.compute(name, batches.size * self._peers.everybody[name].train)
        lessons: list[Lesson | None] = [None] * len(rows)
        for number, found in parts.items():
            where = [row for part, _, _ in found for row in part]
            order_ = sorted(range(len(where)), key=where.__getitem__)
            loss, taught = (torch.cat([part[i] for part in found])[order_] for i in (1, 2))  # type: ignore[misc]  # tensors
            lessons[number] = _lesson(loss, taught, knowledge.keep, knowledge.weight)
        return lessons

    # --- speaking and listening --------------------------------------------------------------------

    def share(self, tick: int) -> None:
        """Exchange what is known about the whole public set, or about classes, after this tick."""
        peers, timetable = self._peers, self._peers.timetable
        if not self.shares(tick) or tick + 1 + timetable.knowledge_every <= self.knowledge.pretrain:
            return  # targets would be replaced before anybody learns from them
        # Peers that sit out the coming round neither speak nor hear.
        taking_part = timetable.there(timetable.round_of(tick + 1))
        present = {s: [p for p in members if p in taking_part] for s, members in self._spoken_for.items()}
        present = {speaker: members for speaker, members in present.items() if members}
        if not present:
            return
        # The coordinator has given all members of a cluster the weights of its hub.
        speakers = {members[0]: speaker for speaker, members in present.items()}
        names = [name for name in peers.names if name in speakers]
        if self.reads_public:
            speeches = self._speeches([], names, self._public, tick, speakers)
        else:
            speeches = class_means(peers, self._data, self.knowledge, names, tick)
            for name in names:
                samples = self._data.samples_of(name)
                self._delivery.ledger.compute(name, samples * self._peers.everybody[name].predict)
        speeches = sound(speeches, peers.divergence, timetable.round_of(tick))
        speeches = [s._replace(speakers=[speakers[peer] for peer in s.speakers]) for s in speeches]
        round_ = timetable.round_of(tick)
        deaf = {speaker for speaker, members in present.items() if timetable.static.issuperset(members)}
        about = self._public.ids if self.reads_public else torch.arange(self._data.num_classes)
        targets = self.exchange(list(present), speeches, tick, round_, deaf, about)
        if targets:
            held = present if peers.whole else {s: those for s, those in present.items() if peers.here(those)}
            hubs, exchange, inside = self._clusters, self.exchange, self._inside
            targets = passed_on(targets, held, hubs, exchange, inside, round_, peers.names)
            names = [name for name in peers.names if name in taking_part]
            part = len(names) < len(peers.names)
            if part:
                places = [self._order[name] for name in names]
                old, mine = self._targets or {}, self._merged
                targets = merged(targets, places, old, len(peers.names), in_place=mine)
            self._targets, self._merged = targets, part

    def _speeches(
        self,
        learning: list[tuple[int, list[int], Predictions]],
        names: list[PeerName],
        public: Public,
        tick: int,
        speaks_for: Mapping[PeerName, str] = MappingProxyType({}),
    ) -> list[Speech]:
        """What ``names`` say about public samples; predictions of training steps are reused where allowed.

        Operations of a hub that speaks for a cluster are counted as the hub's.
        """
        reuse = learning if self.knowledge.speaks_in == "train" else []
        done = {(number, row) for number, rows, _ in reuse for row in rows}
        rest = self._peers.rows_of(names)
        rest = {n: [row for row in rows if (n, row) not in done] for n, rows in rest.items()}
        rest = {number: rows for number, rows in rest.items() if rows}
        for number, rows in rest.items():
            for row in rows:
                name = self._peers.groups[number].names[row]
                cost = len(public.ids) * self._peers.everybody[name].predict
                self._delivery.ledger.compute(speaks_for.get(name, name), cost)
        speeches = [speech_of(self.knowledge, self._peers, *predicted, public) for predicted in reuse]
        return [*speeches, *evaluated_speeches(self.knowledge, self._peers, rest, public, tick)]

    @torch.no_grad()
    def overhear(self, tick: int) -> tuple[dict[str, Heard], Tensor, Tensor]:
        """Statements that all peers would make about the whole public set now, as listeners would hear them.

        They speak in evaluation mode; nothing is counted, remembered or taught.

        Args:
            tick: that of the next step, in whose round they would speak.

        Returns:
            every statement; whom each peer hears, ``[listeners, speakers]`` (through a hub everybody else;
            static teachers hear nobody); and which speaker each is. Where a hub speaks for a
            cluster, the first peer speaks for all, who are equal after an average.
        """
        peers, exchange, names = self._peers, self.exchange, self._peers.names
        everybody = peers.rows_of(names)
        speeches = evaluated_speeches(self.knowledge, peers, everybody, self._public, tick)
        heard = exchange.assemble(names, [exchange.encode(speech) for speech in speeches])
        one, timetable = torch.eye(len(self._spoken_for), dtype=torch.bool), peers.timetable
        round_, relayed = timetable.round_of(tick), exchange.topology.hub is not None
        graph = ~one if relayed else exchange.topology.sparse(exchange.everybody, round_).dense()
        deaf = [timetable.static.issuperset(members) for members in self._spoken_for.values()]
        graph = graph & ~torch.tensor(deaf)[:, None]
        # Peers are the speakers, unless hubs speak for clusters.
        speaker = {peer: i for i, members in enumerate(self._spoken_for.values()) for peer in members}
        listeners = [speaker[name] for name in names]
        first = [names.index(members[0]) for members in self._spoken_for.values()]
        both = one.new_zeros(2, len(names), len(names))
        both[:, :, first] = torch.stack([graph[listeners], one[listeners]])
        hears, own = both.to(speeches[0].spoken.device)
        return heard, hears, own

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The last targets of listeners (one copy where a hub answered all the same), pools and caches."""
        return {"targets": saved_targets(self._targets or {}), **self.exchange.state_dict()}

    def _load_state(self, saved: Mapping[str, Any]) -> None:
        """Load the state of a saved run."""
        size, device = len(self._peers.names), self._peers.device
        self.exchange.load_state_dict(saved, device)
        if saved["targets"]:
            self._targets = loaded_targets(saved["targets"], size, device)


def _lesson(loss: Tensor, taught: Tensor, keep: float, weight: float) -> Lesson | None:
    if not bool(taught.any()):
        return None
    kept = torch.full_like(loss, keep).masked_fill(~taught, 1.0)
    private = [True] * len(taught) if keep > 0 else (~taught).tolist()
    return Lesson(kept, (weight * loss).masked_fill(~taught, 0.0), private)
