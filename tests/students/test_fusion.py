"""Students of several modalities: what a missing view may not change, and peers that read two views."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import PublicSamples, Samples
from mmkd.federated import FedAvg
from mmkd.functional.random import keyed
from mmkd.knowledge import SharedLogits
from mmkd.students import AudioStudent, Classifier, FusionStudent, TextStudent, VisionStudent
from mmkd.topology import Ring
from mmkd.types import SHOWN, Batch, ConfigError
from tests.tiny import CLASSES, Ear, Eye, TinyDataDouble, fit, schedule, sgd, trainer

BATCH = 12


def encoders(drop: float = 0.0) -> dict[str, Callable[[int], Classifier]]:
    return {"image": lambda n: Eye(n, drop=drop), "audio": lambda n: Ear(n, drop=drop)}


class Pairs(TinyDataDouble):
    """What is heard is the mirror of what is seen; some samples lack one view, some public ones both."""

    def private(self, peer: str, split: str) -> Any:
        samples: Any = super().private(peer, split)
        if "+" not in self.peers[peer]:
            return samples
        x = {"image": samples.x, "audio": samples.x.flip(1)}
        shown = {SHOWN + "image": samples.ids % 4 != 0, SHOWN + "audio": samples.ids % 4 != 1}
        return Samples({**x, **shown}, samples.y, samples.ids)

    def public(self, split: str) -> PublicSamples:
        number = torch.arange(len(self.public_x))
        x = {"image": self.public_x, "audio": self.public_x.flip(1)}
        return PublicSamples(x, {"image": number % 3 != 0, "audio": number % 2 != 0})


def fleets(robots: int = 3, drop: float = 0.0, **robot: Any) -> dict[str, Fleet]:
    return {
        "cameras": Fleet(lambda n: Eye(n, drop=drop), 2),
        "robots": Fleet(lambda n: FusionStudent(n, encoders=encoders(drop), dim=10, **robot), robots),
    }


def cohort_of(peers: dict[str, Fleet], vectorize: Any) -> Cohort:
    return Cohort(peers, CLASSES, vectorize=vectorize).double()  # type: ignore[return-value]


# --- in a cohort ----------------------------------------------------------------------------------


def test_vectorised_equals_one_after_the_other() -> None:
    """Weights after 21 float64 steps with missing views, knowledge and averaging; all of them learn."""
    states, starts = [], []
    for vectorize in ("never", "always"):
        cohort = cohort_of(fleets(prior_correction=1.0), vectorize)
        assert cohort.roster[0]["robots/0"] == "audio+image"
        starts.append(copy.deepcopy(cohort.student("robots/1")))
        callback = DecentralizedCallback(
            SharedLogits(), FedAvg(optimizer_state="keep"), Ring(), schedule(rounds_per_epoch=3)
        )
        fit(cohort, callback, Pairs(batch_size=16), max_epochs=1)
        states.append({n: cohort.student(n).state_dict() for n in cohort.names})
    for name, state in states[0].items():
        for n, tensor in state.items():
            torch.testing.assert_close(states[1][name][n], tensor, rtol=1e-8, atol=1e-8)
    for start, state in zip(starts, states, strict=True):
        assert [n for n, p in start.named_parameters() if torch.equal(state["robots/1"][n], p)] == []


def test_isolation_is_exact() -> None:
    """A peer in a cohort equals the same student alone; missing views and random layers included."""
    cohort = cohort_of(fleets(robots=2, drop=0.1, modality_dropout=0.4, dropout=0.1), "never")
    alone = {name: copy.deepcopy(cohort.student(name)) for name in cohort.names}
    callback = DecentralizedCallback(schedule=schedule(local_steps=10))
    run = fit(cohort, callback, Pairs(batch_size=16), max_epochs=1)
    data = Pairs(batch_size=16, peers=cohort.roster[0])
    data.setup("fit")
    for name, student in alone.items():
        lone = trainer(max_epochs=-1, max_steps=run.global_step)
        lone.fit(student, datamodule=data.only(name))
        state = cohort.student(name).state_dict()
        assert all(torch.equal(state[n], t) for n, t in student.state_dict().items()), name


@pytest.mark.parametrize("vectorize", ["never", "always"])
@pytest.mark.parametrize("chance", [0.0, 0.5])
def test_rows_that_train_together_drop_views_by_themselves(vectorize: Any, chance: float) -> None:
    """Peers that share an id share samples and, one after the other, random streams: they stay equal.

    Stacked rows draw from one stream, each a part of its own.
    """

    class Same(Pairs):
        def private(self, peer: str, split: str) -> Any:
            return super().private("robots/0", split)

        def assign(self, peers: Any, ids: Any = None) -> None:
            super().assign(peers, dict.fromkeys(peers, "one"))

    robots = Fleet(lambda n: FusionStudent(n, encoders=encoders(), modality_dropout=chance), 2)
    cohort = cohort_of({"robots": robots}, vectorize)
    fit(cohort, data=Same(batch_size=16), max_epochs=1)
    one, two = (cohort.student(f"robots/{i}").state_dict() for i in range(2))
    equal = all(torch.allclose(one[n], two[n], rtol=1e-9, atol=1e-12) for n in one)
    assert equal == (vectorize == "never" or chance == 0)


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_a_saved_student_loads_without_its_factories(vectorize: Any, tmp_path: Path) -> None:
    class Single(Pairs):
        dtype = torch.float32

    cohort = Cohort(fleets(heads=2, prior_correction=0.5), CLASSES, vectorize=vectorize)
    fit(cohort, data=Single(batch_size=16), max_epochs=1)
    cohort.save_student("robots/1", tmp_path / "robot.ckpt")
    saved = cohort.student("robots/1").eval()
    loaded = FusionStudent.load_from_checkpoint(tmp_path / "robot.ckpt", weights_only=True).eval()
    assert loaded.prior_correction == 0.5
    x = {"image": torch.randn(BATCH, 8), "audio": torch.randn(BATCH, 8)}
    for one, other in zip(saved.predict(x), loaded.predict(x), strict=True):
        assert torch.equal(one, other)


# --- missing views --------------------------------------------------------------------------------


def robot(**kwargs: Any) -> FusionStudent:
    """A student of three modalities; its images are normalised over the batch."""
    parts = {
        "image": lambda n: VisionStudent(n, width=4, norm="batch"),
        "audio": lambda n: AudioStudent(n, width=4),
        "text": lambda n: TextStudent(n, vocabulary=30, width=4),
    }
    with keyed(0):
        return FusionStudent(CLASSES, **{"encoders": parts, "dim": 8, **kwargs})


def views(batch: int = BATCH) -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return {
        "image": torch.rand(batch, 1, 8, 8, generator=stream),
        "audio": torch.randn(batch, 600, generator=stream),
        "text": torch.randint(1, 30, (batch, 6), generator=stream),
    }


def patterns(batch: int = BATCH) -> dict[str, Tensor]:
    """All eight ways to have views or not, over and over."""
    return {m: torch.arange(batch) // 2**bit % 2 == 1 for bit, m in enumerate(("image", "audio", "text"))}


def with_shown(x: dict[str, Tensor], shown: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**x, **{SHOWN + m: s for m, s in shown.items()}}


@pytest.mark.parametrize("training", [False, True])
def test_what_stands_in_a_missing_view_changes_nothing(training: bool) -> None:
    """Not even a running statistic or a gradient, nor if it is no number at all."""
    shown, outcomes = patterns(), []
    for junk in ({"image": 0.0, "audio": 0.0, "text": 0}, {"image": torch.nan, "audio": 1e30, "text": 29}):
        student, x = robot(modality_dropout=0.3).train(training), views()
        for m, value in junk.items():
            x[m][~shown[m]] = value
        with keyed(5):
            loss = student.private_loss(
                Batch(with_shown(x, shown), torch.arange(BATCH) % CLASSES, torch.arange(BATCH), 0)
            )
        loss.backward()
        gradients = {n: p.grad for n, p in student.named_parameters()}
        assert all(g is not None and g.isfinite().all() for g in gradients.values())
        outcomes.append({"loss": loss.detach(), **gradients, **dict(student.named_buffers())})
    first, second = outcomes
    assert all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("modality", ["image", "audio", "text"])
def test_every_view_that_is_there_counts_and_only_for_its_sample(modality: str) -> None:
    student, x, shown = robot().eval(), views(), patterns()
    changed = {**x, modality: x[modality].flip(0)}
    with torch.no_grad():
        before, after = student(with_shown(x, shown)), student(with_shown(changed, shown))
    assert torch.equal((before != after).any(1), shown[modality])


def test_the_embedding_is_the_mean_over_views_that_are_there() -> None:
    """Of what the student embeds of each view alone; without any it is 0, and the bias decides."""
    student, x, shown = robot().double().eval(), views(), patterns()
    x |= {m: t.double() for m, t in x.items() if t.is_floating_point()}
    with torch.no_grad():
        alone = {m: student.embed({m: t}) for m, t in x.items()}
        together = student.embed(with_shown(x, shown))
        logits = student(with_shown(x, shown))
    for i in range(BATCH):
        there = [alone[m][i] for m in x if shown[m][i]]
        mean = torch.stack(there).mean(0) if there else torch.zeros(8).double()
        torch.testing.assert_close(together[i], mean, rtol=1e-12, atol=1e-14)
        if not there:
            assert torch.equal(logits[i], student.main.bias)


def test_no_word_of_missing_means_that_nothing_is_and_no_view_that_all_are() -> None:
    student, x = robot().eval(), views()
    yes, no = torch.ones(BATCH, dtype=torch.bool), torch.zeros(BATCH, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(student(x), student(with_shown(x, dict.fromkeys(x, yes))))
        silent = {m: t for m, t in x.items() if m != "audio"}
        assert torch.equal(student(silent), student(with_shown(x, {"audio": no})))
        assert not torch.equal(student(silent), student(x))


def test_parts_of_a_view_are_blanked_alike() -> None:
    """A view may itself be several tensors; none of them is read where it is missing."""

    class Phone(Classifier):
        modalities = ("call",)

        def embed(self, x: dict[str, Tensor]) -> Tensor:
            return x["voice"] * x["gain"].unsqueeze(-1)

    student = FusionStudent(CLASSES, encoders={"call": lambda n: Phone(n, dim=3)}).eval()
    shown = torch.tensor([True, False])
    seen = []
    student.encoders["call"].embed = lambda x: seen.append(x) or x["voice"]  # type: ignore[method-assign]
    call = {"voice": torch.ones(2, 3), "gain": torch.tensor([2.0, torch.nan])}
    student.embed({"call": call, SHOWN + "call": shown})
    assert torch.equal(seen[0]["voice"], torch.tensor([[1.0] * 3, [0.0] * 3]))
    assert torch.equal(seen[0]["gain"], torch.tensor([2.0, 0.0]))


# --- modality dropout -----------------------------------------------------------------------------


class Flag(Classifier):
    """Embeds a view as it is."""

    modalities = ("none",)

    def __init__(self, num_classes: int, modality: str) -> None:
        super().__init__(num_classes, dim=3)
        self.modalities = (modality,)

    def embed(self, x: Tensor) -> Tensor:
        return x


def flags(**kwargs: Any) -> FusionStudent:
    """Its embedding is the share that each of the three views has in what is read."""
    named = {m: lambda n, m=m: Flag(n, m) for m in "abc"}
    student = FusionStudent(CLASSES, encoders=named, dim=3, **kwargs)
    for project in student.project.values():
        nn.init.eye_(project.weight)
        nn.init.zeros_(project.bias)
    return student


def read(student: FusionStudent, shown: Tensor) -> Tensor:
    """Which views of each sample a student reads: ``[samples, views]``."""
    x = {m: torch.eye(3)[i].expand(len(shown), 3) for i, m in enumerate("abc")}
    return student.embed(with_shown(x, {m: shown[:, i] for i, m in enumerate("abc")})) > 0


EIGHT = torch.tensor([[i >> bit & 1 for bit in range(3)] for i in range(8)]).bool()


@pytest.mark.parametrize("chance", [0.3, 0.9, 1.0])
def test_modality_dropout_never_takes_the_last_view(chance: float) -> None:
    """And takes each other view as often as it says: all go with p^n, and one of n then stays."""
    samples, student = 8000, flags(modality_dropout=chance)
    for number, shown in enumerate(EIGHT):
        with keyed(number):
            kept = read(student, shown.expand(samples, 3))
        there = int(shown.sum())
        assert not kept[:, ~shown].any()
        if there:
            assert kept.any(1).all()
            expected = 1 - chance + chance**there / there
            deviation = (expected * (1 - expected) / samples) ** 0.5
            assert (kept[:, shown].double().mean(0) - expected).abs().max() <= 5 * deviation
    # The last is the pattern with all three. Two of them stay only if both are kept, by themselves.
    both, expected = float(kept[:, :2].all(1).double().mean()), (1 - chance) ** 2
    assert abs(both - expected) <= 5 * (expected * (1 - expected) / samples) ** 0.5


def test_modality_dropout_is_off_in_evaluation() -> None:
    shown, student = EIGHT.repeat(50, 1), flags(modality_dropout=0.9)
    with keyed(0):
        assert not torch.equal(read(student, shown), shown)
        assert torch.equal(read(student.eval(), shown), shown)


def test_stacked_peers_lose_different_views_and_never_the_last() -> None:
    shown, student = EIGHT.repeat(50, 1), flags(modality_dropout=0.8)
    with keyed(0):
        kept = vmap(lambda s: read(student, s), randomness="different")(shown.expand(2, -1, -1))
    assert torch.equal(kept.any(-1), shown.any(-1).expand(2, -1))
    assert not (kept & ~shown).any()
    assert not torch.equal(kept[0], kept[1])


# --- what it is made of ---------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_with_one_modality_it_predicts_as_that_student_alone(named: bool, training: bool) -> None:
    """Given its head and a projection that changes nothing; the one view is the last, so it stays."""
    with keyed(0):
        eye = Eye(CLASSES, drop=0.3)
    student = FusionStudent(
        CLASSES, encoders={"image": lambda n: copy.deepcopy(eye)}, dim=16, modality_dropout=1.0
    )
    assert student.modalities == ("image",)
    nn.init.eye_(student.project["image"].weight)
    nn.init.zeros_(student.project["image"].bias)
    student.main.load_state_dict(eye.main.state_dict())
    x = torch.randn(BATCH, 8)
    with keyed(3):
        alone = eye.train(training).predict(x)
    with keyed(3):
        fused = student.train(training).predict({"image": x} if named else x)
    for one, other in zip(alone, fused, strict=True):
        assert torch.equal(one, other)


def test_the_order_of_encoders_is_nothing() -> None:
    pairs = list(encoders().items())
    states = []
    for order in (pairs, pairs[::-1]):
        with keyed(0):
            student = FusionStudent(CLASSES, encoders=dict(order))
        assert student.modalities == ("audio", "image")
        states.append(student.state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_encoders_bring_no_heads_and_keep_what_is_personal() -> None:
    class Shy(Eye):
        personal = frozenset({"log_prior", "net.0.bias"})

    student = FusionStudent(CLASSES, encoders={"image": Shy, "audio": Ear}, dim=4)
    tensors = [n for n in student.state_dict() if ".net." not in n]
    assert tensors == [
        *("log_prior", "main.weight", "main.bias"),
        *(f"project.{m}.{n}" for m in ("audio", "image") for n in ("weight", "bias")),
    ]
    peers = {"robots": Fleet(lambda n: FusionStudent(n, encoders={"image": Shy, "audio": Ear}), 2)}
    for vectorize in ("never", "always"):
        cohort = cohort_of(peers, vectorize)
        sent = cohort.axis.weights(cohort.names, buffers=True)
        assert "encoders.audio.net.0.bias" in sent
        assert not {"encoders.image.net.0.bias", "log_prior"} & set(sent)


class Forgetful(Classifier):
    """Keeps no hyper-parameters."""

    modalities = ("image",)

    def __init__(self, num_classes: int, *, dim: int = 8) -> None:
        super().__init__(num_classes, dim=dim)
        self.net = nn.Linear(8, dim)

    def embed(self, x: Tensor) -> Tensor:
        return self.net(x)


def checkpoint(student: FusionStudent, path: Path, **changes: Any) -> Path:
    recipes = {m: {**recipe, **changes} for m, recipe in student.hparams["encoders"].items()}
    hyper = {**student.hparams, "encoders": recipes}
    content = {"state_dict": student.state_dict(), "hyper_parameters": hyper}
    torch.save({**content, "pytorch-lightning_version": "2.6.0"}, path)
    return path


def test_what_a_checkpoint_cannot_make_again_is_said_and_may_be_given(tmp_path: Path) -> None:
    class Local(Eye):
        pass

    factories: list[tuple[type[Classifier], str]] = [
        (Forgetful, "Forgetful again: it did not save all of its hyper-parameters"),
        (Local, "Local again: there is no such student here"),
    ]
    for made, message in factories:
        student = FusionStudent(CLASSES, encoders={"image": made})
        path = checkpoint(student, tmp_path / "robot.ckpt")
        with pytest.raises(ConfigError, match=message):
            FusionStudent.load_from_checkpoint(path, weights_only=True)
        again = FusionStudent.load_from_checkpoint(path, encoders={"image": made}, weights_only=True)
        assert all(torch.equal(again.state_dict()[n], t) for n, t in student.state_dict().items())


def test_a_checkpoint_names_students_and_nothing_else(tmp_path: Path) -> None:
    student = FusionStudent(CLASSES, encoders={"image": Eye})
    path = checkpoint(student, tmp_path / "robot.ckpt", module="pathlib", name="Path")
    with pytest.raises(ConfigError, match="Path again: there is no such student here"):
        FusionStudent.load_from_checkpoint(path, weights_only=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoders": {}}, "needs an encoder"),
        ({"encoders": {"audio": Eye}}, "'audio' is a Eye, which reads image"),
        ({"encoders": {"image": lambda n: Eye(n, heads=2)}}, "heads would have no effect"),
        ({"encoders": {"image": lambda n: Eye(n, prior_correction=1.0)}}, "prior_correction would have"),
        ({"encoders": {"image": lambda n: Eye(n, optimizer=sgd(0.1))}}, "optimizer would have no effect"),
        ({"modality_dropout": 1.5}, "modality_dropout must lie in"),
    ],
)
def test_mistakes_are_explained_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        FusionStudent(CLASSES, **{"encoders": encoders(), **settings})
    assert "\n" not in str(error.value)
