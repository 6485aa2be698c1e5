"""One exchange without students: what they say is given, and what listeners make of it is derived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.coordination import listening as module
from mmkd.coordination.delivery import Delivery
from mmkd.coordination.exchange import Exchange, Speech
from mmkd.encoding.messages import encode
from mmkd.functional.random import generator
from mmkd.knowledge import EveryTeacher, Floats, SharedLogits, Statement, Wire
from mmkd.ledger import Ledger
from mmkd.topology import Complete, DirectedCycle, RandomMatching, Ring, Star, Topology
from mmkd.transport import LocalTransport, Mail, Message, Stack
from mmkd.types import ConfigError, Payload
from tests.spies import Spy
from tests.stairs import NEIGHBOURS, Stairs, assert_drawn_and_paid
from tests.tiny import CLASSES

NAMES = ["a", "b", "c", "d", "e", "f"]
SAMPLES = 5
LETTER = SAMPLES * CLASSES * 4
"""Bytes of what one says of all samples."""
ROUNDING = 2.0**-20
"""A softmax in single precision, and sums of its values rounded to multiples of 2^-36."""


class Listening(Spy, SharedLogits): ...


def exchange(
    knowledge: SharedLogits, topology: Topology, transport: Any = None, names: Sequence[str] = NAMES
) -> tuple[Exchange, Ledger]:
    ledger = Ledger(names)
    delivery = Delivery(transport or LocalTransport(), ledger)
    return Exchange(knowledge, list(names), list(names), delivery, topology, 0, CLASSES), ledger


def draw(tick: int = 0) -> Tensor:
    """Logits that everybody has, ``[peers, samples, classes]``."""
    return torch.randn(len(NAMES), SAMPLES, CLASSES, generator=generator(tick, "exchange"))


def speech(said: Tensor, names: Sequence[str] = NAMES, spoken: Tensor | None = None) -> Speech:
    rows = said[[NAMES.index(name) for name in names]]
    spoken = torch.ones(rows.shape[:2], dtype=torch.bool) if spoken is None else spoken
    return Speech(list(names), {"main": Statement(rows, logits=True)}, spoken)


def mean_probability(*said: Tensor) -> Tensor:
    return torch.stack(said).softmax(-1).mean(0)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


# --- who hears what --------------------------------------------------------------------------------


def test_speakers_of_several_groups_are_heard_in_canonical_order() -> None:
    knowledge, said = Listening(samples="all"), draw()
    carried, _ = exchange(knowledge, Ring())
    targets = carried(NAMES, [speech(said, ["f", "b"]), speech(said, ["a", "c", "d", "e"])], 0, 0)
    assert torch.equal(knowledge.heard[0]["main"].values, said)
    for k in range(6):
        close(targets["main"].values[k], mean_probability(*said[[k, k - 1, (k + 1) % 6]]))


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("topology", [Complete(), Star()], ids=["complete", "star"])
def test_everybody_hears_everybody(topology: Topology, include_self: bool) -> None:
    """On a complete graph and through a hub; it answers in logarithms of single precision."""
    said = draw()
    carried, ledger = exchange(SharedLogits(samples="all", include_self=include_self), topology)
    target = carried(NAMES, [speech(said)], 0, 0)["main"]
    assert target.probabilities
    assert (target.weight == 1).all()
    for k in range(6):
        close(target.values[k], mean_probability(*(said[j] for j in range(6) if include_self or j != k)))
    assert ledger.total() == (12 if topology.hub else 30) * LETTER


@pytest.mark.parametrize("topology", [Ring(), Complete(), Star()], ids=["ring", "complete", "star"])
def test_the_deaf_speak_and_are_told_nothing(topology: Topology) -> None:
    """No byte is spent on them."""
    said = draw()
    carried, ledger = exchange(SharedLogits(samples="all"), topology)
    targets = carried(NAMES, [speech(said)], 0, 0, {"b"})
    heard = [0, 1, 5] if isinstance(topology, Ring) else list(range(6))
    close(targets["main"].values[0], mean_probability(*said[heard]))
    assert all(entry.receiver != "b" for entry in ledger.entries())
    assert any(entry.sender == "b" for entry in ledger.entries())


@pytest.mark.parametrize("topology", [Ring(), Complete(), Star()], ids=["ring", "complete", "star"])
def test_where_nobody_speaks_nothing_is_sent(topology: Topology) -> None:
    carried, ledger = exchange(SharedLogits(samples="all"), topology)
    assert carried(NAMES, [], 0, 0) == {}
    assert carried(NAMES, [Speech(NAMES, {}, torch.ones(6, SAMPLES, dtype=torch.bool))], 0, 0) == {}
    assert ledger.total() == 0


def test_one_peer_alone_hears_itself() -> None:
    said = draw()
    for topology in (Complete(), Ring(), Star()):
        carried, ledger = exchange(SharedLogits(samples="all"), topology, names=["a"])
        close(carried(["a"], [speech(said, ["a"])], 0, 0)["main"].values[0], mean_probability(said[0]))
        assert ledger.total() == (2 * LETTER if topology.hub else 0)


def test_samples_of_which_nobody_speaks_count_nothing() -> None:
    """The first listener's two neighbours speak of the first sample and of the last, itself of none."""
    said, spoken = draw(), torch.ones(6, SAMPLES, dtype=torch.bool)
    spoken[[0, 1, 5]] = False
    spoken[1, 0] = spoken[5, 4] = True
    carried, _ = exchange(SharedLogits(samples="all"), Ring())
    target = carried(NAMES, [speech(said, spoken=spoken)], 0, 0)["main"]
    assert target.weight[0].tolist() == [1, 0, 0, 0, 1]
    close(target.values[0, 0], said[1, 0].softmax(-1))
    close(target.values[0, 4], said[5, 4].softmax(-1))


@pytest.mark.parametrize(
    "topology", [Complete(), Ring(), DirectedCycle(), Star()], ids=lambda t: type(t).__name__
)
@pytest.mark.parametrize("include_self", [True, False])
def test_listeners_may_listen_some_at_a_time(
    topology: Topology, include_self: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four at a time are three of six in the second turn; every bit is the same."""
    found = []
    for together in (1024, 4, 1):
        monkeypatch.setattr(module, "LISTENERS", together)
        carried, _ = exchange(SharedLogits(samples="all", include_self=include_self), topology)
        found.append(carried(NAMES, [speech(draw())], 0, 0)["main"])
    for other in found[1:]:
        assert torch.equal(other.values, found[0].values)
        assert torch.equal(other.weight, found[0].weight)


# --- transports ------------------------------------------------------------------------------------


class Losing(LocalTransport):
    """What one participant sends never arrives."""

    def __init__(self, lost: str) -> None:
        super().__init__()
        self.lost = lost

    def deliver(self, mail: Mail) -> Mail:
        stacks = []
        for stack in super().deliver(mail).stacks:
            kept = [row for row, name in enumerate(stack.senders) if name != self.lost]
            tensors = {name: tensor[kept] for name, tensor in stack.tensors.items()}
            stacks.append(stack._replace(senders=[stack.senders[row] for row in kept], tensors=tensors))
        return mail._replace(stacks=[stack for stack in stacks if stack.senders])


@pytest.mark.parametrize("topology", [Ring(), Complete()], ids=["ring", "complete"])
def test_who_stays_silent_has_not_spoken(topology: Topology) -> None:
    """Neither to others nor, for it is not there, to itself."""
    said = draw()
    carried, _ = exchange(SharedLogits(samples="all"), topology, Losing("b"))
    target = carried(NAMES, [speech(said)], 0, 0)["main"]
    heard = [0, 5] if isinstance(topology, Ring) else [0, 2, 3, 4, 5]
    close(target.values[0], mean_probability(*said[heard]))
    assert (target.weight == 1).all()


class Visited(LocalTransport):
    """Somebody in another process says something to the first who is here.

    Args:
        visitor: who.
        said: logits.
        stacked: whether it comes as if it had been sent in this process.
    """

    def __init__(self, visitor: str, said: Tensor, *, stacked: bool = False) -> None:
        super().__init__()
        self.visitor, self.said, self.stacked = visitor, said, stacked

    def deliver(self, mail: Mail) -> Mail:
        mail = super().deliver(mail)
        if self.stacked:
            visit = Stack([self.visitor], {"main": self.said[None]}, ["a"], logits=("main",))
            return mail._replace(stacks=[*mail.stacks, visit])
        payload = Payload(self.visitor, mail.kind, mail.round, {"main": self.said}, ("main",))
        return mail._replace(messages=[Message(encode(payload), ["a"])])


@pytest.mark.parametrize("topology", [Ring(), Star()], ids=["ring", "hub"])
def test_whoever_speaks_without_being_there_is_not_heard(topology: Topology) -> None:
    """One that has not joined, and one that sits out."""
    for names, strange in ((NAMES, "stranger"), (NAMES[:5], "f")):
        found = []
        for transport in (LocalTransport(), Visited(strange, draw(1)[0])):
            carried, ledger = exchange(SharedLogits(samples="all"), topology, transport)
            found.append(carried(names, [speech(draw(), names)], 0, 0)["main"].values)
        assert torch.equal(*found)
        # In the second exchange of a hub, which answers, it speaks again.
        assert ledger.refusals() == {"sender": 2 if topology.hub else 1}


def test_stacks_that_were_not_sent_here_are_an_error() -> None:
    """Of a stranger, and of somebody who is here."""
    for visitor, said in (("stranger", draw(1)[0]), ("b", draw(1)[0, :2])):
        carried, _ = exchange(SharedLogits(samples="all"), Ring(), Visited(visitor, said, stacked=True))
        with pytest.raises(ConfigError, match=f"'{visitor}', wh") as error:
            carried(NAMES, [speech(draw())], 0, 0)
        assert "\n" not in str(error.value)


# --- names and parts -------------------------------------------------------------------------------


class Parts(Floats):
    """Names the one tensor that it sends otherwise."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part

    def encode(self, values: Any, *, logits: bool) -> Any:
        return {self.part: values}

    def decode(self, encoded: Any, width: int, *, logits: bool) -> Any:
        return encoded[self.part]


@pytest.mark.parametrize("part", ["values", "weight", ".weight", "a.b"])
def test_parts_of_a_wire_that_would_be_lost_are_refused(part: str) -> None:
    carried, ledger = exchange(SharedLogits(samples="all", wire=Parts(part)), Ring())
    with pytest.raises(ConfigError, match="'main' is sent as"):
        carried(NAMES, [speech(draw())], 0, 0)
    assert ledger.total() == 0


def test_parts_that_begin_with_a_dot_arrive() -> None:
    said = draw()
    found = []
    for wire in (Floats(), Parts(".values")):
        carried, _ = exchange(SharedLogits(samples="all", wire=wire), Ring())
        found.append(carried(NAMES, [speech(said)], 0, 0)["main"].values)
    assert torch.equal(*found)


def test_a_statement_with_a_dot_in_its_name_is_refused() -> None:
    carried, _ = exchange(SharedLogits(samples="all"), Ring())
    dotted = speech(draw())._replace(statements={"main.head": Statement(draw(), logits=True)})
    with pytest.raises(ConfigError, match="names of statements hold no dot"):
        carried(NAMES, [dotted], 0, 0)


@pytest.mark.parametrize("wire", [Floats(), Floats("float16")], ids=["single", "half"])
def test_answers_come_back_as_targets(wire: Wire) -> None:
    """Where samples count unequally, their weights are told, in halves; 2 and 3 are exact."""
    said, spoken = draw(), torch.ones(6, SAMPLES, dtype=torch.bool)
    spoken[:3, 1] = spoken[:, 2] = False
    knowledge = SharedLogits(samples="all", wire=wire, consensus=EveryTeacher())
    carried, _ = exchange(knowledge, Ring())
    targets = carried(NAMES, [speech(said, spoken=spoken)], 0, 0)
    answer = carried.answer_of(targets, "hub")
    assert set(answer.tensors) == {"main", "main.weight"}
    assert list(answer.senders) == ["hub"] * 6
    back = carried.targets_of(answer, targets)["main"]
    assert torch.equal(back.weight, targets["main"].weight)
    assert set(back.weight.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert back.probabilities
    told = back.weight != 0
    # A logarithm of at most 2^4 is off by 2^-7 in half precision, and so is its exponential, relatively.
    off = 2.0**-7 if wire.encode(said, logits=True)[""].dtype == torch.float16 else ROUNDING
    torch.testing.assert_close(back.values[told], targets["main"].values[told], rtol=off, atol=ROUNDING)


# --- draws of teachers -----------------------------------------------------------------------------


def test_drawn_teachers_are_neighbours_all_alike_and_afresh_every_time() -> None:
    """Each of the statistics stays within what independent uniform draws do but for one in ten thousand."""
    exchanges, knowledge = 150, Listening(samples="all", teachers=1)
    carried, ledger = exchange(knowledge, Stairs())
    said = speech(draw())
    for tick in range(exchanges):
        carried(NAMES, [said], tick, 0)
    heard = torch.stack(knowledge.hears)
    number = heard.sum(0).double()
    assert len(heard) == exchanges
    assert_drawn_and_paid(heard, 1, NAMES, ledger, LETTER)
    # Sum over listeners of (observed - expected)^2 / expected: chi-squared with sum (degree - 1) freedoms.
    chi, freedoms = 0.0, 0
    for k, others in NEIGHBOURS.items():
        if len(others) > 1:
            expected = exchanges / len(others)
            chi += float(((number[k, others] - expected) ** 2 / expected).sum())
            freedoms += len(others) - 1
    tail = torch.special.gammaincc(torch.tensor(freedoms / 2), torch.tensor(chi / 2))
    assert 1e-4 < tail < 1 - 1e-4  # neither lopsided nor taken in turns
    # The same one twice in a row: one in `degree`. The same as another listener who can hear it: likewise.
    chosen = heard.int().argmax(-1)
    for k in (2, 3, 4, 5):
        assert_binomial(int((chosen[1:, k] == chosen[:-1, k]).sum()), exchanges - 1, 1 / len(NEIGHBOURS[k]))
    assert_binomial(int((chosen[:, 5] == chosen[:, 4]).sum()), exchanges, 1 / 5)


def assert_binomial(count: int, trials: int, p: float) -> None:
    """Within four standard deviations."""
    assert abs(count - trials * p) < 4 * (trials * p * (1 - p)) ** 0.5


def test_no_more_teachers_than_there_are_others() -> None:
    exchange(SharedLogits(teachers=5), Complete())
    with pytest.raises(ConfigError, match="teachers is 6, but there are only 5 others"):
        exchange(SharedLogits(teachers=6), Complete())


# --- pools -----------------------------------------------------------------------------------------

GRAPHS = {"ring": Ring(), "cycle": DirectedCycle(), "matching": RandomMatching()}


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("pool", [2, 3, 10])
@pytest.mark.parametrize("topology", GRAPHS.values(), ids=GRAPHS)
def test_targets_are_the_consensus_of_what_is_remembered(
    topology: Topology, pool: int, include_self: bool
) -> None:
    """Of the last ``pool`` exchanges the neighbours of each; of its own word the last alone."""
    knowledge = SharedLogits(samples="all", pool=pool, include_self=include_self)
    carried, ledger = exchange(knowledge, topology)
    edges = 0
    for now in range(4):
        targets = carried(NAMES, [speech(draw(now))], now, now)
        edges += int(topology.adjacency(NAMES, now).sum())
        for k in range(6):
            heard = [
                draw(then)[j]
                for then in range(max(0, now - pool + 1), now + 1)
                for j in topology.adjacency(NAMES, then)[k].nonzero()[:, 0].tolist()
            ]
            own = [draw(now)[k]] if include_self else []
            close(targets["main"].values[k], mean_probability(*heard, *own))
    assert ledger.total("logits") == edges * LETTER  # memory costs no byte


def test_who_was_away_remembers_what_it_heard_before() -> None:
    """Peer b misses the second of three exchanges on a cycle: of it, nothing is in its pool or in c's."""
    carried, _ = exchange(SharedLogits(samples="all", pool=3, include_self=False), DirectedCycle())
    there = [name for name in NAMES if name != "b"]
    carried(NAMES, [speech(draw(0))], 0, 0)
    carried(there, [speech(draw(1), there)], 1, 1)
    values = carried(NAMES, [speech(draw(2))], 2, 2)["main"].values
    close(values[1], mean_probability(draw(0)[0], draw(2)[0]))
    close(values[2], mean_probability(draw(0)[1], draw(2)[1]))
    close(values[3], mean_probability(draw(0)[2], draw(1)[2], draw(2)[2]))


def test_a_saved_pool_recalls_the_same() -> None:
    knowledge = SharedLogits(samples="all", pool=2, recall=1, include_self=False)
    carried, _ = exchange(knowledge, Ring())
    for tick in range(3):
        carried(NAMES, [speech(draw(tick))], tick, 0)
    again, _ = exchange(knowledge, Ring())
    again.pool.load_state_dict(carried.pool.state_dict(), torch.device("cpu"))
    ids = torch.tensor([4, 1])
    one, two = (one.recall(ids, 7)["main"].values for one in (carried, again))
    assert torch.equal(one, two)
    assert one.shape == (6, 2, CLASSES)
    assert again.pool.staleness(5) == carried.pool.staleness(5) == 5 - (1 + 2) / 2


@pytest.mark.parametrize(("pool", "ages"), [(2, (0, 1.5, 1.5)), (3, (0, 1.5, 3)), (9, (0, 1.5, 3))])
def test_staleness_is_the_mean_age(pool: int, ages: tuple[float, ...]) -> None:
    """Every three ticks an exchange over the same edges."""
    carried, _ = exchange(SharedLogits(samples="all", pool=pool), Ring())
    assert carried.pool.staleness(0) is None
    for now, age in enumerate(ages):
        carried(NAMES, [speech(draw(now))], 3 * now, 0)
        assert carried.pool.staleness(3 * now) == age
        assert carried.pool.staleness(3 * now + 2) == age + 2
