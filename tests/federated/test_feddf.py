"""FedDF (Lin et al. 2020) against a loop written by hand; bytes, compute and what is refused, derived."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.samples import PublicSamples
from mmkd.encoding import TopK
from mmkd.federated import FedAvg, FedDF
from mmkd.functional.random import generator, key, keyed
from mmkd.participation import Sampled, Trace
from mmkd.students.base import Classifier
from mmkd.topology import Complete, Ring, Star
from mmkd.types import ConfigError
from tests.grids import each_once, pairwise
from tests.tiny import CLASSES, FEATURES, TinyData, TinyDataDouble, fit, fleets, schedule, sgd

PUBLIC, DIM = 100, 6
CAMERAS = ["cameras/0", "cameras/1", "cameras/2"]
MICROPHONES = ["microphones/0", "microphones/1"]
BOTH = pytest.mark.parametrize("vectorize", ["never", "always"])


class Plain(Classifier):
    """Two layers without statistics or random layers: weights are all there is to know of it."""

    modalities = ("image",)

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=DIM, **{"optimizer": sgd(0.2), **kwargs})
        self.net = nn.Sequential(nn.Linear(FEATURES, DIM), nn.Tanh())

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x)


class PlainEar(Plain):
    modalities = ("audio",)


class Owner(Plain):
    """Its head never leaves it."""

    personal = frozenset({"log_prior", "main.weight", "main.bias"})


PREDICT = 2 * (FEATURES * DIM + DIM * CLASSES)
"""FLOPs of a forward of ``Plain``: a multiply-add is two;"""
TRAIN = 2 * PREDICT + 2 * DIM * CLASSES
"""and of a step: weights get gradients, and of the two inputs that of the second layer alone."""


def plains(cameras: int = 3, microphones: int = 2) -> dict[str, Fleet]:
    return {"cameras": Fleet(lambda n: Plain(n), cameras), "microphones": Fleet(PlainEar, microphones)}


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


class Along(FedAvg):
    """FedAvg as its relatives have it, x + sum p_k (y_k - x): equal to the mean of the y_k but for rounding."""


class Spied(FedDF):
    """Remembers what peers had and what became of it, round by round."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rounds: dict[int, tuple[list[str], dict[str, Tensor], dict[str, Tensor]]] = {}

    def finish(self, y: Any, round: Any) -> Any:
        names = list(round.present)
        before = {n: t.clone() for n, t in y.items()}
        after = super().finish(y, round)
        self.rounds[round.number] = names, before, {n: t[0].clone() for n, t in after.items()}
        return after


class Run(NamedTuple):
    cohort: Cohort
    callback: DecentralizedCallback
    data: TinyData


def run(
    peers: dict[str, Fleet],
    aggregation: Any,
    topology: Any = None,
    *,
    rounds: int = 1,
    vectorize: Any = "never",
    data: type[TinyData] = TinyDataDouble,
    participation: Any = None,
    **plan: Any,
) -> Run:
    cohort = Cohort(peers, CLASSES, vectorize=vectorize)
    cohort = cohort.double() if data.dtype == torch.float64 else cohort
    timing = schedule(**{"rounds_per_epoch": 1, **plan})
    callback = DecentralizedCallback(
        None, aggregation, topology or Star(), timing, participation=participation
    )
    samples = data(batch_size=16)
    fit(cohort, callback, samples, max_epochs=rounds, limit_val_batches=0)
    return Run(cohort, callback, samples)


def state(made: Run, peer: str) -> dict[str, Tensor]:
    return made.cohort.student(peer).state_dict()


def proportions(data: TinyData, peers: list[str]) -> dict[str, float]:
    """p_k = n_k / n."""
    sizes = {peer: len(data.private(peer, "train")) for peer in peers}  # type: ignore[arg-type]
    return {peer: size / sum(sizes.values()) for peer, size in sizes.items()}


def distil(
    student: nn.Module,
    target: Tensor,
    x: Tensor,
    useful: Tensor,
    peers: list[str],
    round: int,
    *,
    steps: int,
    batch_size: int,
    optimizer: Any,
) -> None:
    """Steps of KL(target || student) on the hub's batches; random layers draw from the keys of the steps."""
    name = (TinyData(batch_size=1).seed, "hub", *peers, round)
    order = torch.randint(len(useful), (steps, min(batch_size, len(useful))), generator=generator(*name))
    engine = optimizer(list(student.parameters()))
    for i, chosen in enumerate(order):
        ids = useful[chosen]
        with keyed(key(*name, i)):
            log_q = student(x[ids]).log_softmax(-1)
        p = target[ids]
        loss = (p * (p.log() - log_q)).sum(-1).mean()
        engine.zero_grad()
        loss.backward()
        engine.step()


def close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for n, tensor in expected.items():
        torch.testing.assert_close(got[n], tensor, rtol=0, atol=tolerance, msg=lambda m, n=n: f"{n}: {m}")


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


# --- the round by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("optimizer", [None, sgd(0.5)], ids=["adam", "sgd"])
def test_a_round_by_hand_with_statistics_and_random_layers(across: bool, optimizer: Any) -> None:
    """Teachers as they were before the average, in evaluation mode; the student trains, in training mode.

    Statistics of normalisation are averaged and not the hub's, counters and priors stay at home. Logits
    are added up to 2^-37.
    """
    steps, size = 6, 16
    students = fleets(drop=0.3, optimizer=sgd(0.2))
    given = {} if optimizer is None else {"optimizer": optimizer}
    alone = run(students, None)
    made = run(students, FedDF(steps=steps, batch_size=size, across=across, **given))
    x = alone.data.public_x
    spoken = {}
    for peer in alone.cohort.names:
        with torch.no_grad():
            spoken[peer] = copy.deepcopy(alone.cohort.student(peer)).eval()(x)
    for peers in (CAMERAS, MICROPHONES):
        p = proportions(alone.data, peers)
        mean = {
            n: sum(p[peer] * state(alone, peer)[n] for peer in peers)
            for n, t in state(alone, peers[0]).items()
            if t.is_floating_point() and n != "log_prior"
        }
        student = copy.deepcopy(alone.cohort.student(peers[0])).train()
        student.load_state_dict(mean, strict=False)
        teachers = list(spoken) if across else peers
        target = torch.stack([spoken[peer] for peer in teachers]).mean(0).softmax(-1)
        distil(
            student, target, x, torch.arange(PUBLIC), peers, 0, steps=steps, batch_size=size,
            optimizer=optimizer or adam,
        )  # fmt: skip
        trained = {n: t.detach() for n, t in student.named_parameters()}
        statistics = {n: t for n, t in mean.items() if "running" in n}
        assert len(statistics) == 2
        for peer in peers:
            got = state(made, peer)
            close(got, trained, 1e-10)
            close(got, statistics, 1e-12)
            assert int(got["net.1.num_batches_tracked"]) == 7
            assert torch.equal(got["log_prior"], state(alone, peer)["log_prior"])
        # Far enough from what it would be without the hub's steps, or with the other teachers.
        assert max(float((trained[n] - mean[n]).abs().max()) for n in trained) > 1e-3


class Blinking(TinyDataDouble):
    """Of every six public samples one shows nothing at all, and others nothing to one of the two."""

    def public(self, split: str) -> Any:
        i = torch.arange(PUBLIC)
        shown = {"image": i % 3 != 0, "audio": i % 2 != 0}
        # Whatever stands where no view is must not matter.
        views = {m: torch.where(s[:, None], self.public_x, 1e3) for m, s in shown.items()}
        return PublicSamples(views, shown)


ROUNDS = {
    "everybody": (None, TinyDataDouble),
    "sampled": (Sampled(count=2), TinyDataDouble),
    "missing views": (None, Blinking),
    # Nobody of one modality in the second round; the third is empty; then a lone teacher of each.
    "a trace": (
        Trace({
            "cameras/0": [[0, 0], [3, 3]], "cameras/1": [[0, 1]], "cameras/2": [[1, 1]],
            "microphones/0": [[0, 0]], "microphones/1": [[3, 3]],
        }),
        Blinking,
    ),
}  # fmt: skip


@pairwise(case=list(ROUNDS), across=[True, False], vectorize=["never", "always"])
def test_rounds_by_hand(case: str, across: bool, vectorize: str) -> None:
    """Four rounds: who was there teaches, on what it can see; the student learns where it sees and is taught."""
    participation, kind = ROUNDS[case]
    steps, size = 5, 16
    how: dict[str, Any] = {"steps": steps, "batch_size": size, "optimizer": sgd(0.5)}
    made = run(
        plains(3, 2), Spied(across=across, **how), rounds=4, vectorize=vectorize, data=kind,
        participation=participation, local_steps=3,
    )  # fmt: skip
    public: Any = made.data.public("train")
    students = {"cameras": Plain(CLASSES).double(), "microphones": PlainEar(CLASSES).double()}
    collectives = {
        c.members[0].split("/")[0]: c.aggregation.rounds for c in made.callback.coordinator.federations
    }  # type: ignore[attr-defined]
    flops, compared = 0, 0
    for round_ in range(4):
        spoken: dict[str, tuple[Tensor, Tensor]] = {}
        for fleet, rounds in collectives.items():
            (modality,) = students[fleet].modalities
            for row, peer in enumerate(rounds[round_][0] if round_ in rounds else ()):
                weights = {n: t[row] for n, t in rounds[round_][1].items()}
                logits = functional_call(students[fleet], weights, (public.views[modality],))
                spoken[peer] = logits.detach(), public.shown[modality]
        flops += len(spoken) * PUBLIC * PREDICT
        for fleet, rounds in collectives.items():
            if round_ not in rounds:
                continue
            peers, y, after = rounds[round_]
            p = proportions(made.data, peers)
            mean = {n: sum(p[peer] * t[row] for row, peer in enumerate(peers)) for n, t in y.items()}
            student = copy.deepcopy(students[fleet])
            student.load_state_dict(mean, strict=False)
            teachers = list(spoken) if across else peers
            shown = torch.stack([spoken[peer][1] for peer in teachers])
            logits = torch.stack([spoken[peer][0] for peer in teachers])
            said = torch.where(shown[..., None], logits, 0.0).sum(0) / shown.sum(0).clamp(min=1)[:, None]
            (modality,) = student.modalities
            useful = (public.shown[modality] & shown.any(0)).nonzero().flatten()
            distil(student, said.softmax(-1), public.views[modality], useful, peers, round_, **how)
            close(after, {n: t.detach() for n, t in student.named_parameters()}, 1e-10)
            # A lone teacher has nothing to teach to itself.
            moved = float((after["main.weight"] - mean["main.weight"]).abs().max())
            assert moved > 1e-3 if len(teachers) > 1 else moved < 1e-10
            flops += steps * size * TRAIN
            compared += 1
    assert compared == (5 if case == "a trace" else 8)
    assert made.callback.ledger.hub_flops == {"hub": flops}
    for fleet, rounds in collectives.items():
        last = rounds[max(rounds)][2]
        for peer in made.cohort.names:
            if peer.startswith(fleet):
                assert equal({n: state(made, peer)[n] for n in last}, last)
    if participation is not None:
        drawn = {tuple(names) for rounds in collectives.values() for names, _, _ in rounds.values()}
        assert len(drawn) > 2


# --- what it shares with FedAvg --------------------------------------------------------------------


@each_once(vectorize=["never", "always"], participation={"two": Sampled(count=2), "all": None})
def test_with_a_rate_of_zero_it_is_fedavg(vectorize: str, participation: Any) -> None:
    """Bit for bit where FedAvg goes from x by the mean displacement, and up to rounding where it takes the mean.

    Statistics, dropout and what comes after are the same: the hub leaves no trace.
    """
    zero = FedDF(steps=3, optimizer=sgd(0.0))
    how: dict[str, Any] = {"rounds": 2, "local_steps": 3, "vectorize": vectorize}
    how["participation"] = participation
    students = fleets(optimizer=sgd(0.2))
    made, along, mean = (run(students, it, **how) for it in (zero, Along(), FedAvg()))
    for peer in made.cohort.names:
        assert equal(state(made, peer), state(along, peer)), peer
        close(state(made, peer), state(mean, peer), 1e-10)
    assert list(made.callback.ledger.entries()) == list(mean.callback.ledger.entries())
    assert made.callback.ledger.flops == mean.callback.ledger.flops
    assert made.callback.ledger.hub_flops["hub"] > 0
    assert not mean.callback.ledger.hub_flops


@BOTH
def test_a_hub_cannot_predict_with_what_peers_keep_to_themselves(vectorize: str) -> None:
    with pytest.raises(ConfigError, match=r"'main.weight' never leaves 'cameras/0'"):
        run({"cameras": Fleet(Owner, 3)}, FedDF(steps=3), rounds=2, vectorize=vectorize)


@each_once(vectorize=["never", "always"], across=[True, False])
def test_bytes_are_those_of_fedavg(vectorize: str, across: bool) -> None:
    """Weights up and down, edge by edge; predictions never travel. Peers compute the same, too."""
    distilled, averaged = (
        run(plains(), it, rounds=2, vectorize=vectorize, data=TinyData)
        for it in (FedDF(steps=2, across=across), FedAvg())
    )
    entries = list(distilled.callback.ledger.entries())
    assert entries == list(averaged.callback.ledger.entries())
    size = 4 * (FEATURES * DIM + DIM + DIM * CLASSES + CLASSES)
    edges = {(e.round, e.sender, e.receiver, e.direction, e.bytes) for e in entries if e.kind == "weights"}
    assert edges == {
        edge
        for round_ in range(2)
        for peer in CAMERAS + MICROPHONES
        for edge in ((round_, peer, "hub", "up", size), (round_, "hub", peer, "down", size))
    }
    assert distilled.callback.ledger.kinds() == ["framing", "weights"]
    assert distilled.callback.ledger.flops == averaged.callback.ledger.flops
    # Each peer reads batches of 16, for nobody owns fewer.
    assert distilled.callback.ledger.flops == dict.fromkeys(CAMERAS + MICROPHONES, 2 * 7 * 16 * TRAIN)


def test_the_hubs_batch_is_no_greater_than_what_it_can_see() -> None:
    """A third of the hundred, or all: the ledger counts what was read."""

    class Third(TinyData):
        def public(self, split: str) -> Any:
            views = {"image": self.public_x, "audio": self.public_x}
            return PublicSamples(views, {"audio": torch.arange(PUBLIC) % 3 == 0})

    steps = 3
    made = run(plains(3, 2), FedDF(steps=steps, batch_size=1000), rounds=2, data=Third)
    each = 5 * PUBLIC * PREDICT + steps * (PUBLIC + 34) * TRAIN
    assert made.callback.ledger.hub_flops == {"hub": 2 * each}


# --- contracts -------------------------------------------------------------------------------------


@each_once(
    optimizer={"adam": None, "sgd": sgd(0.5, momentum=0.9)},
    participation={"two": Sampled(count=2), "all": None},
)
def test_both_paths_agree(optimizer: Any, participation: Any) -> None:
    """Two rounds in double precision with unequal work; the hub is the same for both."""
    given = {} if optimizer is None else {"optimizer": optimizer}
    work = {"cameras": 7, "cameras/1": 4, "microphones": 5}
    one, two = (
        run(
            fleets(drop=0.0, optimizer=sgd(0.1)), FedDF(steps=5, **given), rounds=2, vectorize=vectorize,
            participation=participation, local_steps=work,
        )
        for vectorize in ("never", "always")
    )  # fmt: skip
    for peer in one.cohort.names:
        close(state(one, peer), state(two, peer), 1e-8)
    assert one.callback.ledger == two.callback.ledger


@BOTH
def test_the_order_and_the_names_of_fleets_change_nothing(vectorize: str) -> None:
    ids = {"a": ["x0", "x1", "x2"], "b": ["y0", "y1"]}
    first = {"cameras": Fleet(Plain, 3, ids["a"]), "microphones": Fleet(PlainEar, 2, ids["b"])}
    second = {"zebras": Fleet(PlainEar, 2, ids["b"]), "eyes": Fleet(Plain, 3, ids["a"])}
    one, two = (run(peers, FedDF(steps=3), rounds=2, vectorize=vectorize) for peers in (first, second))
    ends = [{made.cohort.ids[n]: state(made, n) for n in made.cohort.names} for made in (one, two)]
    assert ends[0].keys() == ends[1].keys()
    assert all(equal(ends[0][ident], ends[1][ident]) for ident in ends[0])


# --- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregation", "topology", "message"),
    [
        (FedDF(), Complete(), "FedDF distils at a hub: choose topology Star"),
        (FedDF(), Ring(), "needs everybody to hear everybody"),
        (FedDF(compression=TopK(0.5)), Star(), "leave compression out"),
    ],
)
def test_what_a_hub_cannot_do_is_refused(aggregation: Any, topology: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(plains(cameras=4), aggregation, topology)  # on a ring of three all hear all


def test_starts_that_differ_are_refused() -> None:
    cohort = Cohort(plains(), CLASSES, init="own")
    with pytest.raises(ConfigError, match="starts from weights that all have in common"):
        fit(cohort, DecentralizedCallback(None, FedDF(), Star(), schedule()), max_epochs=1)


@pytest.mark.parametrize("setting", [{"steps": 0}, {"batch_size": 0}])
def test_no_work_at_the_hub_is_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"must (be at least 1|lie in .1, 10000000.), not 0"):
        FedDF(**setting)  # type: ignore[arg-type]


def test_a_modality_without_public_samples_is_refused() -> None:
    class Blind(TinyData):
        def public(self, split: str) -> Any:
            return PublicSamples({"image": self.public_x})

    with pytest.raises(ConfigError, match="no public sample shows 'audio'"):
        run(plains(), FedDF(), data=Blind)
