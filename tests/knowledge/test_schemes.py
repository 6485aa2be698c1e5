"""Schemes of the literature, put together from factors, against loops written by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.samples import PublicSamples
from mmkd.functional.distillation import mutual
from mmkd.functional.random import keyed
from mmkd.knowledge import (
    EightBits,
    EveryTeacher,
    Floats,
    LogitDistance,
    MeanLogit,
    Prototypes,
    SharedLogits,
    Target,
    TopClasses,
)
from mmkd.participation import Trace
from mmkd.students.base import Classifier
from mmkd.topology import Complete, DirectedCycle, NetworkX, Ring, Star
from mmkd.topology import Path as Chain
from mmkd.transport import LocalTransport
from mmkd.types import Batch, Block, ConfigError
from tests.grids import each_once, pairwise
from tests.paths import LEAN, every_way
from tests.spies import Began, Spy
from tests.tiny import (
    CLASSES,
    FEATURES,
    Ear,
    Eye,
    TinyData,
    TinyDataDouble,
    fit,
    fleets,
    schedule,
    sgd,
    trainer,
)

RATE = 0.1
PUBLIC = 100


class Plain(Classifier):
    """Nothing but two layers: what a step does to it can be written down."""

    modalities = ("image",)

    def __init__(self, num_classes: int, *, dim: int = 6, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=dim, **{"optimizer": sgd(RATE), **kwargs})
        self.net = nn.Sequential(nn.Linear(FEATURES, dim), nn.Tanh())

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x)


PREDICT = 2 * (FEATURES * 6 + 6 * CLASSES)
"""FLOPs of a forward of ``Plain``: a multiply-add is two;"""
TRAIN = 2 * PREDICT + 2 * 6 * CLASSES
"""and of a step: weights get gradients, and of the two inputs that of the second layer alone."""


class Labelled(TinyData):
    """Public samples with labels, for methods that say that they read them."""

    def public_labels(self) -> Tensor:
        return self.public_y


class LabelledDouble(Labelled):
    dtype = torch.float64


class Diary(Began):
    """What peers are and what they read before each tick, and what they are in the end; in blocks of one."""

    def __init__(self) -> None:
        self.states: list[dict[str, dict[str, Tensor]]] = []
        self.blocks: list[Block] = []

    def _write(self, cohort: Any) -> None:
        names = cohort.names
        self.states.append(
            {n: {k: t.clone() for k, t in cohort.student(n).state_dict().items()} for n in names}
        )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Block, batch_idx: int) -> None:
        self._write(pl_module)
        self.blocks.append(batch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._write(pl_module)

    def private(self, peer: str, tick: int) -> Batch:
        """What that peer reads of its own at a tick."""
        (step,) = self.blocks[tick].steps
        for same in step.private:
            if peer in same.peers:
                i = same.peers.index(peer)
                return Batch(same.x[i].clone(), same.y[i].clone(), same.ids[i].clone(), same.keys[i])
        raise KeyError(peer)

    def public(self, tick: int) -> tuple[Tensor, Tensor]:
        """Ids and images of the public batch of a tick."""
        public = self.blocks[tick].steps[0].public
        assert public is not None
        return public.ids, public.views["image"]


class SpiedLogits(Spy, SharedLogits): ...


class SpiedPrototypes(Spy, Prototypes): ...


class Run(NamedTuple):
    cohort: Cohort
    callback: DecentralizedCallback
    diary: Diary
    start: dict[str, Any]  # the students before anything happened
    data: TinyData


def run(
    peers: dict[str, Fleet],
    knowledge: Any,
    topology: Any = None,
    *,
    ticks: int = 7,
    data: type[TinyData] = TinyData,
    vectorize: Any = "never",
    touch: Callable[[Cohort], None] | None = None,
    participation: Any = None,
    transport: Any = None,
    sizes: dict[str, int] | None = None,
    **plan: Any,
) -> Run:
    """One round of ``ticks`` through ``Trainer.fit``, in blocks of one tick."""
    cohort = Cohort(peers, CLASSES, vectorize=vectorize, init="own")
    cohort = cohort.double() if data.dtype == torch.float64 else cohort
    if touch is not None:
        with torch.no_grad():
            touch(cohort)
    start = {name: copy.deepcopy(cohort.student(name)) for name in cohort.names}
    diary, samples = Diary(), data(**{"batch_size": 16, **(sizes or {})})  # type: ignore[arg-type]
    callback = DecentralizedCallback(
        knowledge,
        None,
        topology or Complete(),
        schedule(**{"local_steps": ticks, "rounds_per_epoch": 1, "block": 1, **plan}),
        transport=transport,
        participation=participation,
    )
    plain = trainer(callback, diary, max_epochs=1, limit_val_batches=0)
    plain.fit(cohort, datamodule=samples)
    return Run(cohort, callback, diary, start, samples)


def descend(student: nn.Module, loss: Tensor) -> None:
    """A step of plain gradient descent."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for p, slope in zip(parameters, slopes, strict=True):
            if slope is not None:
                p -= RATE * slope


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, y)


def close(student: nn.Module, expected: nn.Module, tolerance: float) -> None:
    wanted = dict(expected.named_parameters())
    for name, p in student.named_parameters():
        torch.testing.assert_close(p, wanted[name], atol=tolerance, rtol=0, msg=f"{name}")


def equal(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[n], two[n]) for n in one)


def plains(count: int = 3, **kwargs: Any) -> dict[str, Fleet]:
    return {"cameras": Fleet(lambda n: Plain(n, **kwargs), count)}


# --- deep mutual learning --------------------------------------------------------------------------


@every_way
def test_deep_mutual_learning(vectorize):
    """Three peers, every step: the gradient of 1/2 (cross-entropy + mean over the others of KL(p_j || p_k)).

    What is heard arrives in single precision, and so do probabilities: 6e-8, times the rate and four steps.
    """
    knowledge = SharedLogits(include_self=False, alpha=0.5)
    made = run(plains(), knowledge, ticks=4, data=TinyDataDouble, vectorize=vectorize, knowledge_every=1)
    students, others = made.start, ~torch.eye(3, dtype=torch.bool)
    for tick in range(4):
        _, x = made.diary.public(tick)
        logits = torch.stack([s(x) for s in students.values()])
        distil = mutual(logits, logits.detach().float(), others, torch.ones(3, len(x), dtype=torch.bool))
        private = []
        for name, student in students.items():
            batch = made.diary.private(name, tick)
            private.append(cross_entropy(student(batch.x), batch.y))
        losses = 0.5 * torch.stack(private) + 0.5 * distil
        for k, student in enumerate(students.values()):
            parameters = list(student.parameters())
            slopes = torch.autograd.grad(losses[k], parameters, retain_graph=True)
            student.slopes = slopes
        for student in students.values():
            with torch.no_grad():
                for p, slope in zip(student.parameters(), student.slopes, strict=True):
                    p -= RATE * slope
    for name, student in students.items():
        close(made.cohort.student(name), student, 1e-7)


# --- FedMD -----------------------------------------------------------------------------------------


def fedmd(**kwargs: Any) -> SharedLogits:
    return SpiedLogits(consensus=MeanLogit(), loss=LogitDistance(), samples="all", **kwargs)


class Scrambled(Labelled):
    """Other private samples, with the same labels."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.pool.x = -3 * self.pool.x.flip(0)


@pytest.mark.parametrize(
    ("vectorize", "path", "digest"),
    [
        ("never", None, 4),
        ("always", LEAN, 4),
        ("never", None, 2),
        pytest.param("always", None, 4, marks=pytest.mark.long),
        pytest.param("always", None, 2, marks=pytest.mark.long),
    ],
    indirect=["path"],
)
def test_in_digest_ticks_private_samples_contribute_nothing(vectorize, digest):
    """Four ticks of public labels, then exchanges every four: a digest of four leaves no private tick.

    Other private samples then give the same bits, and normalisation statistics as they were drawn; a
    digest of two does not.
    """
    states = []
    for data in (Labelled, Scrambled):
        knowledge = fedmd(pretrain=4, digest=digest)
        made = run(
            fleets(2, 1, optimizer=sgd(RATE)), knowledge, ticks=12, data=data,
            vectorize=vectorize, knowledge_every=4,
        )  # fmt: skip
        assert len(knowledge.made) == 2  # type: ignore[attr-defined]
        states.append({n: made.cohort.student(n).state_dict() for n in made.cohort.names})
    for name, state in states[0].items():
        assert equal(state, states[1][name]) == (digest == 4), name
        assert int(state["net.1.num_batches_tracked"]) == (0 if digest == 4 else 4)


def test_ticks_of_digest_and_of_revisit():
    """Exchanges every five ticks, digests of two: which loss each tick descends, each from where it began.

    Private ticks give the very bits of a lone student, dropout and normalisation statistics included.
    """
    knowledge = fedmd(digest=2)
    made = run(fleets(2, 1, optimizer=sgd(RATE)), knowledge, ticks=15, knowledge_every=5)
    digests = [tick for tick in range(5, 15) if tick % 5 < 2]
    assert len(knowledge.taught) == 2 * len(digests)  # of two groups
    for name in made.cohort.names:
        for tick in range(15):
            student = copy.deepcopy(made.start[name]).train()
            student.load_state_dict(made.diary.states[tick][name])
            batch = made.diary.private(name, tick)
            optimizer = torch.optim.SGD(student.parameters(), lr=RATE)
            with keyed(batch.key):
                student.private_loss(batch).backward()
            optimizer.step()
            after = made.diary.states[tick + 1][name]
            assert equal(student.state_dict(), after) == (tick not in digests), (name, tick)


def test_a_digest_by_hand():
    """One static teacher, whose logits are the consensus: mean |difference| of zero-mean logits."""
    oracle = {"oracle": Fleet(lambda n: Plain(n, dim=5), 1)}
    knowledge = fedmd(digest=2, include_self=False)
    made = run(
        oracle | plains(1), knowledge, data=TinyDataDouble, knowledge_every=3,
        local_steps={"oracle": 0, "cameras": 9},
    )  # fmt: skip
    student, teacher = made.start["cameras/0"], made.start["oracle/0"]
    for tick in range(9):
        batch, (_, x) = made.diary.private("cameras/0", tick), made.diary.public(tick)
        loss = cross_entropy(student(batch.x), batch.y)
        if tick >= 3 and tick % 3 < 2:
            difference = student(x) - teacher(x).detach()
            loss = (difference - difference.mean(-1, keepdim=True)).abs().mean()
        descend(student, loss)
    # The sign of a difference is all that its gradient sees, so single precision on the wire costs nothing.
    close(made.cohort.student("cameras/0"), student, 1e-12)


@pytest.mark.parametrize("pretrain", [3, 5])
def test_pretraining_learns_from_public_labels_for_as_many_ticks(pretrain):
    """Five ticks: the first with cross-entropy on the public batches, the rest on private ones."""
    knowledge = SharedLogits(samples="all", pretrain=pretrain)
    made = run(plains(2), knowledge, ticks=5, data=LabelledDouble)
    for name, student in made.start.items():
        for tick in range(5):
            if tick < pretrain:
                ids, x = made.diary.public(tick)
                y = made.data.public_y[ids]
            else:
                x, y, *_ = made.diary.private(name, tick)
            descend(student, cross_entropy(student(x), y))
        close(made.cohort.student(name), student, 1e-12)


def test_pretraining_leaves_out_what_a_peer_cannot_see():
    """Every third public sample shows nothing to the cameras: the mean is over the others."""

    class Blinking(LabelledDouble):
        def public(self, split: str) -> Any:
            views = {"image": self.public_x, "audio": self.public_x}
            return PublicSamples(views, {"image": torch.arange(PUBLIC) % 3 != 0})

    made = run(plains(1), SharedLogits(pretrain=3), ticks=3, data=Blinking)
    student = made.start["cameras/0"]
    for tick in range(3):
        ids, x = made.diary.public(tick)
        shown = ids % 3 != 0
        assert 0 < shown.sum() < len(ids)
        descend(student, cross_entropy(student(x[shown]), made.data.public_y[ids][shown]))
    close(made.cohort.student("cameras/0"), student, 1e-6)


@pytest.mark.parametrize(("samples", "every", "exchanges"), [("batch", 1, 3), ("all", 3, 1)])
def test_nobody_speaks_before_pretraining_is_over(samples, every, exchanges):
    """Nobody would learn from it: of twelve ticks labels take nine.

    Batch by batch three are left for exchanges; of the whole public set, what is said after the ninth
    tick replaces what might have been said after the third and the sixth.
    """
    knowledge = SharedLogits(samples=samples, pretrain=9)
    made = run(plains(3), knowledge, ticks=12, data=Labelled, knowledge_every=every)
    size = 16 if samples == "batch" else PUBLIC
    assert made.callback.ledger.total() == exchanges * 6 * size * CLASSES * 4  # 3 peers to 2 others each


@pytest.mark.parametrize("vectorize", ["always", pytest.param("never", marks=pytest.mark.long)])
def test_flops_of_fedmd(vectorize):
    """Two ticks of labels, two of private samples, an exchange, a digest of two, two private ones again.

    A public batch has 20 samples, a private one 16; speaking reads all 100 public samples, forward only.
    """
    made = run(
        plains(3), fedmd(pretrain=2, digest=2), ticks=8, data=Labelled, vectorize=vectorize,
        knowledge_every=4, sizes={"public_batch_size": 20},
    )  # fmt: skip
    each = TRAIN * (2 * 20 + 2 * 16 + 2 * 20 + 2 * 16) + PREDICT * PUBLIC
    assert made.callback.ledger.flops == dict.fromkeys(made.cohort.names, each)


def test_flops_without_a_digest():
    """Both losses in every step once there was an exchange; nobody speaks after the last tick."""
    made = run(
        plains(3), SharedLogits(samples="all"), ticks=8, knowledge_every=4, sizes={"public_batch_size": 20}
    )
    each = TRAIN * (8 * 16 + 4 * 20) + PREDICT * PUBLIC
    assert made.callback.ledger.flops == dict.fromkeys(made.cohort.names, each)


class Apart(TinyData):
    """A hundred samples each, whoever else there is."""

    def private(self, peer: str, split: str) -> Any:
        place = {"cameras/0": 0, "cameras/1": 100, "oracle/0": 200}[peer]
        return self.pool.subset(range(place, place + 100)) if split == "train" else self.held_out


def test_who_digests_does_not_feel_that_another_of_its_fleet_was_told_nothing():
    """The oracle speaks to one camera. Whether there is another, who hears nobody, must change nothing."""
    found = []
    for count in (1, 2):
        graph = nx.DiGraph()
        graph.add_nodes_from(range(count + 1))  # cameras, then the oracle
        graph.add_edge(count, 0)
        peers = {
            "oracle": Fleet(lambda n: Eye(n), 1),
            "cameras": Fleet(lambda n: Eye(n, optimizer=sgd(RATE)), count),
        }
        made = run(
            peers, fedmd(digest=3, include_self=False), NetworkX(graph), data=Apart, knowledge_every=4,
            local_steps={"oracle": 0, "cameras": 8},
        )  # fmt: skip
        found.append((made.cohort.student("cameras/0").state_dict(), made.callback.ledger.flops["cameras/0"]))
    (one, flops), (two, more) = found
    different = [n for n in one if not torch.equal(one[n], two[n])]
    assert not different
    assert flops == more


# --- a static teacher ------------------------------------------------------------------------------


def experienced(cohort: Cohort) -> None:
    """Statistics that are not those of any batch: only evaluation mode reads them."""
    norm: Any = cohort.student("oracle/0").net[1]  # type: ignore[union-attr,index]
    norm.running_mean.copy_(torch.linspace(-1, 1, len(norm.running_mean)))
    norm.running_var.copy_(torch.linspace(0.5, 3, len(norm.running_var)))


ORACLE = {"oracle": Fleet(lambda n: Eye(n, drop=0.5), 1)}
WORK = {"oracle": 0, "cameras": 7}


@each_once(samples=["batch", "all"], loss=["kl", "distance"], alpha=[0.25, 0.3])
def test_a_student_of_a_static_teacher_by_hand(samples, loss, alpha):
    """alpha CE + (1 - alpha) T^2 KL(softmax(z / T) || softmax(s / T)), with z in evaluation mode.

    Knowledge of a batch serves the steps in which it is exchanged, here every second; that of the whole
    public set, exchanged after two ticks and every two from there, all that come after. Targets are in
    single precision; the rest is exact.
    """
    temperature = 3.0
    knowledge = SpiedLogits(
        include_self=False, temperature=temperature, alpha=alpha, samples=samples,
        loss=LogitDistance() if loss == "distance" else None,
    )  # fmt: skip
    made = run(
        ORACLE | plains(1), knowledge, data=TinyDataDouble, local_steps=WORK, knowledge_every=2,
        touch=experienced,
    )  # fmt: skip
    teacher, student = made.start["oracle/0"].eval(), made.start["cameras/0"]
    taught = [tick for tick in range(7) if (tick % 2 == 0 if samples == "batch" else tick >= 2)]
    assert len(knowledge.taught) == len(taught)
    lessons = dict(zip(taught, knowledge.taught, strict=True))
    for tick in range(7):
        batch, (_, x) = made.diary.private("cameras/0", tick), made.diary.public(tick)
        total = cross_entropy(student(batch.x), batch.y)
        if tick in lessons:
            p = lessons[tick]["main"].values[0].double()
            expected = (teacher(x).detach() / temperature).softmax(-1)
            torch.testing.assert_close(p, expected, atol=2.0**-22, rtol=0)
            if loss == "kl":
                q = (student(x) / temperature).log_softmax(-1)
                distance = temperature**2 * (p * (p.log() - q)).sum(-1).mean()
            else:
                difference = student(x) - temperature * p.log()
                distance = (difference - difference.mean(-1, keepdim=True)).abs().mean()
            total = alpha * total + (1 - alpha) * distance
        descend(student, total)
    close(made.cohort.student("cameras/0"), student, 1e-10)


@pairwise(vectorize=["never", "always"], samples=["batch", "all"], topology=[Complete(), Star()])
def test_a_static_teacher_never_changes_and_hears_nothing(vectorize, samples, topology):
    """One peer of a fleet stands still, under an optimiser that moves whatever it touches.

    It computes nothing but what it says, and is taught nothing: lessons are for the two others alone.
    """
    heavy = sgd(RATE, momentum=0.9, weight_decay=0.1)
    knowledge = SpiedLogits(samples=samples)
    made = run(
        {"cameras": Fleet(lambda n: Plain(n, optimizer=heavy), 3)}, knowledge, topology,
        vectorize=vectorize, local_steps={"cameras": 7, "cameras/1": 0}, knowledge_every=2,
    )  # fmt: skip
    first = made.diary.states[0]
    for state in made.diary.states[1:]:
        assert equal(first["cameras/1"], state["cameras/1"])
        assert not equal(first["cameras/0"], state["cameras/0"])
    drawn, still = made.start["cameras/1"], made.cohort.student("cameras/1")
    assert equal(dict(drawn.named_parameters()), dict(still.named_parameters()))
    # Exchanges: at ticks 0, 2, 4, 6, or after 2, 4 and 6.
    said = 4 * 16 if samples == "batch" else 3 * PUBLIC
    assert made.callback.ledger.flops["cameras/1"] == said * PREDICT
    assert all(len(targets["main"].values) == 2 for targets in knowledge.taught)
    sent = [e for e in made.callback.ledger.entries() if e.sender == "cameras/1" and e.kind == "logits"]
    receivers = 1 if isinstance(topology, Star) else 2
    assert sum(entry.bytes for entry in sent) == receivers * said * CLASSES * 4


@each_once(samples=["batch", "all"], topology=[Complete(), Star()])
def test_nothing_is_sent_to_a_static_teacher(samples, topology):
    """It would not listen, so no byte is spent on it."""
    made = run(
        ORACLE | plains(2), SharedLogits(samples=samples), topology, local_steps=WORK, knowledge_every=2
    )
    entries = [entry for entry in made.callback.ledger.entries() if entry.kind == "logits"]
    assert any(entry.sender == "oracle/0" for entry in entries)
    assert not any(entry.receiver == "oracle/0" for entry in entries)


@pytest.mark.parametrize("speak", ["train", "eval"])
def test_a_static_teacher_speaks_in_evaluation_mode(speak):
    """Whatever the others do, who speak as they train if they may: beside normalisation and dropout."""
    knowledge = SpiedLogits(speak=speak)
    peers = ORACLE | {"cameras": Fleet(lambda n: Eye(n), 1)}
    made = run(peers, knowledge, local_steps=WORK, knowledge_every=3, touch=experienced)
    assert len(knowledge.heard) == 3
    for tick, heard in zip((0, 3, 6), knowledge.heard, strict=True):
        _, x = made.diary.public(tick)
        pupil = copy.deepcopy(made.start["cameras/0"])
        pupil.load_state_dict(made.diary.states[tick]["cameras/0"])
        with torch.no_grad():
            said = torch.stack([pupil.eval()(x), made.start["oracle/0"].eval()(x)])
        assert torch.equal(heard["main"].values[1], said[1])
        assert torch.equal(heard["main"].values[0], said[0]) == (speak == "eval")


@pytest.mark.parametrize("samples", ["batch", "all"])
def test_after_pretraining_both_losses_count(samples):
    """From the very next tick, where there is something to learn from: labels alone, then half and half."""
    knowledge = SharedLogits(include_self=False, samples=samples, pretrain=3)
    every = 1 if samples == "batch" else 3
    made = run(
        ORACLE | plains(1), knowledge, data=LabelledDouble, local_steps=WORK, knowledge_every=every,
        touch=experienced,
    )  # fmt: skip
    teacher, student = made.start["oracle/0"].eval(), made.start["cameras/0"]
    for tick in range(7):
        batch, (ids, x) = made.diary.private("cameras/0", tick), made.diary.public(tick)
        if tick < 3:
            loss = cross_entropy(student(x), made.data.public_y[ids])
        else:
            p = teacher(x).detach().softmax(-1)
            distance = (p * (p.log() - student(x).log_softmax(-1))).sum(-1).mean()
            loss = 0.5 * cross_entropy(student(batch.x), batch.y) + 0.5 * distance
        descend(student, loss)
    close(made.cohort.student("cameras/0"), student, 1e-6)


# --- prototypes ------------------------------------------------------------------------------------

OWNED = {"cameras/0": [0, 1], "cameras/1": [1], "microphones/0": [1]}
TRIO = list(OWNED)


class Skewed(TinyData):
    """Who owns which classes; nobody owns the last."""

    def private(self, peer: str, split: str) -> Any:
        if split != "train":
            return self.held_out
        mine = torch.isin(self.pool.y, torch.tensor(OWNED[peer])).nonzero().flatten()
        return self.pool.subset(mine[TRIO.index(peer) :: 3])


class SkewedDouble(Skewed):
    dtype = torch.float64


def trio(**student: Any) -> dict[str, Fleet]:
    return fleets(2, 1, **student)


@cache
def trio_alone(ticks: int) -> Run:
    """Nobody says anything."""
    return run(trio(), None, ticks=ticks, data=Skewed)


def averages(made: Run, of: str) -> dict[str, Tensor]:
    """Per class, what each student of a run predicts on its private samples in evaluation mode; or nan."""
    found = {}
    for name in made.cohort.names:
        student: Any = copy.deepcopy(made.cohort.student(name)).eval()
        samples = made.data.private(name, "train")
        with torch.no_grad():
            seen = student.predict(samples.x)  # type: ignore[attr-defined]
        rows = seen.logits.softmax(-1) if of == "probabilities" else seen.embedding
        blank = rows.new_full((CLASSES, rows.shape[-1]), torch.nan)
        for c in OWNED[name]:
            blank[c] = rows[samples.y == c].mean(0)  # type: ignore[attr-defined]
        found[name] = blank
    return found


def test_federated_distillation_by_hand():
    """The mean softmax of the others, class by class; who alone owns a class hears nothing about it."""
    knowledge = SpiedPrototypes()
    made = run(trio(), knowledge, ticks=5, data=Skewed, knowledge_every=4)
    alone = averages(trio_alone(4), "probabilities")
    (targets,) = knowledge.made
    values, weight, _ = targets["probabilities"]
    # cameras/0 hears nothing about 0, which it alone owns; nobody about 2.
    assert weight.tolist() == [[0, 1, 0], [1, 1, 0], [1, 1, 0]]
    one, two, three = (alone[name] for name in made.cohort.names)
    torch.testing.assert_close(values[0, 1], (two[1] + three[1]) / 2)
    torch.testing.assert_close(values[1, 1], (one[1] + three[1]) / 2)
    torch.testing.assert_close(values[2, 1], (one[1] + two[1]) / 2)
    torch.testing.assert_close(values[1, 0], one[0])
    torch.testing.assert_close(values[2, 0], one[0])
    assert not torch.allclose(one[1], two[1], atol=1e-3)


@pytest.mark.parametrize("topology", [Complete(), Star()])
def test_fedproto_by_hand(topology):
    """Mean embeddings, own included, among equal sizes: cameras of 16, one microphone of 12."""
    knowledge = SpiedPrototypes(of="embedding")
    made = run(trio(), knowledge, topology, ticks=5, data=Skewed, knowledge_every=4)
    alone = averages(trio_alone(4), "embedding")
    assert len(knowledge.made) == 1
    eyes, ears = knowledge.taught  # of the one tick that is left, by group
    one, two, three = (alone[name] for name in made.cohort.names)

    def check(targets: Target, peer: str, rows: dict[int, Tensor]) -> None:
        y = made.diary.private(peer, 4).y
        place = made.cohort.names.index(peer) if peer != "microphones/0" else 0
        for c, row in rows.items():
            assert (targets.weight[place][y == c] == 1).all()
            expected = row.expand(int((y == c).sum()), -1)
            torch.testing.assert_close(targets.values[place][y == c], expected, atol=1e-5, rtol=1e-5)

    both = {0: one[0], 1: (one[1] + two[1]) / 2}
    check(eyes["embedding16"], "cameras/0", both)
    check(eyes["embedding16"], "cameras/1", both)
    check(ears["embedding12"], "microphones/0", {1: three[1]})


@pytest.mark.parametrize("of", ["probabilities", "embedding"])
def test_a_step_with_prototypes_by_hand(of):
    """private + gamma times the mean over a batch's told samples of KL, or of mean squared distance."""
    gamma = 0.7
    knowledge = SpiedPrototypes(of=of, gamma=gamma)
    peers = plains(2) | {"microphones": Fleet(lambda n: Ear(n, optimizer=sgd(RATE)), 1)}
    made = run(peers, knowledge, ticks=7, data=SkewedDouble, knowledge_every=4)
    name = {"probabilities": "probabilities", "embedding": "embedding6"}[of]
    for place, peer in enumerate(("cameras/0", "cameras/1")):
        values, weight = (t[place] for t in knowledge.made[0][name][:2])
        student = made.start[peer]
        for tick in range(7):
            x, y, *_ = made.diary.private(peer, tick)
            seen = student.predict(x)
            loss = cross_entropy(seen.logits, y)
            told = weight[y] > 0
            if tick >= 4 and told.any():
                target = values[y][told]
                if of == "probabilities":
                    p = target / target.sum(-1, keepdim=True)
                    distance = (p * (p.double().log() - seen.logits[told].log_softmax(-1))).sum(-1).mean()
                else:
                    distance = (seen.embedding[told] - target).square().mean(-1).mean()
                loss = loss + gamma * distance
            descend(student, loss)
        assert bool((weight[torch.tensor(OWNED[peer])] == 0).any()) == (
            (of, peer) == ("probabilities", "cameras/0")
        )
        close(made.cohort.student(peer), student, 1e-10)


# Bytes of a row of three probabilities, and of an embedding of 16 and of 12 numbers.
ROWS: dict[str, tuple[Any, int, int, int]] = {
    "float32": (Floats(), 12, 64, 48),
    "float16": (Floats("float16"), 6, 32, 24),
    "eight bits": (EightBits(), 3 + 4, 16 + 4, 12 + 4),
    "top classes": (TopClasses(1), 6, 32, 24),
}


GRAPHS = {"cycle": DirectedCycle(), "path": Chain(), "complete": Complete(), "star": Star(), "ring": Ring()}


@each_once(wire=list(ROWS), graph=list(GRAPHS))
def test_bytes_of_prototypes(wire, graph):
    """A row for each class owned, and a byte that says which.

    Two, one and one: on a cycle to one listener each, on a path to one, two and one, completely to two.
    Through a hub each gets an answer of its own in federated distillation, for its own is left out:
    class 1 for cameras/0, classes 0 and 1 for the others. Embeddings go around a ring, to two listeners each.
    """
    codec, row, eye, ear = ROWS[wire]
    said = {"cameras/0": 2 * row + 1, "cameras/1": row + 1, "microphones/0": row + 1}
    embedded = {"cameras/0": 2 * eye + 1, "cameras/1": eye + 1, "microphones/0": ear + 1}
    expected = {
        "cycle": {"peer": sum(said.values())},
        "path": {"peer": sum(said.values()) + said["cameras/1"]},
        "complete": {"peer": 2 * sum(said.values())},
        "star": {"up": sum(said.values()), "down": (row + 1) + 2 * (2 * row + 1)},
        "ring": {"peer": 2 * sum(embedded.values())},
    }
    knowledge = Prototypes(wire=codec, of="embedding" if graph == "ring" else "probabilities")
    made = run(trio(), knowledge, GRAPHS[graph], ticks=5, data=Skewed, knowledge_every=4)
    assert made.callback.ledger.by_kind()["prototypes"] == expected[graph]


@pytest.mark.parametrize(
    "wire", [wire if wire == "eight bits" else pytest.param(wire, marks=pytest.mark.long) for wire in ROWS]
)
def test_bytes_of_fedproto_through_a_hub(wire):
    """With embeddings of one size all hear the same: classes 0 and 1, and a byte that says so."""
    codec, _, eye, _ = ROWS[wire]
    peers = {"cameras": Fleet(lambda n: Eye(n), 2)}
    made = run(peers, Prototypes(of="embedding", wire=codec), Star(), ticks=5, data=Skewed, knowledge_every=4)
    kinds = made.callback.ledger.by_kind()["prototypes"]
    assert kinds == {"up": 3 * eye + 2, "down": 2 * (2 * eye + 1)}


@pytest.mark.parametrize("of", ["probabilities", "embedding"])
def test_prototypes_through_a_hub_are_those_of_a_complete_graph(of):
    """Single precision is what the mean is computed to, so the hub's answer has the same bits."""
    ends = []
    for topology in (Complete(), Star()):
        made = run(trio(), Prototypes(of=of), topology, ticks=5, data=Skewed, knowledge_every=2)
        ends.append({n: made.cohort.student(n).state_dict() for n in TRIO})
    for name in TRIO:
        assert equal(ends[0][name], ends[1][name])
    assert not equal(ends[0]["cameras/1"], trio_alone(5).cohort.student("cameras/1").state_dict())


@each_once(of=["probabilities", "embedding"], topology=[Ring(), Star()])
def test_both_paths_teach_the_same_prototypes(of, topology):
    """Seven steps of plain descent in double precision, two exchanges."""
    ends = []
    for vectorize in ("never", "always"):
        made = run(
            trio(drop=0.0, optimizer=sgd(0.05)), Prototypes(of=of), topology, ticks=7, data=SkewedDouble,
            vectorize=vectorize, knowledge_every=3,
        )  # fmt: skip
        ends.append(made)
    for name in TRIO:
        one, two = (dict(made.cohort.student(name).state_dict()) for made in ends)
        for n, tensor in one.items():
            torch.testing.assert_close(two[n], tensor, atol=1e-9, rtol=0)
    assert ends[0].callback.ledger == ends[1].callback.ledger


@each_once(of=["probabilities", "embedding"], topology=[Ring(), Star()])
def test_writing_prototypes_down_changes_nothing(of, topology):
    """Who owns which class, and embeddings of two sizes, must survive the way over the wire."""
    ends = []
    for serialise in (False, True):
        transport = LocalTransport(serialise=serialise)
        knowledge = Prototypes(of=of, wire=EightBits())
        ends.append(run(trio(), knowledge, topology, data=Skewed, knowledge_every=3, transport=transport))
    one, two = ends
    assert one.callback.ledger == two.callback.ledger
    for name in TRIO:
        assert equal(one.cohort.student(name).state_dict(), two.cohort.student(name).state_dict())


def test_flops_of_prototypes():
    """Speaking reads all private samples, forward only; taught, a step reads its batch a second time."""
    made = run(plains(2), Prototypes(), ticks=7, data=Skewed, knowledge_every=4)
    for name in made.cohort.names:
        size = len(made.data.private(name, "train"))  # type: ignore[arg-type]
        batch = min(16, size)
        assert made.callback.ledger.flops[name] == TRAIN * batch * (7 + 3) + PREDICT * size


@each_once(
    of=["probabilities", "embedding"],
    spans={"away": [[0, 3], [5, 5]], "never told": [[0, 1], [3, 3], [5, 5]]},
)
def test_who_sits_out_an_exchange_keeps_what_it_was_told_before(of, spans):
    """Six rounds of four ticks, exchanges before the third and the fifth, which the microphone sits out.

    Nobody speaks of embeddings of its size then, so in the sixth round it goes on with what it was told
    before the third; if it sat that out, too, it was never told anything and learns from its own alone.
    """
    knowledge = SpiedPrototypes(of=of)
    made = run(
        trio(), knowledge, ticks=4, data=Skewed, participation=Trace({"microphones/0": spans}),
        rounds_per_epoch=6, knowledge_every=8,
    )  # fmt: skip
    rounds = sum(last - first + 1 for first, last in spans)
    assert int(made.cohort.student("microphones/0").net[1].num_batches_tracked) == 4 * rounds  # type: ignore[union-attr,index]
    if spans == [[0, 3], [5, 5]]:
        name = {"probabilities": "probabilities", "embedding": "embedding12"}[of]
        y = made.diary.private("microphones/0", 23).y
        told = knowledge.taught[-1][name]  # the microphone's group comes last
        expected = knowledge.made[0][name].values[2, y]
        assert (told.weight == 1).all()
        torch.testing.assert_close(told.values[0], expected)


# --- a hub relays ----------------------------------------------------------------------------------


@each_once(precision=["float16", "float32"], samples=["batch", "all"])
def test_through_a_hub_the_consensus_arrives_as_well_as_the_wire_carries_it(precision, samples):
    """The hub sends l = log p relative to the greatest, off by e <= 2^-11 |l| (2^-24 in single precision).

    What arrives is p_i exp(e_i) / sum_j p_j exp(e_j), within exp(2 max |e|) of p_i; logarithm and softmax
    in single precision cost a few 2^-24 (1 + |l|) more.
    """
    found = []
    for topology in (Complete(), Star()):
        knowledge = SpiedLogits(samples=samples, wire=Floats(precision))  # type: ignore[arg-type]
        made = run(fleets(3, 2, optimizer=sgd(RATE)), knowledge, topology, ticks=5, knowledge_every=4)
        # The heads' biases just after the first lesson, and just before.
        tick = 0 if samples == "batch" else 4
        steps = {
            name: made.diary.states[tick + 1][name]["main.bias"] - made.diary.states[tick][name]["main.bias"]
            for name in made.cohort.names
        }
        found.append((knowledge.taught[:2], steps))
    (targets, steps), (arrivals, others) = found
    unit = 2.0**-11 if precision == "float16" else 2.0**-24
    for group, prefix in enumerate(("cameras", "microphones")):
        (p, weight), (arrived, told) = targets[group]["main"][:2], arrivals[group]["main"][:2]
        assert torch.equal(weight, told)
        depth = (p.amax(-1, keepdim=True) / p).log().amax(-1, keepdim=True)
        off = p * (2 * (unit * depth + 2.0**-22 * (1 + depth))).expm1()
        assert ((arrived - p).abs() <= off).all()
        assert not torch.equal(arrived, p)
        # The bias descends the mean of q - p: half of it, for alpha is 1/2, at the rate.
        for name in (name for name in steps if name.startswith(prefix)):
            moved = RATE * 0.5 * off.mean(1).amax() + 1e-7
            assert (steps[name] - others[name]).abs().amax() <= moved, name
            assert steps[name].abs().amax() > 1e-3


class Half(TinyData):
    """Microphones see thirteen of the twenty public samples."""

    def public(self, split: str) -> Any:
        x = self.public_x[:20]
        return PublicSamples({"image": x, "audio": x}, {"audio": torch.arange(20) % 3 != 0})


@pytest.mark.parametrize("samples", ["batch", "all"])
def test_who_does_not_hear_itself_gets_an_answer_of_its_own(samples):
    """Two peers: the camera is told the microphone's thirteen samples, the microphone the camera's twenty.

    Twenty bits are three bytes, which only an incomplete answer needs.
    """
    knowledge = SpiedLogits(include_self=False, samples=samples)
    made = run(
        fleets(1, 1), knowledge, Star(), ticks=5, data=Half, knowledge_every=4,
        sizes={"public_batch_size": 20},
    )  # fmt: skip
    times = 2 if samples == "batch" else 1  # at ticks 0 and 4, or after 4
    for entry in made.callback.ledger.entries():
        if entry.kind != "logits":
            continue
        whole = entry.sender == "cameras/0" or entry.receiver == "microphones/0"
        assert entry.bytes == times * (20 * 12 if whole else 13 * 12 + 3)
    assert made.callback.ledger.total() == times * 2 * (20 * 12 + 13 * 12 + 3)
    heard, made_of_it = knowledge.heard[-1]["main"], knowledge.made[-1]["main"]
    for listener, speaker in ((0, 1), (1, 0)):
        spoke = heard.spoke[speaker]
        assert torch.equal(made_of_it.weight[listener] > 0, spoke)
        expected = heard.values[speaker][spoke].softmax(-1)
        torch.testing.assert_close(made_of_it.values[listener][spoke], expected)


def test_who_hears_itself_gets_the_answer_of_all():
    """The same two peers: all twenty samples down, twice, without a bit.

    Where every teacher counts, how many spoke is told in half precision: both on thirteen samples.
    """
    for consensus, extra in ((None, 0), (EveryTeacher(), 2)):
        knowledge = SpiedLogits(samples="all", consensus=consensus)
        made = run(
            fleets(1, 1), knowledge, Star(), ticks=5, data=Half, knowledge_every=4,
            sizes={"public_batch_size": 20},
        )  # fmt: skip
        kinds = made.callback.ledger.by_kind()["logits"]
        assert kinds == {"up": 20 * 12 + 13 * 12 + 3, "down": 2 * 20 * (12 + extra)}
        count = knowledge.taught[0]["main"].weight  # of the camera, on all samples in some order
        assert sorted(count.flatten().tolist()) == [1.0] * (7 if extra else 20) + [2.0] * (13 if extra else 0)


@pytest.mark.parametrize("topology", [Complete(), Star()])
def test_a_listener_hears_as_many_teachers_as_it_may(topology):
    """Two of four, another two at another exchange; answers of one's own through a hub.

    Where both have spoken, the mean of their probabilities is told: some pair of the four gives it.
    """
    knowledge = SpiedLogits(teachers=2, include_self=False)
    made = run(fleets(3, 2), knowledge, topology, ticks=4, knowledge_every=1)
    pairs = []
    for heard, told in zip(knowledge.heard, knowledge.made, strict=True):
        soft = heard["main"].values.softmax(-1)
        for listener in range(5):
            others = [j for j in range(5) if j != listener]
            distance = {
                (i, j): float(((soft[i] + soft[j]) / 2 - told["main"].values[listener]).abs().max())
                for i in others
                for j in others
                if i < j
            }
            best = min(distance, key=distance.__getitem__)
            assert distance[best] < 1e-6
            assert sorted(distance.values())[1] > 1e-4
            pairs.append((listener, best))
    assert len({pair for listener, pair in pairs if listener == 0}) > 1
    # Two edges to each of the five, or one up and one down for each.
    assert made.callback.ledger.total() == 4 * 10 * 16 * CLASSES * 4


# --- what has no meaning ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SharedLogits(teachers=0), "teachers must be at least 1"),
        (lambda: SharedLogits(confident=1.01), "confident must lie in"),
        (lambda: SharedLogits(confident=-0.1), "confident must lie in"),
        (lambda: SharedLogits(confident=math.nan), "confident must lie in"),
        (lambda: SharedLogits(digest=2), "digest needs samples: all"),
        (lambda: SharedLogits(samples="all", digest=0), "digest must be at least 1"),
        (lambda: SharedLogits(pretrain=-1), "pretrain must be at least 0"),
        (lambda: SharedLogits(alpha=1.0), "alpha must lie in"),
        (lambda: SharedLogits(alpha=-0.1), "alpha must lie in"),
        (lambda: SharedLogits(temperature=0.0), "temperature must be above 0"),
        (lambda: Prototypes(gamma=0.0), "gamma must be above 0"),
        (lambda: Prototypes(samples="batch"), "prototypes are about classes"),
        (lambda: Prototypes(confident=0.5), "prototypes are about classes"),
        (lambda: Prototypes(digest=3), "prototypes are about classes"),
        (lambda: Prototypes(pretrain=3), "prototypes are about classes"),
    ],
)
def test_what_has_no_meaning_is_refused(make: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("knowledge", "message"),
    [
        (SharedLogits(teachers=5), "teachers is 5, but there are only 4 others"),
        (SharedLogits(into="auxiliary"), "no auxiliary heads"),
        (SharedLogits(pretrain=2), "TinyData has no labels for its public samples"),
    ],
)
def test_what_has_no_meaning_for_these_peers_is_refused(knowledge: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        fit(Cohort(fleets(), CLASSES), DecentralizedCallback(knowledge), max_epochs=1)
