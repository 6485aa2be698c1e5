"""One knowledge and its graph at work: who says what to whom, and what local steps learn from it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from mmkd.cohort.cohort import Cohort
from mmkd.cohort.coordinator import Lesson
from mmkd.coordination.class_means import class_means
from mmkd.coordination.delivery import Post
from mmkd.coordination.exchange import Exchange, Speech, Told, joined
from mmkd.coordination.public_set import evaluate, see_public, some
from mmkd.cost.flops import Flops
from mmkd.data.base import PeerData
from mmkd.data.samples import view_of
from mmkd.functional.classification import log_softmax
from mmkd.functional.confidence import max_probability
from mmkd.functional.detection.boxes import EMPTY
from mmkd.functional.random import key
from mmkd.knowledge.base import Heard, Knowledge, Targets
from mmkd.knowledge.detections import Answers
from mmkd.students.detection import DetectionStudent
from mmkd.topology import Topology
from mmkd.types import Batches, ConfigError, PeerName, Predictions, Public, Step, Taught, Views


class Teaching:
    """Makes lessons of knowledge.

    Args:
        knowledge: what is said, and what listeners make of it.
        cohort: holds the students.
        data: holds the samples.
        post: carries what is said.
        topology: who hears whom.
        collectives: peers that speak with one voice, by the name of the hub that speaks for them.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        cohort: Cohort,
        data: PeerData,
        post: Post,
        topology: Topology,
        collectives: Mapping[str, list[PeerName]],
    ) -> None:
        check_kind(knowledge, cohort)
        self.knowledge = knowledge
        self._cohort, self._data, self._post = cohort, data, post
        self._order = {name: i for i, name in enumerate(cohort.names)}
        self.flops: Mapping[PeerName, Flops] = {}
        self._told: Told | None = None  # what all peers were told last, about everything
        self._merged = False  # whether it was put together here, and is nobody else's
        self._voices = self._who_speaks(collectives)
        ids = ["+".join(cohort.ids[peer] for peer in members) for members in self._voices.values()]
        self.exchange = Exchange(knowledge, list(self._voices), ids, post, topology, data.seed)
        self._labels: Tensor | None = None
        if self.reads_public:
            self._public = see_public(cohort, data)
            if knowledge.pretrain:
                self._labels = data.public_labels()

    def _who_speaks(self, collectives: Mapping[str, list[PeerName]]) -> dict[str, list[PeerName]]:
        """Peers by the voice that speaks for them: their own, or that of their collective."""
        self._collectives = collectives
        voice = {peer: hub for hub, members in collectives.items() for peer in members}
        voices: dict[str, list[PeerName]] = {}
        for peer in self._cohort.names:
            voices.setdefault(voice.get(peer, peer), []).append(peer)
        return voices

    @property
    def reads_public(self) -> bool:
        """Whether it is about public samples."""
        return self.knowledge.about == "public"

    def prepare(self, flops: Mapping[PeerName, Flops]) -> None:
        """Training begins: bring public samples to the device, and look whom nobody can teach.

        Raises:
            ConfigError: students have heads or embeddings of which nobody can speak.
        """
        self.flops = flops
        every = self._cohort.timetable.knowledge_every
        if self.knowledge.digest is not None and self.knowledge.digest > every:
            raise ConfigError(
                f"knowledge.digest is {self.knowledge.digest}, but new knowledge comes every {every} ticks;"
                " lower it or raise schedule.knowledge_every"
            )
        if self.reads_public:
            self._public = self._cohort.transfer_batch_to_device(self._public, self._cohort.device, 0)
            if self._labels is not None:
                self._labels = self._labels.to(self._cohort.device)
            shapes: dict[PeerName, Predictions] = {}
            for number, group in self._cohort.rows():
                first = int(view_of(self._public, self._cohort.modality(number))[1].int().argmax())
                sample = some(self._public, slice(first, first + 1))
                for _, _, predictions in evaluate(self._cohort, {number: [0]}, sample, 0):
                    shapes |= dict.fromkeys(group.names, predictions)
            self.knowledge.check(shapes)

    # --- lessons -----------------------------------------------------------------------------------

    def lessons(self, step: Step, rows: list[list[int]]) -> list[Lesson | None]:
        """Distillation for the active rows of every group.

        Args:
            step: the samples of this tick.
            rows: active rows of every group.
        """
        nothing: list[Lesson | None] = [None] * len(rows)
        keep, weight = self._phase(step.tick)
        if not weight:
            return nothing
        if not self.reads_public:
            return self._about_classes(step, rows) if self._told is not None else nothing
        return self._about_samples(step, rows, keep, weight)

    def _phase(self, tick: int) -> tuple[float, float]:
        """Weights of the private and of the distillation loss at this tick."""
        knowledge = self.knowledge
        if tick < knowledge.pretrain:
            return 0.0, 1.0
        if knowledge.digest is not None and self._told is not None:
            since = tick % self._cohort.timetable.knowledge_every
            return (0.0, 1.0) if since < knowledge.digest else (1.0, 0.0)
        return knowledge.keep, knowledge.weight

    def _about_samples(
        self, step: Step, rows: list[list[int]], keep: float, weight: float
    ) -> list[Lesson | None]:
        knowledge, public, cohort = self.knowledge, step.public, self._cohort
        lessons: list[Lesson | None] = [None] * len(rows)
        assert public is not None
        labelled = step.tick < knowledge.pretrain
        fresh = knowledge.samples == "batch" and not labelled
        due = cohort.timetable.exchanges_knowledge(step.tick) if fresh else labelled or self._told is not None
        if not due:
            return lessons
        groups = cohort.rows()
        learning = []
        for number, active in enumerate(rows):
            if active and knowledge.reads == "predictions":
                predicted = cohort.predict_public(number, active, public, step.tick)
                if predicted is not None:
                    learning.append((number, active, predicted))
        order, told = self._order, self._told or {}
        if fresh:
            cohort.verify()
            there = {peer for same in step.private for peer in same.peers}
            there |= cohort.timetable.static & cohort.timetable.there(cohort.timetable.round_of(step.tick))
            names = [name for name in cohort.names if name in there]
            order = {name: i for i, name in enumerate(names)}
            speeches = self._speeches(learning, names, public, step.tick)
            timetable = cohort.timetable
            told = self.exchange(names, speeches, step.tick, timetable.round_of(step.tick), timetable.static)
        elif knowledge.recall is not None and not labelled:
            fresh, told = True, self.exchange.recall(public.ids, step.tick)
        if not told and not labelled:
            return lessons
        predictions = {number: predicted for number, _, predicted in learning}
        for number, active in enumerate(rows):
            view, shown = view_of(public, cohort.modality(number))
            if not active or view is None:
                continue
            group, shown = groups[number][1], shown.to(public.ids.device)
            members = [group.names[row] for row in active]
            if labelled:
                loss, taught = self._from_labels(predictions[number], public, shown)
            else:
                places = [order[name] for name in members]
                targets = {
                    n: Targets(*(_pick(t, places, None if fresh else public.ids) for t in pair))
                    for n, pair in told.items()
                }
                targets = {n: Targets(values, w * shown) for n, (values, w) in targets.items()}
                taught = _any(targets)
                if knowledge.reads == "predictions":
                    loss = knowledge.loss(predictions[number], targets)
                else:
                    loss = group.told_losses(self._batches(members, view, public.ids, targets, step.tick))
            lessons[number] = _lesson(loss, taught, keep, weight)
            for name in members:
                self._post.ledger.compute(name, len(shown) * self.flops[name].train)
        return lessons

    def _batches(
        self, members: list[PeerName], view: Views, ids: Tensor, targets: Mapping[str, Targets], tick: int
    ) -> Batches:
        """Public samples as students read their own: without labels, and with what they are told."""
        (values, weight) = next(iter(targets.values()))
        count, size = weight.shape
        x = tree_map(lambda leaf: leaf.expand(count, *leaf.shape), view)
        told = Taught(values, weight, values.new_zeros(count))
        empty = values.new_full((count, size, 1, 5), EMPTY)
        streams = [key(self._data.seed, self._cohort.ids[name], "told", tick) for name in members]
        return Batches(members, x, empty, ids.expand(count, size), streams, told)

    def _from_labels(self, predicted: Predictions, public: Public, shown: Tensor) -> tuple[Tensor, Tensor]:
        assert self._labels is not None
        log_p = log_softmax(predicted.logits.to(torch.promote_types(predicted.logits.dtype, torch.float32)))
        wrong = F.nll_loss(log_p.mT, self._labels[public.ids].expand(len(log_p), -1), reduction="none")
        loss = (wrong * shown).sum(1) / shown.sum().clamp(min=1)
        return loss, shown.any().expand(len(log_p))

    def _about_classes(self, step: Step, rows: list[list[int]]) -> list[Lesson | None]:
        knowledge, cohort = self.knowledge, self._cohort
        assert self._told is not None
        parts: dict[int, list[tuple[list[int], Tensor, Tensor]]] = {}
        for batches in step.private:
            number, group = cohort.axis.group_of(batches.peers)
            predicted = group.predict_own(batches)
            places = torch.tensor([self._order[name] for name in batches.peers], device=batches.y.device)
            targets = {
                name: Targets(values[places[:, None], batches.y], weight[places[:, None], batches.y])
                for name, (values, weight) in self._told.items()
            }
            loss = knowledge.loss(predicted, targets)
            parts.setdefault(number, []).append((group.rows(batches.peers), loss, _any(targets)))
            for name in batches.peers:
                self._post.ledger.compute(name, batches.y.shape[1] * self.flops[name].train)
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
        timetable, after = self._cohort.timetable, tick + 1
        if self.knowledge.samples != "all" or not timetable.exchanges_knowledge(after):
            return
        if after + timetable.knowledge_every <= self.knowledge.pretrain:
            return  # the next will be told before anybody listens
        cohort = self._cohort
        cohort.verify()
        # Those who sit out the coming round neither speak nor hear.
        there = cohort.timetable.there(cohort.timetable.round_of(tick + 1))
        present = {voice: [p for p in members if p in there] for voice, members in self._voices.items()}
        present = {voice: members for voice, members in present.items() if members}
        if not present:
            return
        # The coordinator has put what the hub of a collective holds into all of its members.
        speakers = {members[0]: voice for voice, members in present.items()}
        names = [name for name in cohort.names if name in speakers]
        if self.reads_public:
            speeches = self._speeches([], names, self._public, tick, speakers)
        else:
            speeches = class_means(cohort, self._data, self.knowledge, names, tick)
            for name in names:
                samples = self._data.samples_of(name)
                self._post.ledger.compute(name, samples * self.flops[name].predict)
        speeches = [s._replace(speakers=[speakers[peer] for peer in s.speakers]) for s in speeches]
        round_ = cohort.timetable.round_of(tick)
        deaf = {voice for voice, members in present.items() if timetable.static.issuperset(members)}
        told = self.exchange(list(present), speeches, tick, round_, deaf)
        if told:
            told = self._pass_on(told, present, round_)
            names = [name for name in cohort.names if name in there]
            part = len(names) < len(cohort.names)
            self._told, self._merged = self._merge(told, names) if part else told, part

    def _pass_on(self, told: Told, present: Mapping[str, list[PeerName]], round_: int) -> Told:
        """From voices to peers: a hub that speaks for a collective tells its members what it was told."""
        if all([voice] == members for voice, members in present.items()):
            return told
        letters, arrived = self.exchange.describe(told)
        rows: dict[PeerName, tuple[Told, int]] = {}
        for i, (voice, members) in enumerate(present.items()):
            if voice in self._collectives:
                self._post.spread(self.knowledge.kind, round_, letters[i], members, voice)
            rows |= dict.fromkeys(members, (arrived if voice in self._collectives else told, i))
        ordered = [rows[name] for name in self._cohort.names if name in rows]
        return {
            n: Targets(*(torch.stack([source[n][part][i] for source, i in ordered]) for part in (0, 1)))
            for n in told
        }

    def _merge(self, told: Told, names: list[PeerName]) -> Told:
        """What ``names`` were told now, and the others before; written over an earlier merge."""
        size, merged, old = len(self._cohort.names), {}, self._told or {}
        places = [self._order[name] for name in names]
        for name in dict.fromkeys([*old, *told]):
            like = told.get(name) or old[name]
            before = old.get(name) or Targets(*(t.new_zeros(size, *t.shape[1:]) for t in like))
            mine = self._merged and name in old
            values, weight = before if mine else (before.values.clone(), before.weight.clone())
            weight[places] = 0.0  # whoever was there and told nothing knows nothing now
            if name in told:
                values[places], weight[places] = told[name]
            merged[name] = Targets(values, weight)
        return merged

    def _speeches(
        self,
        learning: list[tuple[int, list[int], Predictions]],
        names: list[PeerName],
        public: Public,
        tick: int,
        speaks_for: Mapping[PeerName, str] = MappingProxyType({}),
    ) -> list[Speech]:
        """What ``names`` say about public samples; training forwards serve those who step, if they may.

        What it takes to speak for a collective is counted as its hub's.
        """
        reuse = learning if self.knowledge.speaks_in == "train" else []
        done = {(number, row) for number, rows, _ in reuse for row in rows}
        there, rest = set(names), {}
        for number, group in self._cohort.rows():
            rows = [r for r, name in enumerate(group.names) if name in there and (number, r) not in done]
            if rows:
                rest[number] = rows
        for number, rows in rest.items():
            for row in rows:
                name = self._cohort.rows()[number][1].names[row]
                self._post.ledger.compute(
                    speaks_for.get(name, name), len(public.ids) * self.flops[name].predict
                )
        speeches = [self._speech(*predicted, public) for predicted in reuse]
        return [*speeches, *self._evaluated(rest, public, tick)]

    def _evaluated(self, rows: Mapping[int, list[int]], public: Public, tick: int) -> list[Speech]:
        """What rows of groups say in evaluation mode, one speech a group."""
        parts: dict[int, list[Speech]] = {}
        for number, some_rows, predictions in evaluate(self._cohort, rows, public, tick):
            parts.setdefault(number, []).append(self._speech(number, some_rows, predictions, public))
        return [joined(speeches) for speeches in parts.values()]

    def _speech(self, number: int, rows: list[int], predictions: Predictions, public: Public) -> Speech:
        """What rows of a group say, from what they predict."""
        group = self._cohort.rows()[number][1]
        said = Predictions(*(t.detach() for t in predictions))
        spoken = view_of(public, self._cohort.modality(number))[1].to(said.logits.device)
        spoken = spoken.expand(len(rows), -1)
        if self.knowledge.confident:
            spoken = spoken & (max_probability(said.logits) >= self.knowledge.confident)
        return Speech([group.names[row] for row in rows], self.knowledge.speak(said), spoken)

    @torch.no_grad()
    def overhear(self) -> tuple[dict[str, Heard], Tensor, Tensor]:
        """What all peers would say about the whole public set now, as listeners would hear it.

        They speak in evaluation mode; nothing is counted, remembered or taught.

        Returns:
            every statement; whom each peer hears in the round of the next step, ``[listeners, speakers]``
            (through a hub everybody else; static teachers nobody); and which speaker each is. Of a
            collective the first peer speaks for all, who are equal after an average.
        """
        cohort, exchange, names = self._cohort, self.exchange, self._cohort.names
        everybody = {number: list(range(len(group.names))) for number, group in cohort.rows()}
        speeches = self._evaluated(everybody, self._public, cohort.global_step)
        heard = exchange.assemble(names, speeches, [exchange.encode(speech) for speech in speeches])
        one, timetable = torch.eye(len(self._voices), dtype=torch.bool), cohort.timetable
        round_, relayed = timetable.round_of(cohort.global_step), exchange.topology.hub is not None
        graph = ~one if relayed else exchange.topology.adjacency(exchange.everybody, round_)
        deaf = [timetable.static.issuperset(members) for members in self._voices.values()]
        graph = graph & ~torch.tensor(deaf)[:, None]
        # From voices to peers, which are the same unless collectives speak.
        voice = {peer: i for i, members in enumerate(self._voices.values()) for peer in members}
        listeners = [voice[name] for name in names]
        speakers = [names.index(members[0]) for members in self._voices.values()]
        both = one.new_zeros(2, len(names), len(names))
        both[:, :, speakers] = torch.stack([graph[listeners], one[listeners]])
        hears, own = both.to(speeches[0].spoken.device)
        return heard, hears, own

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What listeners were told last (one copy where a hub told all the same), and their pools."""
        told = {
            name: [t[:1].clone() if t.stride(0) == 0 else t.clone() for t in pair]
            for name, pair in (self._told or {}).items()
        }
        return {"told": told, "pool": self.exchange.state_dict()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where a saved run stood."""
        size, device = len(self._cohort.names), self._cohort.device
        self.exchange.load_state_dict(saved["pool"], device)
        if saved["told"]:
            self._merged = False
            self._told = {
                name: Targets(*(t.to(device).expand(size, *t.shape[1:]) for t in pair))
                for name, pair in saved["told"].items()
            }


def check_kind(knowledge: Knowledge, cohort: Cohort) -> None:
    """Detectors learn detections, and nobody else does.

    Raises:
        ConfigError: it is the other way round.
    """
    student = cohort.student(cohort.names[0])
    if isinstance(student, DetectionStudent) != isinstance(knowledge, Answers):
        kinds = "SharedDetections and DenseDetections are for DetectionStudents, other knowledge for the rest"
        raise ConfigError(f"{type(student).__name__} cannot learn {type(knowledge).__name__}: {kinds}")


def _pick(tensor: Tensor, places: list[int], ids: Tensor | None) -> Tensor:
    """Rows of listeners, and columns of samples if any are named; no copy where all are meant."""
    whole = places == list(range(len(tensor)))
    if ids is None:
        return tensor if whole else tensor[places]
    return tensor[:, ids] if whole else tensor[torch.tensor(places, device=ids.device)[:, None], ids]


def _any(targets: Mapping[str, Targets]) -> Tensor:
    """Whether each listener was told anything."""
    return torch.stack([(weight != 0).any(-1) for _, weight in targets.values()]).any(0)


def _lesson(loss: Tensor, taught: Tensor, keep: float, weight: float) -> Lesson | None:
    if not bool(taught.any()):
        return None
    kept = torch.full_like(loss, keep).masked_fill(~taught, 1.0)
    private = [True] * len(taught) if keep > 0 else (~taught).tolist()
    return Lesson(kept, (weight * loss).masked_fill(~taught, 0.0), private)
