"""Which teacher helps whom: influence by brute force and by small steps, and a run that is not disturbed."""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from mmkd.callbacks import DecentralizedCallback, Diagnostics
from mmkd.cohort import Cohort, Fleet
from mmkd.data.samples import PublicSamples, Samples, view_of
from mmkd.diagnostics.heat_map import heat_map
from mmkd.federated import FedAvg
from mmkd.functional.calibration import agreement, calibration_error, mean_confidence
from mmkd.knowledge import (
    Correlation,
    Decoupled,
    EightBits,
    EntropyReduction,
    EveryTeacher,
    Knowledge,
    LogitDistance,
    MeanLogit,
    MeanProbability,
    MostConfident,
    MultiHeadDistillation,
    Prototypes,
    SharedLogits,
    TopClasses,
)
from mmkd.participation import Sampled
from mmkd.students.base import Classifier
from mmkd.topology import Complete, EdgeList, Ring, Star
from mmkd.transport import LocalTransport
from mmkd.types import ConfigError
from tests.grids import each_once, pairwise
from tests.tiny import (
    CLASSES,
    FEATURES,
    Eye,
    Save,
    TinyData,
    TinyDataDouble,
    fleets,
    schedule,
    trainer,
)

PUBLIC, ROUND = 100, 3


class Seen(NamedTuple):
    """A cohort after training, and what was seen last, after which it learnt nothing."""

    cohort: Cohort
    callback: DecentralizedCallback
    diagnostics: Diagnostics
    run: Any

    @property
    def influence(self) -> Tensor:
        found = self.diagnostics.measurements[-1].influence
        assert found is not None
        return found

    @property
    def teaching(self) -> Any:
        return self.callback.coordinator.lessons


Watch = Callable[..., Seen]


class Blank:
    """A picture that takes no time."""

    def savefig(self, file: Path, **kwargs: Any) -> None:
        file.touch()


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Trains a cohort for an epoch of two rounds of three ticks, in double precision, with diagnostics."""

    def train(
        knowledge: Knowledge | None = None,
        topology: Any = None,
        *,
        peers: dict[str, Fleet] | None = None,
        data: TinyData | None = None,
        cohort: dict[str, Any] | None = None,
        plan: dict[str, Any] | None = None,
        aggregation: Any = None,
        diagnostics: Diagnostics | None = None,
        draws: bool = False,
        **kwargs: Any,
    ) -> Seen:
        monkeypatch.setattr(
            "mmkd.callbacks.diagnostics.heat_map", heat_map if draws else lambda *_, **__: Blank()
        )
        many = Cohort(
            peers or fleets(heads=2), CLASSES, **{"vectorize": "never", "init": "own", **(cohort or {})}
        )
        data = data or TinyDataDouble(batch_size=16)
        many = many.double() if data.dtype == torch.float64 else many
        taught = {n: kwargs.pop(n) for n in ("between", "participation", "transport") if n in kwargs}
        callback = DecentralizedCallback(
            knowledge, aggregation, topology, schedule(**{"local_steps": ROUND, **(plan or {})}), **taught
        )
        diagnostics = diagnostics or Diagnostics(folder=tmp_path)
        ckpt_path, extra = kwargs.pop("ckpt_path", None), kwargs.pop("extra", ())
        run = trainer(callback, diagnostics, *extra, **{"max_epochs": 1, **kwargs})
        run.fit(many, datamodule=data, ckpt_path=ckpt_path)
        return Seen(many, callback, diagnostics, run)

    return train


class Probing:
    """The gradients that influence is made of, over all parameters of a peer, one explicit backward each."""

    def __init__(self, seen: Seen, name: str) -> None:
        self.seen, self.cohort, self.k = seen, seen.cohort, seen.cohort.names.index(name)
        self.student = copy.deepcopy(seen.cohort.student(name)).eval()
        self.parameters = [p for p in self.student.parameters() if p.requires_grad]
        self.probe = seen.run.datamodule.private(name, "val")
        self.heard, self.hears, self.own = seen.teaching.overhear(seen.cohort.global_step)
        modality = seen.cohort.roster[0][name]
        self.view, self.shown = view_of(seen.teaching._public, modality)

    def _head(self, x: Any) -> Tensor:
        predicted = self.student.predict(x)
        return predicted.auxiliary[-1] if self.cohort.head == "last" else predicted.logits

    def loss(self) -> Tensor:
        return F.cross_entropy(self._head(self.probe.x), self.probe.y)

    def gradient(self, loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.parameters, strict=True)]

    def distillation(self, silent: int | None = None) -> list[Tensor]:
        """Gradient of what the peer distils of the whole public set, with one teacher left out if given."""
        knowledge, hears = self.seen.teaching.knowledge, self.hears[self.k : self.k + 1].clone()
        if silent is not None:
            hears[:, silent] = False
        targets = knowledge.listen(self.heard, hears, self.own[self.k : self.k + 1])
        targets = {n: t._replace(weight=t.weight * self.shown) for n, t in targets.items()}
        predicted = self.student.predict(self.view)
        loss = knowledge.loss(type(predicted)(*(t[None] for t in predicted)), targets)
        return (
            self.gradient(knowledge.weight * loss.sum())
            if loss.requires_grad
            else self.gradient(0 * self.loss())
        )

    def step(self, direction: list[Tensor], size: float) -> float:
        """The probe loss after a step against ``direction``."""
        before = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for p, d in zip(self.parameters, direction, strict=True):
                p.sub_(size * d)
            loss = self.loss().item()
            for p, b in zip(self.parameters, before, strict=True):
                p.copy_(b)
        return loss


def brute_force(seen: Seen) -> Tensor:
    """<g_probe, g_all - g_without_j> for every edge."""
    size = len(seen.cohort.names)
    found = torch.zeros(size, size, dtype=torch.float64)
    for k, name in enumerate(seen.cohort.names):
        probing = Probing(seen, name)
        probe, whole = probing.gradient(probing.loss()), probing.distillation()
        for j in probing.hears[k].nonzero()[:, 0].tolist():
            rest = probing.distillation(silent=j)
            found[k, j] = sum(float((p * (a - b)).sum()) for p, a, b in zip(probe, whole, rest, strict=True))
    return found


def assert_brute_force(seen: Seen, rtol: float = 1e-8) -> None:
    expected = brute_force(seen)
    most = float(expected.abs().max())
    assert most > 1e-4  # there is something to see
    torch.testing.assert_close(seen.influence, expected, rtol=rtol, atol=1e-3 * rtol * most)


# --- influence -------------------------------------------------------------------------------------

MHD: dict[str, Any] = {"nu_emb": 0.3, "self_target": True}


@pairwise(
    knowledge={"logits": SharedLogits(), "heads": MultiHeadDistillation(**MHD)},
    topology=[Ring(), Star()],
    head=["main", "last"],
    vectorize=["never", "always"],
)
def test_influence_is_that_of_explicit_gradients(
    watch: Watch, knowledge: Any, topology: Any, head: Any, vectorize: Any
) -> None:
    assert_brute_force(watch(knowledge, topology, cohort={"head": head, "vectorize": vectorize}))


@pytest.mark.parametrize(
    "knowledge",
    [
        SharedLogits(consensus=MostConfident(), include_self=False, temperature=2.0, alpha=0.2),
        SharedLogits(consensus=MeanLogit(), loss=LogitDistance(), into="auxiliary"),
        SharedLogits(consensus=EntropyReduction(), loss=Decoupled()),
        SharedLogits(consensus=MeanProbability(confidence="margin"), loss=Correlation(), wire=EightBits()),
        MultiHeadDistillation(teacher=EveryTeacher(), ignore_poor=True, confident=0.4, wire=TopClasses(2)),
        MultiHeadDistillation(nu_emb=1.0, nu_aux=0.0, samples="all", speak="eval", pool=2),
        MultiHeadDistillation(level="same", self_target=True),
    ],
    ids=lambda knowledge: type(knowledge).__name__,
)
def test_influence_of_every_sort_of_knowledge(watch: Watch, knowledge: Any) -> None:
    assert_brute_force(watch(knowledge, Complete(), cohort={"head": "last"}))


@pytest.mark.parametrize("head", ["main", "last"])
def test_influence_is_what_a_small_step_gains(watch: Watch, head: Any) -> None:
    """A step along all of the gradient lowers the probe loss by so much more than one without the teacher.

    Central differences of step e are wrong by c e^2 + O(e^4), so those of e and 2 e differ by three times
    the error of the former; and each of four losses is off by a few units of 2^-53, divided by 2 e.
    """
    out = watch(MultiHeadDistillation(**MHD), Ring(), peers=smooth(heads=2), cohort={"head": head})
    for k, name in enumerate(out.cohort.names):
        probing = Probing(out, name)
        whole = probing.distillation()
        for j in probing.hears[k].nonzero()[:, 0].tolist():
            rest = probing.distillation(silent=j)

            def gain(e: float, whole: Any = whole, rest: Any = rest, step: Any = probing.step) -> float:
                return ((step(rest, e) - step(whole, e)) - (step(rest, -e) - step(whole, -e))) / (2 * e)

            fine, coarse = gain(1e-3), gain(2e-3)
            assert abs(fine - coarse) < 1e-3 * abs(fine)  # the step was small
            assert abs(float(out.influence[k, j]) - fine) < abs(fine - coarse) / 2 + 40 * 2**-53 / 2e-3


class Smooth(Eye):
    """Without corners, and without chance."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **{"drop": 0.0, **kwargs})
        self.net[2] = nn.Tanh()


class SmoothEar(Smooth):
    modalities = ("audio",)


def smooth(**student: Any) -> dict[str, Fleet]:
    return {
        "cameras": Fleet(lambda n: Smooth(n, **student), 3),
        "microphones": Fleet(lambda n: SmoothEar(n, **student), 2),
    }


class Attentive(Eye):
    """Its attention is fused, and fused attention has no forward derivative."""

    def embed(self, x: Tensor) -> Tensor:
        tokens = x.unflatten(-1, (-1, 2))[:, None]
        return self.net(F.scaled_dot_product_attention(tokens, tokens, self.scale * tokens)[:, 0].flatten(1))

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.scale = nn.Parameter(torch.ones(2))


class Frozen(Eye):
    """Half of it does not learn, so no gradient reaches that half."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.net[0].requires_grad_(False)


@pytest.mark.parametrize(
    ("student", "vectorize"),
    [(Attentive, "never"), (Frozen, "never"), (Frozen, "always")],  # torch has no vmap of fused attention
)
def test_influence_on_students_that_are_hard_to_differentiate(
    watch: Watch, student: Any, vectorize: Any
) -> None:
    """In single precision, in which attention is fused: sums of some hundred terms are good to 1e-4."""
    peers = {"cameras": Fleet(lambda n: student(n), 3)}
    out = watch(
        SharedLogits(), Complete(), peers=peers, data=TinyData(batch_size=16), cohort={"vectorize": vectorize}
    )
    assert_brute_force(out, rtol=1e-3)


@pytest.mark.long
def test_a_teacher_that_lies_hurts_and_honest_ones_help(watch: Watch) -> None:
    """One camera's labels are all wrong in the same way; everybody hears everybody.

    The mean of what is heard is t = (4 truth + lie) / 5 once all have learnt, and p goes there, too. Without
    the liar it would be nearer to the truth, and without another nearer to the lie. In the space of
    predictions g_all - g_without_j points along t_without_j - t, and g_probe along p - truth. Now
    <p - truth, truth - lie> is negative for every p between truth, lie and not knowing, so the liar's influence
    is negative and that of the others positive, for any kernel J J^T that does not turn vectors around.
    """

    class Liar(TinyDataDouble):
        def private(self, peer: str, split: str) -> Any:
            if split != "train":
                return self.held_out
            i = list(self.peers).index(peer)
            part = self.pool.subset(range(60 * i, 60 * (i + 1)))
            return Samples(part.x, (part.y + 1) % CLASSES) if peer == LIAR else part

    LIAR = "cameras/1"
    out = watch(
        SharedLogits(),
        Complete(),
        peers=fleets(drop=0.0),
        data=Liar(batch_size=16),
        plan={"local_steps": 40},
        max_epochs=4,
    )
    mean, names = out.diagnostics.influence, out.cohort.names
    assert mean is not None
    assert len(out.diagnostics.measurements) == 4
    rows = [
        [row / (row.square().sum() / 4).sqrt() for row in measurement.influence]
        for measurement in out.diagnostics.measurements
    ]  # type: ignore[union-attr]
    torch.testing.assert_close(mean, sum(torch.stack(measurement) for measurement in rows) / 4)  # type: ignore[arg-type]
    for k in range(5):
        for j in range(5):
            if names[j] == LIAR:
                assert mean[k, j] < 0 or k == j
            else:
                assert mean[k, j] > 0 or k == j


# --- who hears nobody, and who sees nothing --------------------------------------------------------


def test_who_hears_nobody_is_influenced_by_nobody(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "edges.txt").write_text("cameras/0 cameras/1\nmicrophones/1 cameras/1")
    logger = CSVLogger(tmp_path / "log")
    graph = EdgeList(str(tmp_path / "edges.txt"), directed=True)
    out = watch(SharedLogits(), graph, logger=logger, log_every_n_steps=1)
    assert_brute_force(out)
    assert out.influence.nonzero().tolist() == [[1, 0], [1, 4]]
    shared = out.diagnostics.measurements[-1].agreement
    assert shared is not None
    edges = logged(logger, "agreement/edges")
    assert math.isclose(edges[-1], (shared[1, 0] + shared[1, 4]).item() / 2, rel_tol=1e-6)

    (tmp_path / "edges.txt").write_text("")
    quiet = CSVLogger(tmp_path / "quiet")
    out = watch(SharedLogits(), EdgeList(str(tmp_path / "edges.txt")), logger=quiet, log_every_n_steps=1)
    assert not out.influence.any()
    with pytest.raises(KeyError):
        logged(quiet, "agreement/edges")


@pytest.mark.parametrize("topology", [Complete(), Star()])
def test_a_static_teacher_influences_others_and_listens_to_nobody(watch: Watch, topology: Any) -> None:
    plan = {"local_steps": {"cameras": ROUND, "microphones/0": ROUND, "microphones/1": 0}}
    found = watch(SharedLogits(), topology, plan=plan).influence
    assert not found[4].any()
    assert found[:4, 4].all()


def logged(logger: CSVLogger, key: str) -> list[float]:
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) if row[key]]


def test_who_has_no_validation_sample_is_not_probed(watch: Watch) -> None:
    """Nobody can know what helps it; of the others all is told."""

    class Gap(TinyDataDouble):
        def private(self, peer: str, split: str) -> Any:
            samples: Any = super().private(peer, split)
            return samples.subset([]) if split == "val" and peer == "cameras/1" else samples

    seen = watch(SharedLogits(), Complete(), data=Gap(batch_size=16))
    assert seen.influence[1].isnan().all()
    assert seen.influence[[0, 2, 3, 4]].isfinite().all()
    errors = seen.diagnostics.measurements[-1].calibration_error
    assert errors.isnan().tolist() == [False, True, False, False, False]


def blind(hidden: Tensor, blank: float) -> TinyDataDouble:
    """Microphones miss some public samples; something else stands there."""

    class Blind(TinyDataDouble):
        def public(self, split: str) -> Any:
            sound = torch.where(hidden[:, None], blank, self.public_x)
            return PublicSamples({"image": self.public_x, "audio": sound}, {"audio": ~hidden})

    return Blind(batch_size=16)


@each_once(
    knowledge={"logits": SharedLogits(), "heads": MultiHeadDistillation(**MHD)},
    vectorize=["never", "always"],
)
def test_missing_views_neither_teach_nor_are_taught(watch: Watch, knowledge: Any, vectorize: Any) -> None:
    hidden = torch.arange(PUBLIC) % 3 == 0
    out = watch(knowledge, Ring(), data=blind(hidden, 5.0), cohort={"vectorize": vectorize})
    assert_brute_force(out)
    shown = torch.ones(5, PUBLIC, dtype=torch.bool)
    shown[3:] = ~hidden
    logits = torch.stack([predicted(out.cohort, name) for name in out.cohort.names])
    measurement = out.diagnostics.measurements[-1]
    torch.testing.assert_close(measurement.agreement, agreement(logits, shown))
    torch.testing.assert_close(measurement.confidence, mean_confidence(logits, shown))
    for public in (out.teaching._public, out.diagnostics._public):
        public.views["audio"][hidden] = torch.nan
    cohort = out.cohort.eval()
    step = cohort.global_step
    again, _ = out.diagnostics._measure(cohort.peers, out.run.datamodule, out.teaching, cohort.head, step)
    assert same(measurement, again)


def predicted(cohort: Cohort, name: str) -> Tensor:
    """Logits of the main head on all public samples."""
    teaching = cohort.coordinator.lessons  # type: ignore[union-attr]
    view, _ = view_of(teaching._public, cohort.roster[0][name])
    with torch.no_grad():
        return copy.deepcopy(cohort.student(name)).eval().predict(view).logits


class Both(Classifier):
    """Reads two modalities; what it misses is 0."""

    modalities = ("audio", "image")

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=16, **kwargs)
        self.net = nn.Sequential(nn.Linear(2 * FEATURES, 16), nn.Tanh())

    def embed(self, x: Any) -> Tensor:
        views = [x[m] * x[f"shown/{m}"][:, None] if f"shown/{m}" in x else x[m] for m in self.modalities]
        return self.net(torch.cat(views, -1))


def test_peers_of_two_modalities_see_a_sample_by_either(watch: Watch) -> None:
    image, audio = (torch.arange(PUBLIC) % 4 != rest for rest in (1, 3))
    nothing = torch.arange(PUBLIC) < 8

    class Data(TinyDataDouble):
        def private(self, peer: str, split: str) -> Any:
            samples = self.pool.subset(range(100)) if split == "train" else self.held_out
            if "+" not in self.peers[peer]:
                return samples
            return Samples({"image": samples.x, "audio": samples.x}, samples.y)

        def public(self, split: str) -> Any:
            shown = {"image": image & ~nothing, "audio": audio & ~nothing}
            return PublicSamples({"image": self.public_x, "audio": self.public_x}, shown)

    peers = fleets(1, 1) | {"robots": Fleet(lambda n: Both(n), 2)}
    out = watch(SharedLogits(), Complete(), peers=peers, data=Data(batch_size=16))
    assert_brute_force(out)
    shown = torch.stack([image, audio, image | audio, image | audio]) & ~nothing
    logits = torch.stack([predicted(out.cohort, name) for name in out.cohort.names])
    torch.testing.assert_close(out.diagnostics.measurements[-1].agreement, agreement(logits, shown))


# --- calibration -----------------------------------------------------------------------------------


@each_once(head=["main", "last"], vectorize=["never", "always"])
def test_calibration_error_is_that_of_validation_samples(watch: Watch, head: Any, vectorize: Any) -> None:
    out = watch(SharedLogits(), cohort={"head": head, "vectorize": vectorize})
    errors = out.diagnostics.measurements[-1].calibration_error
    for name, error in zip(out.cohort.names, errors, strict=True):
        samples = out.run.datamodule.private(name, "val")
        with torch.no_grad():
            said = copy.deepcopy(out.cohort.student(name)).eval().predict(samples.x)
        logits = said.logits if head == "main" else said.auxiliary[-1]
        torch.testing.assert_close(error[None], calibration_error(logits.softmax(-1)[None], samples.y[None]))


def test_at_most_512_validation_samples_are_read_the_same_at_every_measure(watch: Watch) -> None:
    read: dict[str, list[Tensor]] = {}

    class Tall(TinyDataDouble):
        """Each peer has a validation set of its own, and says which part of it was read."""

        def private(self, peer: str, split: str) -> Any:
            if split == "train":
                return super().private(peer, split)
            size = 100 if peer == "cameras/0" else 600
            where = torch.arange(size) % len(self.held_out)

            class Kept(Samples):
                def take(self, indices: Tensor) -> Any:
                    if len(indices) != 512 or not torch.equal(
                        indices, torch.arange(512)
                    ):  # validation itself
                        read.setdefault(peer, []).append(indices)
                    return super().take(indices)

            return Kept(self.held_out.x[where], self.held_out.y[where])

    watch(SharedLogits(), peers=fleets(2, 1), data=Tall(batch_size=16), max_epochs=2)
    chosen = {peer: [i for i in found if len(i) == 512] for peer, found in read.items()}
    assert not chosen["cameras/0"]
    for peer in ("cameras/1", "microphones/0"):
        one, two = chosen[peer]
        assert torch.equal(one, two)
        assert len(one.unique()) == 512
    assert not torch.equal(chosen["cameras/1"][0], chosen["microphones/0"][0])


@pytest.mark.parametrize(("knowledge", "aggregation"), [(Prototypes(), None), (None, FedAvg()), (None, None)])
def test_without_public_knowledge_only_calibration_is_seen(
    watch: Watch, tmp_path: Path, knowledge: Any, aggregation: Any
) -> None:
    (measurement,) = watch(knowledge, aggregation=aggregation).diagnostics.measurements
    assert (measurement.confidence, measurement.agreement, measurement.influence) == (None, None, None)
    assert measurement.calibration_error.shape == (5,)
    kept = json.loads((tmp_path / "diagnostics.json").read_text())
    assert kept["influence"] is None
    assert not list(tmp_path.glob("*.png"))


def test_a_cohort_that_nobody_coordinates_is_seen_too(tmp_path: Path) -> None:
    cohort, diagnostics = Cohort(fleets(), CLASSES, vectorize="never"), Diagnostics(folder=tmp_path)
    trainer(diagnostics, max_epochs=1).fit(cohort, datamodule=TinyData(batch_size=16))
    assert len(diagnostics.measurements) == 1


# --- what teachers would say -----------------------------------------------------------------------


def eight_bits() -> Knowledge:
    return SharedLogits(samples="all", include_self=False, wire=EightBits())


def top_classes() -> Knowledge:
    return MultiHeadDistillation(**MHD, samples="all", wire=TopClasses(2), confident=0.5)


@pairwise(knowledge=[eight_bits, top_classes], topology=[Ring(), Star()], serialise=[False, True])
def test_what_is_overheard_is_what_is_heard(
    watch: Watch, knowledge: Any, topology: Any, serialise: bool
) -> None:
    """An exchange right after it gives listeners the same, and only that one costs anything."""
    data = blind(torch.arange(PUBLIC) % 2 == 0, 5.0)
    out = watch(knowledge(), topology, data=data, transport=LocalTransport(serialise=serialise))
    before = copy.deepcopy((out.callback.ledger, out.teaching.state_dict(), out.cohort.state_dict()))
    heard, hears, own = out.teaching.overhear(out.cohort.global_step)
    assert same(before, (out.callback.ledger, out.teaching.state_dict(), out.cohort.state_dict()))

    listened: list[Any] = []
    listen = out.teaching.knowledge.listen
    out.teaching.knowledge.listen = lambda *args: listened.append(args) or listen(*args)
    out.teaching.share(2 * ROUND - 1)
    assert out.callback.ledger != before[0]
    ((really, whom, who),) = listened
    assert torch.equal(hears, whom)
    assert torch.equal(own, who)
    assert list(heard) == list(really)
    for name, (values, spoke) in heard.items():
        assert torch.equal(spoke, really[name].spoke)
        assert torch.equal(values[spoke], really[name].values[spoke])
        assert spoke.any()
        assert not spoke.all()


def test_a_collective_is_overheard_once(watch: Watch) -> None:
    """Cameras 0 to 2 and microphones 3 and 4 each speak through their hub, so the first says it for all."""
    out = watch(
        SharedLogits(samples="all", include_self=True), Star(), aggregation=FedAvg(), between=Complete()
    )
    _, hears, own = out.teaching.overhear(out.cohort.global_step)
    assert hears.nonzero().tolist() == [[0, 3], [1, 3], [2, 3], [3, 0], [4, 0]]
    assert own.nonzero().tolist() == [[0, 0], [1, 0], [2, 0], [3, 3], [4, 3]]
    assert_brute_force(out)


# --- training is the same --------------------------------------------------------------------------


def trace(seen: Seen) -> Any:
    """All that training leaves behind."""
    groups = list(seen.cohort.peers.groups)
    optimizers = [group.optimizer_state(row) for group in groups for row in range(len(group.names))]
    told = seen.teaching.state_dict() if seen.teaching is not None else None
    ledger = seen.callback.ledger
    return seen.cohort.state_dict(), optimizers, told, seen.cohort.metrics, ledger, torch.get_rng_state()


def same(one: Any, two: Any) -> bool:
    """Whether all is equal to the last bit."""
    (left, shape), (right, other) = tree_flatten(one), tree_flatten(two)
    return shape == other and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(left, right, strict=True)
    )


METHODS: dict[str, dict[str, Any]] = {
    "batch": {"knowledge": SharedLogits(), "topology": Ring()},
    "all": {"knowledge": SharedLogits(samples="all", teachers=2, wire=EightBits()), "topology": Complete()},
    "heads": {"knowledge": MultiHeadDistillation(**MHD, samples="all", pool=2, recall=1), "topology": Ring()},
    "prototypes": {"knowledge": Prototypes(), "topology": Star()},
    "sampled": {
        "knowledge": SharedLogits(),
        "topology": Star(),
        "aggregation": FedAvg(),
        "participation": Sampled(count=1),
    },
}


@each_once(method=list(METHODS), vectorize=["never", "always"])
def test_training_is_the_same_bit_for_bit(watch: Watch, tmp_path: Path, method: str, vectorize: Any) -> None:
    """With dropout, normalisation statistics, and a validation in the middle of an epoch."""

    class Never(Diagnostics):
        def on_validation_epoch_end(self, *args: Any) -> None:
            pass

    traces = []
    for diagnostics in (Never(folder=tmp_path), Diagnostics(folder=tmp_path)):
        torch.manual_seed(0)
        out = watch(
            **copy.deepcopy(METHODS[method]),
            peers=fleets(heads=2, drop=0.3),
            data=TinyData(batch_size=16),
            cohort={"vectorize": vectorize},
            diagnostics=diagnostics,
            val_check_interval=1,
        )
        traces.append(trace(out))
    assert len(out.diagnostics.measurements) == 2
    assert same(*traces)


def test_who_sits_out_is_seen_where_it_is_evaluated_whatever_the_order_of_callbacks(tmp_path: Path) -> None:
    measurements = []
    for first in (True, False):
        cohort = Cohort(fleets(), CLASSES, vectorize="never")
        callback = DecentralizedCallback(
            SharedLogits(), FedAvg(), Star(), schedule(), participation=Sampled(count=1)
        )
        diagnostics = Diagnostics(folder=tmp_path)
        both = (diagnostics, callback) if first else (callback, diagnostics)
        trainer(*both, max_epochs=1).fit(cohort, datamodule=TinyData(batch_size=16))
        measurements.append(diagnostics.measurements[-1])
    one, two = measurements
    assert all(torch.equal(a, b) for a, b in zip(one[1:], two[1:], strict=True))
    assert one.agreement is not None
    assert (one.agreement[:3, :3] == 1).all()  # all cameras stand where their hub stands


# --- files, logs and checkpoints -------------------------------------------------------------------


def test_files(watch: Watch, tmp_path: Path) -> None:
    """Two measurements in four epochs; what is written is what was seen."""
    folder = tmp_path / "deep" / "down"
    hidden = torch.arange(PUBLIC) < 50

    class Apart(TinyDataDouble):
        """Cameras and microphones have no public sample in common, which JSON has no number for."""

        def public(self, split: str) -> Any:
            return PublicSamples(
                {"image": self.public_x, "audio": self.public_x}, {"image": hidden, "audio": ~hidden}
            )

    logger = CSVLogger(tmp_path / "log")
    out = watch(
        SharedLogits(),
        Ring(),
        data=Apart(batch_size=16),
        diagnostics=Diagnostics(2, str(folder)),
        draws=True,
        logger=logger,
        log_every_n_steps=1,
        max_epochs=4,
    )
    assert sorted(file.name for file in folder.iterdir()) == [
        "agreement.png",
        "diagnostics.json",
        "influence.png",
    ]
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    kept = json.loads((folder / "diagnostics.json").read_text())
    assert kept["peers"] == out.cohort.roster[0]
    assert [measurement["step"] for measurement in kept["measurements"]] == [4 * ROUND, 8 * ROUND]
    assert kept["influence"] == out.diagnostics.influence.tolist()  # type: ignore[union-attr]
    for written, measurement in zip(kept["measurements"], out.diagnostics.measurements, strict=True):
        assert list(written) == list(measurement._fields)
        assert written["influence"] == measurement.influence.tolist()  # type: ignore[union-attr]
        assert written["calibration_error"] == measurement.calibration_error.tolist()
        assert written["agreement"][0][4] is None
        assert written["agreement"][3][4] == measurement.agreement[3, 4].item()  # type: ignore[index]
    last = out.diagnostics.measurements[-1]
    assert last.agreement is not None
    pairs = last.agreement[[0, 0, 1], [1, 2, 2]]
    assert logged(logger, "agreement/image-image")[-1] == pytest.approx(pairs.mean().item())
    with pytest.raises(KeyError):  # nobody can know
        logged(logger, "agreement/audio-image")
    for i, name in enumerate(out.cohort.names):
        assert logged(logger, f"peer/{name}/val/calibration_error")[-1] == pytest.approx(
            last.calibration_error[i].item()
        )
        assert logged(logger, f"peer/{name}/public/confidence")[-1] == pytest.approx(
            last.confidence[i].item()
        )  # type: ignore[index]


def test_agreement_between_modalities_is_logged(watch: Watch, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "log")
    diagnostics = Diagnostics()
    out = watch(SharedLogits(), Ring(), diagnostics=diagnostics, logger=logger, log_every_n_steps=1)
    assert diagnostics.folder == Path(logger.log_dir)
    assert (Path(logger.log_dir) / "diagnostics.json").exists()
    shared = out.diagnostics.measurements[-1].agreement
    assert shared is not None
    assert logged(logger, "agreement/audio-image") == [pytest.approx(shared[3:, :3].mean().item())]
    assert logged(logger, "agreement/audio-audio") == [pytest.approx(shared[3, 4].item())]


def test_a_resumed_run_has_seen_the_same(watch: Watch, tmp_path: Path) -> None:
    """Saved in the first epoch, in the second, and after the first measurement; a block is a round."""

    def run(**kwargs: Any) -> Seen:
        return watch(
            SharedLogits(samples="all"),
            Ring(),
            data=TinyData(batch_size=16),
            cohort={"vectorize": "always"},
            diagnostics=Diagnostics(2, tmp_path),
            max_epochs=4,
            **kwargs,
        )

    saved = {blocks: tmp_path / f"{blocks}.ckpt" for blocks in (1, 3, 5)}
    measurements = run(extra=[Save(path, blocks) for blocks, path in saved.items()]).diagnostics.measurements
    assert [measurement.step for measurement in measurements] == [4 * ROUND, 8 * ROUND]
    for path in saved.values():
        again = run(ckpt_path=path).diagnostics.measurements
        assert [measurement.step for measurement in again] == [
            measurement.step for measurement in measurements
        ]
        for a, b in zip(measurements, again, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))


def test_it_looks_at_least_every_validation() -> None:
    with pytest.raises(ConfigError, match="every must be at least 1, not 0"):
        Diagnostics(0)


CONFIG = """
data: {class_path: tests.tiny.TinyData, init_args: {batch_size: 16}}
model:
  vectorize: always
  peers:
    cameras: {count: 2, student: {class_path: tests.tiny.Eye}}
    microphones: {count: 2, student: {class_path: tests.tiny.Ear}}
decentralized:
  topology: {class_path: Ring}
  knowledge: {class_path: SharedLogits}
  schedule: {local_steps: 3}
trainer:
  accelerator: cpu
  max_epochs: 4
  logger: {class_path: mmkd.callbacks.tracking.Wandb}
  callbacks:
    - {class_path: mmkd.callbacks.Diagnostics, init_args: {every: 2}}
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
"""


class Noted(WandbLogger):
    """Weights & Biases without a run: it keeps what it is given."""

    name, version, log_dir, save_dir = "noted", "0", None, None

    def __init__(self) -> None:
        self.images: dict[str, bytes] = {}
        self.figures: dict[str, float] = {}

    def log_image(self, key: str, images: list[Any], *args: Any, **kwargs: Any) -> None:
        (self.images[key],) = (Path(image).read_bytes() for image in images)

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.figures |= metrics

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        return

    def finalize(self, status: str) -> None:
        return


def test_pictures_and_numbers_go_to_weights_and_biases(watch: Watch, tmp_path: Path) -> None:
    logger = Noted()
    watch(SharedLogits(), Ring(), logger=logger, draws=True)
    assert logger.images == {
        f"diagnostics/{name}": (tmp_path / f"{name}.png").read_bytes() for name in ("agreement", "influence")
    }
    assert {"agreement/edges", "agreement/audio-image"} <= set(logger.figures)
    assert "peer/cameras/0/val/calibration_error" in logger.figures


@pytest.mark.long
def test_from_a_configuration_into_weights_and_biases(tmp_path: Path) -> None:
    """Offline, without a login: both pictures and the numbers are in the run."""
    (tmp_path / "run.yaml").write_text(CONFIG)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-m", "mmkd", "fit", "-c", str(tmp_path / "run.yaml")]
    run = subprocess.run(
        [*command, f"--recorder.folder={tmp_path}"],
        cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert len(json.loads((tmp_path / "diagnostics.json").read_text())["measurements"]) == 2
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    pictures = {file.read_bytes() for file in folder.rglob("*.png")}
    assert pictures == {(tmp_path / f"{name}.png").read_bytes() for name in ("agreement", "influence")}
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", "--summary", str(folder)]
    summary = subprocess.run(inspect, env=environment, capture_output=True, text=True, check=True)
    read = json.loads(summary.stdout)["summary"]
    assert {"agreement/edges", "agreement/audio-image", "peer/cameras/0/val/calibration_error"} <= set(read)
