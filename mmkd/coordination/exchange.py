"""One exchange of knowledge: everybody speaks, then everybody listens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmkd.coordination.delivery import Delivery
from mmkd.coordination.expected import WEIGHT, ExpectedStatements, says_of_targets
from mmkd.coordination.heard import assembled, decoded, whose_answers
from mmkd.coordination.held import Held, run_name
from mmkd.coordination.listening import listen_in_chunks
from mmkd.coordination.pool import Pool
from mmkd.coordination.targets import Targets, expanded, of_receivers
from mmkd.encoding.samples import named
from mmkd.functional.classification import softmax
from mmkd.functional.graph import Graph, drawn_edges, rows_of
from mmkd.functional.random import key
from mmkd.knowledge.base import Heard, Statement, Statements
from mmkd.topology import Topology
from mmkd.transport import Stack
from mmkd.types import ConfigError, Target


class Speech(NamedTuple):
    """Statements of the speakers of one group."""

    speakers: list[str]
    statements: Mapping[str, Statement]  # values [speakers, samples, width]
    spoken: Bool[Tensor, "speakers samples"]


class Exchange:
    """Carries statements over a graph, and lets listeners make targets of them.

    Args:
        knowledge: what is said, and what listeners make of it.
        everybody: all who may speak, in this process and in others, in canonical order.
        ids: keys of the random streams of each, in the same order.
        delivery: carries what is said.
        topology: who hears whom.
        seed: keys the draws.
        num_classes: of the data.
        here: speakers that are in this process; everybody, if None.
        device: of statements; the CPU, if None.

    Raises:
        ConfigError: the graph has no meaning for them, or teachers or a pool are too many.
    """

    def __init__(
        self,
        knowledge: Statements,
        everybody: list[str],
        ids: Sequence[str],
        delivery: Delivery,
        topology: Topology,
        seed: int,
        num_classes: int,
        here: Collection[str] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.knowledge, self.everybody, self.topology = knowledge, everybody, topology
        self._delivery, self._classes = delivery, num_classes
        self._place = {name: i for i, name in enumerate(everybody)}
        self._here = None if here is None or len(here) == len(everybody) else frozenset(here)
        self._streams = torch.tensor([[key(seed, it, role) for role in ("listens", "speaks")] for it in ids])
        self.pool = Pool(len(everybody), knowledge.pool)
        self.held: Held | None = None
        if knowledge.cache is not None:
            self.held = Held(knowledge.cache, self._decoded, run_name(seed, knowledge.kind, *ids))
        self._looked_up: tuple[list[str], Graph | None] = ([], None)
        self.says: dict[str, tuple[int, bool]] = {}
        """Width of each statement that may be said, and whether it is logits; others are refused."""
        self._device = device or torch.device("cpu")
        topology.check(everybody)
        topology.sparse(everybody, 0)
        if knowledge.teachers is not None and knowledge.teachers >= len(ids) > 1:
            raise ConfigError(
                f"knowledge.teachers is {knowledge.teachers}, but there are only {len(ids) - 1} others"
            )
        if knowledge.pool > 1 and topology.hub is not None:
            raise ConfigError(
                "knowledge.pool is kept by listeners, who hear a hub's answer only: choose a graph"
            )

    @torch.no_grad()
    def __call__(
        self,
        names: list[str],
        speeches: Sequence[Speech],
        tick: int,
        round: int,
        deaf: Collection[str] = (),
        ids: Int[Tensor, " samples"] | None = None,
    ) -> Targets:
        """Everybody in ``names`` speaks, then each of them listens; empty if nobody had anything to say.

        Args:
            names: those who take part, in this process and in others.
            speeches: what some of those in this process say.
            tick: keys the draws.
            round: of the graph and of the messages.
            deaf: those who speak and do not listen.
            ids: samples or classes about which they speak; other processes that speak about others are not
                heard. Not needed where all are in this process.

        Returns:
            targets with a row for each of ``names`` that is in this process, in that order.

        Raises:
            ConfigError: somebody speaks who does not take part.
        """
        speeches = [speech for speech in speeches if speech.statements]
        if not names or not (speeches or self._here is not None):
            return {}
        knowledge, hub = self.knowledge, self.topology.hub
        graph = self._graph(names, round)
        if knowledge.teachers is not None:
            streams = self._streams[self._places(names)]
            drawn = drawn_edges(graph.edges, streams[:, 0], streams[:, 1], knowledge.teachers, tick)
            graph = Graph(graph.size, drawn)
        listening = [name for name in names if name not in deaf]
        if graph.listed is not None:
            resting = [i for i, name in enumerate(names) if name in deaf]
            graph = graph.without(torch.tensor(resting, dtype=torch.long))
        stacks = list(self._stacks(speeches, names, listening, graph))
        size = len(ids) if ids is not None else speeches[0].spoken.shape[1] if speeches else 0
        about = named(ids) if ids is not None and self._here is not None else ""
        ids = torch.arange(size) if ids is None else ids
        if self.held is not None:
            stacks = [self.held.narrowed(stack, stack.senders, ids, tick) for stack in stacks]
        arrived = self._delivery.deliver(
            knowledge.kind, round, stacks, lambda: self._expected(self._elsewhere(names, graph), size), about
        )
        if self.held is not None:
            arrived = [self.held.filled(stack, stack.senders, ids, tick) for stack in arrived]
        heard = self.assemble(names, arrived)
        if hub is not None:
            made = self._hub_makes(heard, graph) if heard and self._delivery.hosts else None
            return self._answer(made, names, listening, round, hub, ids, tick, about)
        if not heard:
            return {}
        if knowledge.pool > 1:
            return self._remember(names, heard, graph, tick)
        return self._listen(heard, graph, self._mine(names))

    def _mine(self, names: Sequence[str]) -> Int[Tensor, " listeners"]:
        """Positions among ``names`` of those who are in this process."""
        if self._here is None:
            return torch.arange(len(names))
        return torch.tensor([i for i, name in enumerate(names) if name in self._here], dtype=torch.long)

    def _graph(self, names: list[str], round: int) -> Graph:
        """Whom each of ``names`` hears, through a hub everybody; a fixed graph is computed once."""
        if self.topology.hub is not None:
            return Graph(len(names), None)
        asked = [*names, "" if self.topology.fixed else str(round)]
        if self._looked_up[1] is None or self._looked_up[0] != asked:
            self._looked_up = asked, self.topology.within(names, self.everybody, round)
        graph = self._looked_up[1]
        assert graph is not None
        return graph

    # --- what may arrive from other processes ------------------------------------------------------

    def _elsewhere(self, names: list[str], graph: Graph) -> list[str]:
        """Those who are not here and whom somebody here hears: a hub, or a listener."""
        if self.topology.hub is not None or graph.listed is None:
            heard = names if self.topology.hub is None or self._delivery.hosts else []
        else:
            listener, speaker = graph.edges
            heard = [names[i] for i in speaker[torch.isin(listener, self._mine(names))].unique().tolist()]
        return [name for name in heard if self._here is None or name not in self._here]

    def _expected(
        self, senders: Collection[str], samples: int, *, answers: bool = False
    ) -> ExpectedStatements:
        """Statements like those that were ever said here, or the targets that a hub makes of them."""
        knowledge, says = self.knowledge, self.says
        if answers:
            says = says_of_targets(knowledge, says, samples, self._device)
        return ExpectedStatements(
            senders, self._device, knowledge.wire, says, self._classes, samples, answers=answers
        )

    # --- speaking ----------------------------------------------------------------------------------

    def _stacks(
        self, speeches: Sequence[Speech], names: list[str], listening: list[str], graph: Graph
    ) -> Iterator[Stack]:
        """Stacks to be sent, one for each speech: to the hub, or along the edges of the graph."""
        hub, where = self.topology.hub, {name: i for i, name in enumerate(names)}
        for stack in map(self.encode, speeches):
            if hub is not None:
                yield stack._replace(receivers=[hub])
                continue
            edges = graph.listed
            if edges is None:
                yield stack._replace(receivers=listening)
                continue
            if list(stack.senders) != names:
                row = torch.full((len(names),), -1)
                row[[where[name] for name in stack.senders]] = torch.arange(len(stack.senders))
                edges = torch.stack([edges[0], row[edges[1]]])[:, row[edges[1]] >= 0]
            yield stack._replace(receivers=names, edges=edges)

    def encode(self, speech: Speech) -> Stack:
        """A speech as the tensors that are sent, the same for all receivers.

        Raises:
            ConfigError: the name of a statement, or of a part of it, cannot be sent.
        """
        tensors: dict[str, Tensor] = {}
        for name, statement in speech.statements.items():
            parts = self.knowledge.wire.encode(statement.values, logits=statement.logits)
            wrong = [part for part in parts if part == WEIGHT or (part and not part.startswith("."))]
            if "." in name or wrong:
                raise ConfigError(
                    f"'{name}' is sent as {', '.join(map(repr, parts))}: names of statements hold no dot, and"
                    " those of the parts that a wire makes are empty or begin with one, and none is '.weight'"
                )
            tensors |= {name + part: tensor for part, tensor in parts.items()}
            self.says[name] = statement.values.shape[-1], statement.logits
        logits = tuple(name for name, statement in speech.statements.items() if statement.logits)
        spoken = None if bool(speech.spoken.all()) else speech.spoken
        return Stack(speech.speakers, tensors, [], None, spoken, logits)

    def assemble(self, speakers: Sequence[str], arrived: Sequence[Stack]) -> dict[str, Heard]:
        """Statements of all speakers, in their order; who has not made a statement is silent in it.

        Raises:
            ConfigError: somebody speaks who is none of them.
        """
        where = {name: i for i, name in enumerate(speakers)}
        for stack in arrived:
            if strange := [name for name in stack.senders if name not in where]:
                raise ConfigError(
                    f"'{strange[0]}' speaks and is not there; give every process the same configuration"
                )
        if self._here is not None:  # in one order in all processes
            arrived = sorted(arrived, key=lambda stack: where[stack.senders[0]])
        return assembled(where, [(stack, self._decoded(stack)) for stack in arrived])

    def _decoded(self, stack: Stack) -> dict[str, Tensor]:
        """Statements of the rows of a stack."""
        return decoded(stack, self.knowledge.wire, self._classes)

    def _places(self, names: Sequence[str]) -> Tensor:
        """Positions of names among everybody."""
        return torch.tensor([self._place[name] for name in names])

    # --- listening ---------------------------------------------------------------------------------

    def _hub_makes(self, heard: Mapping[str, Heard], graph: Graph) -> Targets:
        """Targets of all listeners, or ``[1, samples, ...]`` if the targets of all are the same."""
        if self.knowledge.personal:  # each hears others, or compares with what it says itself
            return self._listen(heard, graph, torch.arange(graph.size))
        spoke = next(iter(heard.values())).spoke
        everybody = torch.ones(1, len(spoke), dtype=torch.bool, device=spoke.device)
        return self.knowledge.listen(heard, everybody, torch.zeros_like(everybody))

    def _listen(
        self, heard: Mapping[str, Heard], graph: Graph, listeners: Int[Tensor, " listeners"]
    ) -> Targets:
        """Targets of some listeners, given by their positions in the graph."""

        def hears(start: int, stop: int) -> Tensor:
            if len(listeners) == graph.size:
                return graph.dense(start, stop)
            return graph.rows(listeners[start:stop])

        return listen_in_chunks(self.knowledge, heard, hears, listeners, everybody=graph.listed is None)

    def _answer(
        self,
        made: Targets | None,
        names: list[str],
        listening: list[str],
        round: int,
        hub: str,
        ids: Int[Tensor, " samples"],
        tick: int,
        about: str,
    ) -> Targets:
        """Send the hub's targets to each listener, or one answer to all; what arrives in this process."""
        stacks, samples = list[Stack](), len(ids)
        if made:
            stack = self.answer_of(made, hub)._replace(receivers=listening)
            if len(stack.senders) == len(names) > 1:
                heeds = set(listening)
                rows = torch.tensor([i for i, name in enumerate(names) if name in heeds], dtype=torch.long)
                stack = stack._replace(edges=torch.stack([torch.arange(len(rows)), rows]))
            if self.held is not None:
                stack = self.held.narrowed(
                    stack, whose_answers(stack, personal=self.knowledge.personal), ids, tick
                )
            stacks.append(stack)
        senders = [hub] if self._here is None or not self._delivery.hosts else []
        arrived = self._delivery.deliver(
            self.knowledge.kind, round, stacks, lambda: self._expected(senders, samples, answers=True), about
        )
        if not arrived:
            return {}
        if self.held is not None:
            arrived = [
                self.held.filled(stack, whose_answers(stack, personal=self.knowledge.personal), ids, tick)
                for stack in arrived
            ]
        first = arrived[0]
        alike = first.edges is None and first.receivers == listening
        if len(arrived) == 1 and (alike or (self._here is None and len(first.senders) == len(names))):
            return expanded(self.targets_of(first, made), len(self._mine(names)))
        mine = [names[i] for i in self._mine(names).tolist()]
        return of_receivers([(stack, self.targets_of(stack, made)) for stack in arrived], mine)

    def answer_of(self, targets: Targets, sender: str) -> Stack:
        """Targets as the tensors that are sent, one row for each target."""
        tensors: dict[str, Tensor] = {}
        spoken = torch.stack([target.weight != 0 for target in targets.values()]).any(0)
        for name, (values, weight, probabilities) in targets.items():
            said = values.log().clamp(min=-60.0) if probabilities else values  # exp(-60) is about zero
            parts = self.knowledge.wire.encode(said, logits=probabilities)
            if not torch.equal(weight, spoken.to(weight.dtype)):
                parts[WEIGHT] = weight.half()
            tensors |= {name + part: tensor for part, tensor in parts.items()}
        logits = tuple(name for name, target in targets.items() if target.probabilities)
        left_out = None if bool(spoken.all()) else spoken
        return Stack([sender] * len(spoken), tensors, [], None, left_out, logits)

    def targets_of(self, arrived: Stack, like: Targets | None) -> Targets:
        """Targets from the tensors that arrive, in the types of those that were sent, if these are known."""
        weights = {n.removesuffix(WEIGHT): t for n, t in arrived.tensors.items() if n.endswith(WEIGHT)}
        statements = {n: t for n, t in arrived.tensors.items() if not n.endswith(WEIGHT)}
        targets = Targets()
        for name, values in self._decoded(arrived._replace(tensors=statements)).items():
            dtype = like[name].weight.dtype if like is not None else values.dtype
            if name in weights:
                weight = weights[name].to(dtype)
            elif arrived.spoken is not None:
                weight = arrived.spoken.to(dtype)
            else:
                weight = torch.ones(values.shape[:2], dtype=dtype, device=values.device)
            probabilities = name in arrived.logits
            targets[name] = Target(softmax(values) if probabilities else values, weight, probabilities)
        return targets

    # --- pools -------------------------------------------------------------------------------------

    def _remember(self, names: list[str], heard: dict[str, Heard], graph: Graph, tick: int) -> Targets:
        """Add to the pool what was heard now, and make targets of all that is in it."""
        places = self._places(names)
        self.pool.add(tick, heard, places, graph.edges)
        targets = self.recall(None, None)
        mine = self._mine(self.everybody)
        at = torch.searchsorted(mine, places[torch.isin(places, mine)])
        at = at.to(next(iter(targets.values())).weight.device)
        return {n: t._replace(values=t.values[at], weight=t.weight[at]) for n, t in targets.items()}

    @torch.no_grad()
    def recall(self, ids: Tensor | None, tick: int | None) -> Targets:
        """Targets that everybody in this process makes of its pool of earlier exchanges.

        Args:
            ids: samples; all, if None.
            tick: at which each draws ``knowledge.recall`` entries; it takes all, if None.
        """
        knowledge, pool, size = self.knowledge, self.pool, len(self.everybody)
        edges, width = pool.edges(), pool.speakers
        if tick is not None and knowledge.recall is not None:
            speaks = pool.keys(self._streams[:, 1])
            edges = drawn_edges(edges, self._streams[:, 0], speaks, knowledge.recall, tick)
        own = self._mine(self.everybody)
        if len(own) < size:
            row = torch.full((size,), -1)
            row[own] = torch.arange(len(own))
            edges = torch.stack([row[edges[0]], edges[1]])[:, row[edges[0]] >= 0]
        own = own + width - size  # a listener's own statement is that of the last exchange
        return listen_in_chunks(
            knowledge, pool.heard(ids), lambda start, stop: rows_of(edges, start, stop, width), own
        )

    # --- checkpoints -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What listeners remember and hold."""
        held = {} if self.held is None else {"held": self.held.state_dict()}
        return {"pool": self.pool.state_dict(), **held}

    def load_state_dict(self, saved: Mapping[str, Any], device: torch.device) -> None:
        """Load the state of a saved run."""
        self.pool.load_state_dict(saved["pool"], device)
        if self.held is not None:
            self.held.load_state_dict(saved["held"])
