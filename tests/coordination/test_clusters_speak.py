"""Weights inside clusters, knowledge between them: each cluster speaks with one voice, that of its hub."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.samples import PublicSamples
from mmkd.federated import FedAvg
from mmkd.knowledge import EveryTeacher, Heard, MultiHeadDistillation, Prototypes, SharedLogits, Target
from mmkd.participation import Sampled, Trace
from mmkd.students.base import Classifier
from mmkd.topology import Complete, DirectedCycle, EdgeList, Islands, Ring, Star, Topology
from mmkd.topology import Path as Chain
from mmkd.types import ConfigError
from tests.grids import each_once
from tests.spies import Began, Spy
from tests.tiny import CLASSES, FEATURES, TinyData, TinyDataDouble, fit, fleets, schedule, sgd, trainer

PUBLIC, ROW = 100, CLASSES * 4
"""Public samples, and bytes of what is said about one."""
BITS = 13
"""Bytes of a mask over the public set."""
EYES, EARS = "hub/cameras/0", "hub/microphones/0"
CAMERAS = ["cameras/0", "cameras/1", "cameras/2"]
MICROPHONES = ["microphones/0", "microphones/1"]
MEMBERS = {EYES: CAMERAS, EARS: MICROPHONES}
WITH_LONE = {"near": ["cameras/0", "cameras/2"], "far": MICROPHONES}
"""Clusters that leave one camera to itself."""
ONE = pytest.mark.parametrize("vectorize", ["never", pytest.param("always", marks=pytest.mark.long)])
"""What is said is put together from what students predict, and not by groups: one path shows what it is."""
OTHER = pytest.mark.parametrize("vectorize", ["always", pytest.param("never", marks=pytest.mark.long)])
GRAPHS = {"complete": Complete(), "ring": Ring(), "star": Star(), "another hub": Star("centre")}


class Plain(Classifier):
    """Two layers without statistics or random layers."""

    modalities = ("image",)

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=6, **{"optimizer": sgd(0.2), **kwargs})
        self.net = nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh())

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x)


class PlainEar(Plain):
    modalities = ("audio",)


PREDICT = 2 * (FEATURES * 6 + 6 * CLASSES)
"""FLOPs of a forward of ``Plain``."""


class Spied(Spy, SharedLogits):
    """About the whole public set."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"samples": "all", **kwargs})

    @property
    def voices(self) -> list[Heard]:
        """Of each exchange what was heard."""
        return [heard["main"] for heard in self.heard]

    @property
    def lessons(self) -> list[Target]:
        """Of each group and tick what was taught."""
        return [taught["main"] for taught in self.taught]


class Diary(Began):
    """Ids of the public samples of each tick; in blocks of one."""

    def __init__(self) -> None:
        self.ids: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.ids.append(batch.steps[0].public.ids)


class Run(NamedTuple):
    cohort: Cohort
    callback: DecentralizedCallback
    data: TinyData
    diary: Diary


def run(
    knowledge: Any,
    aggregation: Any = None,
    between: Topology | None = None,
    *,
    topology: Topology | None = None,
    peers: dict[str, Fleet] | None = None,
    rounds: int = 3,
    vectorize: Any = "never",
    data: type[TinyData] = TinyData,
    participation: Any = None,
    **plan: Any,
) -> Run:
    cohort = Cohort(peers or fleets(), CLASSES, vectorize=vectorize)
    cohort = cohort.double() if data.dtype == torch.float64 else cohort
    timing = schedule(**{"rounds_per_epoch": 1, "block": 1, **plan})
    callback = DecentralizedCallback(
        knowledge, aggregation, topology or Star(), timing, participation=participation, between=between
    )
    diary, samples = Diary(), data(batch_size=16)
    extra = [diary] if knowledge is not None else []
    trainer(callback, *extra, max_epochs=rounds, limit_val_batches=0).fit(cohort, datamodule=samples)
    return Run(cohort, callback, samples, diary)


def state(made: Run, peer: str) -> dict[str, Tensor]:
    return made.cohort.student(peer).state_dict()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def edges(made: Run, kind: str = "logits") -> set[tuple[int, str, str, str, int]]:
    return {
        (e.round, e.sender, e.receiver, e.direction, e.bytes)
        for e in made.callback.ledger.entries()
        if e.kind == kind
    }


def says(student: Any, x: Tensor) -> Tensor:
    """Logits in evaluation mode."""
    with torch.no_grad():
        return copy.deepcopy(student).eval()(x)


def averaged(alone: Run, peers: list[str]) -> Any:
    """A student with the weights, and the statistics, that the hub makes of those of peers that trained alone."""
    sizes = {peer: len(alone.data.private(peer, "train")) for peer in peers}  # type: ignore[arg-type]
    student = copy.deepcopy(alone.cohort.student(peers[0]))
    mean = {
        n: sum(size / sum(sizes.values()) * state(alone, peer)[n] for peer, size in sizes.items())
        for n, t in state(alone, peers[0]).items()
        if t.is_floating_point()
    }
    student.load_state_dict(mean, strict=False)
    return student


@cache
def unspoken(vectorize: str) -> Run:
    """Nobody says anything, and nothing is averaged."""
    return run(None, rounds=2, vectorize=vectorize)


@cache
def averaged_alone(vectorize: str, heads: int = 0) -> Run:
    """Weights are averaged, and there is no knowledge."""
    return run(None, FedAvg(), peers=fleets(heads=heads), vectorize=vectorize)


# --- one voice -------------------------------------------------------------------------------------


@each_once(vectorize=["never", "always"], between=GRAPHS)
def test_a_collective_of_one_peer_is_the_peer(between: Topology, vectorize: str) -> None:
    """Bit for bit, and byte for byte: it is as if nobody averaged anything."""
    among = {f"home {i}": [peer] for i, peer in enumerate(CAMERAS + MICROPHONES)}
    one = run(Spied(), FedAvg(among=among), between, rounds=2, vectorize=vectorize)
    two = run(Spied(), None, topology=between, rounds=2, vectorize=vectorize)
    for peer in one.cohort.names:
        assert equal(state(one, peer), state(two, peer)), peer
    assert one.callback.ledger == two.callback.ledger
    assert one.callback.ledger.total("logits") > 0
    assert one.callback.ledger.total("weights") == 0
    assert not equal(state(one, "cameras/0"), state(unspoken(vectorize), "cameras/0"))


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_a_hub_says_what_the_averaged_student_says_in_evaluation_mode(vectorize: str) -> None:
    """By hand from what each is after a round alone; a lone peer says what it says itself.

    Twice, to tell the average of one round from that of another.
    """
    knowledge = Spied(alpha=0.5)
    peers = fleets(drop=0.3, optimizer=sgd(0.2))
    run(knowledge, FedAvg(among=WITH_LONE), Ring(), peers=peers, rounds=2, data=TinyDataDouble,
        vectorize=vectorize)  # fmt: skip
    (heard,) = knowledge.voices
    # Random layers of the vectorised path are drawn as they are there.
    alone = run(None, peers=peers, rounds=1, data=TinyDataDouble, vectorize=vectorize)
    x = alone.data.public_x
    speakers = [
        averaged(alone, ["cameras/0", "cameras/2"]),
        alone.cohort.student("cameras/1"),
        averaged(alone, MICROPHONES),
    ]
    expected = torch.stack([says(speaker, x) for speaker in speakers]).float()
    assert heard.spoke.all()
    torch.testing.assert_close(heard.values, expected, rtol=1e-6, atol=1e-6)
    # Neither what a member says nor what is said in training mode.
    for peer in CAMERAS:
        assert (says(alone.cohort.student(peer), x) - heard.values[0]).abs().max() > 1e-3
    assert (speakers[0].train()(x) - heard.values[0]).abs().max() > 1e-3


@each_once(between=[Complete(), Star()], include_self=[True, False])
def test_members_are_taught_what_their_hub_was_told(between: Topology, include_self: bool) -> None:
    """The mean probability of the two hubs, or that of the other, in every tick until the next exchange."""
    knowledge = Spied(include_self=include_self)
    made = run(knowledge, FedAvg(), between, data=TinyDataDouble)
    assert len(knowledge.voices) == 2
    # Nothing in the first of three rounds; then two groups are taught in each of seven ticks.
    assert len(knowledge.lessons) == 2 * 14
    for tick in range(7, 21):
        said = knowledge.voices[tick // 7 - 1].values.softmax(-1)
        for group in range(2):
            consensus = said.mean(0) if include_self else said[1 - group]
            values, weight, _ = knowledge.lessons[2 * (tick - 7) + group]
            assert (weight == 1).all()
            assert len(values) == (3, 2)[group]
            expected = consensus[made.diary.ids[tick]].expand_as(values)
            # Logarithm and softmax in single precision, once or twice.
            torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)


# --- bytes -----------------------------------------------------------------------------------------

LETTER = PUBLIC * ROW


@pytest.mark.parametrize(
    ("between", "crossed"),
    [
        (
            DirectedCycle(),
            {(EARS, EYES, "up"), (EYES, "cameras/1", "down"), ("cameras/1", EARS, "up")},
        ),
        (
            Chain(),
            {
                ("cameras/1", EYES, "up"), (EYES, "cameras/1", "down"),
                ("cameras/1", EARS, "up"), (EARS, "cameras/1", "down"),
            },
        ),
        (
            Star("centre"),
            {
                (EYES, "centre", "up"), ("cameras/1", "centre", "up"), (EARS, "centre", "up"),
                ("centre", EYES, "up"), ("centre", "cameras/1", "down"), ("centre", EARS, "up"),
            },
        ),
    ],
    ids=["cycle", "path", "star"],
)  # fmt: skip
def test_edges_and_bytes(between: Topology, crossed: set[tuple[str, str, str]]) -> None:
    """Hub to hub, hub to lone peer and back, and each hub to its own, at the end of the first two of three rounds.

    A hundred rows of three floats over each. A lone peer has no hub to tell it anything. Weights go to the
    hub and back as ever.
    """
    made = run(Spied(), FedAvg(among=WITH_LONE), between)
    down = {(hub, peer, "down") for hub, name in ((EYES, "near"), (EARS, "far")) for peer in WITH_LONE[name]}
    assert edges(made) == {(round_, *edge, LETTER) for round_ in range(2) for edge in crossed | down}
    weights = {(e[0], e[1], e[2], e[3]) for e in edges(made, "weights")}
    members = WITH_LONE["near"] + WITH_LONE["far"]
    up = {(round_, peer, "hub", "up") for round_ in range(3) for peer in members}
    assert weights == up | {(round_, "hub", peer, "down") for round_ in range(3) for peer in members}
    assert set(made.callback.edges(made.cohort.names)) == {edge[:2] for edge in crossed}


def test_exchanges_may_be_rarer_than_rounds() -> None:
    """Six rounds, an exchange after every second but the last: at the ends of rounds 1 and 3."""
    made = run(Spied(), FedAvg(), Complete(), rounds=6, local_steps=2, knowledge_every=4)
    between = {(EYES, EARS, "up"), (EARS, EYES, "up")}
    down = {(hub, peer, "down") for hub, peers in MEMBERS.items() for peer in peers}
    assert edges(made) == {(round_, *edge, LETTER) for round_ in (1, 3) for edge in between | down}


class Half(TinyData):
    """Microphones see every second public sample."""

    def public(self, split: str) -> Any:
        views = {"image": self.public_x, "audio": self.public_x}
        return PublicSamples(views, {"audio": torch.arange(PUBLIC) % 2 == 0})


def test_a_hub_that_sees_half_says_half() -> None:
    """And its listener, who does not hear itself, tells its own that half; masks say which.

    The ears are told all hundred, of which they learn from the fifty that they see.
    """
    knowledge = Spied(include_self=False)
    made = run(knowledge, FedAvg(), Complete(), rounds=2, data=Half)
    half = PUBLIC // 2 * ROW + BITS
    crossed = {(0, EYES, EARS, "up", LETTER), (0, EARS, EYES, "up", half)}
    crossed |= {(0, EYES, peer, "down", half) for peer in CAMERAS}
    crossed |= {(0, EARS, peer, "down", LETTER) for peer in MICROPHONES}
    assert edges(made) == crossed
    for tick in range(7, 14):
        seen = made.diary.ids[tick] % 2 == 0
        for group in range(2):
            _, weight, _ = knowledge.lessons[2 * (tick - 7) + group]
            assert torch.equal(weight, seen.to(weight).expand_as(weight))


def test_how_many_taught_is_told_in_halves() -> None:
    """Of three voices on a path the one in the middle hears two, the ends one, beside themselves.

    A hub tells each member two bytes a sample more, for three and two teachers are not one.
    """
    made = run(Spied(consensus=EveryTeacher()), FedAvg(among=WITH_LONE), Chain(), rounds=2)
    down = {e for e in edges(made) if e[2] not in (EYES, EARS, "cameras/1")}
    assert down == {
        (0, hub, peer, "down", LETTER + 2 * PUBLIC)
        for hub, name in ((EYES, "near"), (EARS, "far"))
        for peer in WITH_LONE[name]
    }


def test_what_a_hub_computes_is_not_its_members() -> None:
    """A lone peer pays for what it says; for what a hub says, the hub does, as everybody says: FLOPs of hubs apart."""
    peers = {"cameras": Fleet(Plain, 3), "microphones": Fleet(PlainEar, 2)}
    made = run(Spied(), FedAvg(among=WITH_LONE), Complete(), peers=peers)
    flops = made.callback.ledger.flops
    members = {flops[peer] for peer in WITH_LONE["near"] + WITH_LONE["far"]}
    assert len(members) == 1  # batches are equal, and so are students
    assert flops["cameras/1"] - members.pop() == 2 * PUBLIC * PREDICT
    assert made.callback.ledger.hub_flops == {EYES: 2 * PUBLIC * PREDICT, EARS: 2 * PUBLIC * PREDICT}


# --- who hears nobody ------------------------------------------------------------------------------


SILENT = ("islands", "named islands", "edge list")


def silence(kind: str, tmp_path: Path) -> Topology:
    if kind == "islands":
        return Islands(count=2)
    if kind == "named islands":
        return Islands(among={"a": [EYES], "b": [EARS]})
    file = tmp_path / "edges.txt"
    file.write_text("# nobody hears anybody\n")
    return EdgeList(str(file))


@each_once(
    vectorize=["never", "always"],
    kind=SILENT,
    knowledge={
        "shared": lambda: SharedLogits(samples="all", include_self=False),
        "heads": lambda: MultiHeadDistillation(samples="all", nu_emb=1.0),
    },
)
def test_collectives_that_hear_nobody_are_as_without_knowledge(
    knowledge: Any, kind: str, vectorize: str, tmp_path: Path
) -> None:
    """Bit for bit, dropout and statistics included. Its hub still tells each member that it was told nothing."""
    peers = fleets(heads=2)
    one = run(knowledge(), FedAvg(), silence(kind, tmp_path), peers=peers, vectorize=vectorize)
    two = averaged_alone(vectorize, heads=2)
    for peer in one.cohort.names:
        assert equal(state(one, peer), state(two, peer)), peer
    assert {(e[1], e[2], e[3]) for e in edges(one)} == {
        (hub, peer, "down") for hub, members in MEMBERS.items() for peer in members
    }
    assert {e[4] for e in edges(one)} == {BITS}


@ONE
def test_an_edge_teaches_in_its_direction_alone(vectorize: str, tmp_path: Path) -> None:
    """Ears hear eyes, and eyes nobody: those are as without knowledge, these are not."""
    file = tmp_path / "edges.txt"
    file.write_text(f"{EYES} {EARS}\n")
    knowledge = Spied(include_self=False)
    one = run(knowledge, FedAvg(), EdgeList(str(file), directed=True), vectorize=vectorize)
    two = averaged_alone(vectorize)
    for peer in one.cohort.names:
        assert equal(state(one, peer), state(two, peer)) == (peer in CAMERAS), peer


def test_an_edge_list_names_voices_and_not_members(tmp_path: Path) -> None:
    file = tmp_path / "edges.txt"
    file.write_text("cameras/0 microphones/0\n")
    with pytest.raises(ConfigError, match=f"'cameras/0' is no peer .there are {EYES}, {EARS}"):
        run(Spied(), FedAvg(), EdgeList(str(file)))


# --- who is there ----------------------------------------------------------------------------------


@ONE
def test_only_those_of_the_coming_round_are_told(vectorize: str) -> None:
    """Two of three cameras and both microphones in each round: who sits out the next is told nothing for it."""
    made = run(
        Spied(), FedAvg(), Complete(), rounds=6, local_steps=2, participation=Sampled(count=2),
        vectorize=vectorize,
    )  # fmt: skip
    attendance = made.callback._attendance
    assert attendance is not None
    expected, rounds = set(), set()
    for round_ in range(5):
        there = sorted(attendance.present(round_ + 1))
        rounds.add(tuple(there))
        expected |= {(round_, EYES, EARS, "up", LETTER), (round_, EARS, EYES, "up", LETTER)}
        expected |= {
            (round_, hub, peer, "down", LETTER)
            for hub, members in MEMBERS.items()
            for peer in members
            if peer in there
        }
    assert len(rounds) > 1
    assert edges(made) == expected


@OTHER
def test_a_collective_that_sits_out_is_silent_and_keeps_what_it_was_told(vectorize: str) -> None:
    """No microphone in the third of four rounds: at the end of the second they neither speak nor hear.

    In the last round they are taught what the ends of the third told them; before, in the second round,
    what that of the first did. The cameras hear themselves alone for a round.
    """
    trace = Trace({peer: [[0, 1], [3, 9]] for peer in MICROPHONES})
    knowledge = Spied()
    made = run(
        knowledge, FedAvg(), Complete(), rounds=4, local_steps=2, participation=trace, vectorize=vectorize
    )
    speakers = [len(heard.values) for heard in knowledge.voices]
    assert speakers == [2, 1, 2]
    second = {e for e in edges(made) if e[0] == 1}
    assert second == {(1, EYES, peer, "down", LETTER) for peer in CAMERAS}
    # Ticks 2 and 3 of both groups, 4 and 5 of the cameras, 6 and 7 of both.
    groups = [len(taught.values) for taught in knowledge.lessons]
    assert groups == [3, 2, 3, 2, 3, 3, 3, 2, 3, 2]
    consensus = [heard.values.softmax(-1).mean(0) for heard in knowledge.voices]
    ticks = [2, 2, 3, 3, 4, 5, 6, 6, 7, 7]
    for tick, taught in zip(ticks, knowledge.lessons, strict=True):
        expected = consensus[tick // 2 - 1][made.diary.ids[tick]].expand_as(taught.values)
        torch.testing.assert_close(taught.values, expected, rtol=1e-5, atol=1e-6)


@ONE
def test_who_comes_late_goes_on_with_what_the_collective_was_told_when_it_was_there(vectorize: str) -> None:
    """One microphone is there in the first and in the last of four rounds, and was never told anything.

    It learns from its own samples alone, beside the other, which was told at the end of the second round.
    """
    trace = Trace({"microphones/1": [[0, 0], [3, 3]], "microphones/0": [[0, 2]]})
    knowledge = Spied()
    run(
        knowledge, FedAvg(), Complete(), rounds=4, local_steps=2, participation=trace, vectorize=vectorize,
        knowledge_every=4,
    )  # fmt: skip
    weights = [taught.weight for taught in knowledge.lessons if len(taught.values) == 1]
    # Ticks 4 and 5 of microphones/0, told everything, and 6 and 7 of microphones/1, told nothing.
    assert [float(weight.mean()) for weight in weights] == [1.0, 1.0, 0.0, 0.0]


@OTHER
def test_a_hub_whose_round_was_empty_still_says_what_it_holds(vectorize: str) -> None:
    """Two cameras make an average in the first round; nobody is there in the second; the third camera in the third.

    At the end of the second round the hub speaks, for a camera comes: it says the average of the first, which
    the newcomer fetches only when its round begins, and not what the newcomer was drawn as.
    """
    trace = Trace({"cameras/0": [[0, 0]], "cameras/1": [[0, 0]], "cameras/2": [[2, 2]]})
    knowledge = Spied()
    how: dict[str, Any] = {
        "peers": fleets(drop=0.0), "local_steps": 2, "data": TinyDataDouble, "vectorize": vectorize,
    }  # fmt: skip
    # One exchange, at the end of the second of three rounds.
    run(knowledge, FedAvg(), Complete(), participation=trace, knowledge_every=4, **how)
    alone = run(None, rounds=1, **how)
    (heard,) = knowledge.voices
    expected = says(averaged(alone, CAMERAS[:2]), alone.data.public_x).float()
    torch.testing.assert_close(heard.values[0], expected, rtol=1e-6, atol=1e-6)


# --- contracts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [Star(), pytest.param(Complete(), marks=pytest.mark.long)], ids=str)
def test_both_paths_agree(between: Topology) -> None:
    """Three rounds in double precision: what is said is rounded to single, 6e-8 times rates and steps."""
    one, two = (
        run(
            SharedLogits(samples="all"), FedAvg(), between, peers=fleets(drop=0.0, optimizer=sgd(0.1)),
            data=TinyDataDouble, vectorize=vectorize, local_steps={"cameras": 7, "microphones": 4},
        )
        for vectorize in ("never", "always")
    )  # fmt: skip
    for peer in one.cohort.names:
        for n, tensor in state(one, peer).items():
            torch.testing.assert_close(state(two, peer)[n], tensor, rtol=0, atol=1e-7)
    assert one.callback.ledger == two.callback.ledger


# --- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knowledge", "aggregation", "topology", "plan", "message"),
    [
        (SharedLogits(samples="all"), None, Star(), {}, "give knowledge and an aggregation, too"),
        (None, FedAvg(), Star(), {}, "give knowledge and an aggregation, too"),
        (SharedLogits(samples="all"), FedAvg(), Complete(), {}, "choose topology Star"),
        (SharedLogits(), FedAvg(), Star(), {}, "set samples: all"),
        (Prototypes(), FedAvg(), Star(), {}, "which see public samples only"),
        (SharedLogits(samples="all", pool=2, recall=1), FedAvg(), Star(), {}, "leave it or between out"),
        (SharedLogits(samples="all"), FedAvg(), Star(), {"knowledge_every": 3}, "set schedule.knowledge_every"),
        (SharedLogits(samples="all"), FedAvg(), Star(), {"knowledge_every": 10}, "rounds of 7 ticks"),
        (SharedLogits(samples="all", teachers=2), FedAvg(), Star(), {}, "there are only 1 others"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(
    knowledge: Any, aggregation: Any, topology: Any, plan: dict[str, Any], message: str
) -> None:
    def attempt() -> None:
        method = DecentralizedCallback(knowledge, aggregation, topology, schedule(**plan), between=Complete())
        fit(Cohort(fleets(), CLASSES), method, max_epochs=1)

    with pytest.raises(ConfigError, match=message):
        attempt()


def test_multiples_of_the_round_are_taken() -> None:
    """As a contrast to what is refused above: an exchange after two rounds of seven ticks."""
    made = run(Spied(), FedAvg(), Complete(), knowledge_every=14)
    assert {e[0] for e in edges(made)} == {1}
