"""The contracts of a cohort, through ``Trainer.fit``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import FedAvg
from mmkd.knowledge import SharedLogits
from mmkd.topology import Complete, Ring, Star
from mmkd.types import ConfigError, DivergedError
from tests.tiny import CLASSES, Ear, Eye, TinyData, TinyDataDouble, fit, fleets, schedule, sgd, trainer


def both() -> DecentralizedCallback:
    return DecentralizedCallback(SharedLogits(), FedAvg(), Star(), schedule())


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize(("clip", "with_callback"), [(None, False), (0.5, True)])
def test_isolation_is_exact(clip: float | None, with_callback: bool) -> None:
    """Exchange off, a peer equals the same student trained alone, dropout and BatchNorm included."""
    cohort = Cohort(fleets(prior_correction=1.0), CLASSES, vectorize="never", clip=clip)
    alone = {name: copy.deepcopy(cohort.student(name)) for name in cohort.names}
    run = fit(cohort, DecentralizedCallback(schedule=schedule(local_steps=10)) if with_callback else None, max_epochs=1)
    data = TinyData(batch_size=16, peers=cohort.roster[0])
    data.setup("fit")
    for name, student in alone.items():
        steps = run.global_step
        lone = trainer(max_epochs=-1, max_steps=steps, gradient_clip_val=clip)
        lone.fit(student, datamodule=data.only(name))
        assert equal(student.state_dict(), cohort.student(name).state_dict()), name
        assert int(student.net[1].num_batches_tracked) == steps


def test_adding_a_peer_changes_nobody_else() -> None:
    """Given the same private data: the microphones do not notice how many cameras there are."""
    states = []
    for eyes in (2, 3):
        cohort = Cohort(fleets(eyes=eyes), CLASSES, vectorize="never")
        fit(cohort, max_epochs=1)
        states.append({n: cohort.student(n).state_dict() for n in ("microphones/0", "microphones/1")})
    for name in states[0]:
        assert equal(states[0][name], states[1][name])


@pytest.mark.parametrize(
    ("topology", "vectorize"), [(Star(), "never"), (Ring(), "always"), (Complete(), "never")]
)
def test_order_and_names_of_peers_change_nothing(vectorize: Any, topology: Any) -> None:
    """Fleets listed in another order, and renamed with their ids kept, give the same weights."""
    ids = {"a": ["x0", "x1", "x2"], "b": ["y0", "y1"]}
    eye, ear = (lambda n: Eye(n)), (lambda n: Ear(n))
    first = {"cameras": Fleet(eye, 3, ids["a"]), "microphones": Fleet(ear, 2, ids["b"])}
    second = {"ears": Fleet(ear, 2, ids["b"]), "eyes": Fleet(eye, 3, ids["a"])}
    states = []
    for peers in (first, second):
        cohort = Cohort(peers, CLASSES, vectorize=vectorize)
        callback = DecentralizedCallback(SharedLogits(), FedAvg(), topology, schedule())
        fit(cohort, callback, max_epochs=1)
        states.append({cohort.ids[n]: cohort.student(n).state_dict() for n in cohort.names})
    assert states[0].keys() == states[1].keys()
    for ident in states[0]:
        assert equal(states[0][ident], states[1][ident]), ident


def test_exchange_changes_the_weights() -> None:
    """Without this, every other contract would hold for a coordinator that does nothing."""
    states = []
    for callback in (
        DecentralizedCallback(schedule=schedule()),
        DecentralizedCallback(SharedLogits(), schedule=schedule()),
        DecentralizedCallback(None, FedAvg(), schedule=schedule()),
        DecentralizedCallback(SharedLogits(samples="all"), schedule=schedule()),
        both(),
    ):
        cohort = Cohort(fleets(), CLASSES, vectorize="never")
        fit(cohort, callback, max_epochs=1)
        states.append(cohort.student("cameras/0").state_dict()["main.weight"])
    for i, a in enumerate(states):
        for b in states[:i]:
            assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("optimizer", "tolerance"), [(None, 1e-8), (sgd(0.05, momentum=0.9, nesterov=True), 1e-10)]
)
def test_vectorised_equals_one_after_the_other(optimizer: Any, tolerance: float) -> None:
    """Weights after 21 float64 steps with unequal work, clipping, knowledge and averaging."""
    extra = {} if optimizer is None else {"optimizer": optimizer}
    states = []
    for vectorize in ("never", "always"):
        cohort = Cohort(fleets(drop=0.0, **extra), CLASSES, vectorize=vectorize, clip=1.0).double()  # type: ignore[arg-type]
        work = {"cameras": 7, "cameras/1": 4, "microphones": 5}
        callback = DecentralizedCallback(
            SharedLogits(), FedAvg(optimizer_state="keep"), Ring(), schedule(local_steps=work)
        )
        fit(cohort, callback, TinyDataDouble(batch_size=16), max_epochs=2, max_steps=21)
        states.append({n: cohort.student(n).state_dict() for n in cohort.names})
    for name, state in states[0].items():
        for n, tensor in state.items():
            torch.testing.assert_close(states[1][name][n], tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_a_peer_that_sits_out_stays_as_it_is(vectorize: Any) -> None:
    """With fewer local steps a peer's weights, counters and optimizer state match a shorter run."""
    cohort = Cohort(fleets(drop=0.0), CLASSES, vectorize=vectorize)
    work = schedule(local_steps={"cameras": 6, "cameras/0": 2, "microphones": 6}, rounds_per_epoch=1)
    fit(cohort, DecentralizedCallback(schedule=work), max_epochs=1)
    short = Cohort(fleets(drop=0.0), CLASSES, vectorize=vectorize)
    fit(short, DecentralizedCallback(schedule=schedule(local_steps=2, rounds_per_epoch=1)), max_epochs=1)
    name = "cameras/0"
    tolerance = 0.0 if vectorize == "never" else 1e-6
    for n, tensor in short.student(name).state_dict().items():
        torch.testing.assert_close(
            cohort.student(name).state_dict()[n], tensor, rtol=tolerance, atol=tolerance
        )
    (group, row), (other, place) = cohort.axis.locate(name), short.axis.locate(name)
    assert group.optimizer_state(row)["clock"] == other.optimizer_state(place)["clock"] == 2
    assert cohort.axis.locate("cameras/1")[0].optimizer_state(1)["clock"] == 6


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_clipping_is_per_peer(vectorize: Any) -> None:
    """With plain SGD at rate 1 the first step moves each peer by at most the limit, and a peer with a
    huge gradient takes nothing from the others: one scaled peer leaves the rest as they were."""
    limit = 0.01
    cohort = Cohort(fleets(drop=0.0, optimizer=sgd(1.0)), CLASSES, vectorize=vectorize, clip=limit)
    before = {n: copy.deepcopy(cohort.student(n)) for n in cohort.names}
    fit(cohort, max_steps=1, max_epochs=1, limit_train_batches=1,
        callback=DecentralizedCallback(schedule=schedule(local_steps=1, rounds_per_epoch=1)))  # fmt: skip
    for name, old in before.items():
        new = dict(cohort.student(name).named_parameters())
        moved = sum(float((new[n] - p).detach().square().sum()) for n, p in old.named_parameters()) ** 0.5
        # Every gradient here is far above the limit, so every peer moves by the limit itself.
        assert moved == pytest.approx(limit, rel=1e-3), name


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_learning_rates_are_per_peer(vectorize: Any) -> None:
    """One SGD step from equal weights on the same data: the displacement is proportional to the rate."""
    scales = [1.0, 0.5, 0.0] if vectorize == "never" else [1.0, 0.5, 2.0]
    peers = {"cameras": Fleet(lambda n: Eye(n, drop=0.0, optimizer=sgd(0.1)), 3, None, scales)}
    cohort = Cohort(peers, CLASSES, vectorize=vectorize).double()

    class Same(TinyDataDouble):
        def private(self, peer: str, split: str) -> Any:
            return self.held_out

        def assign(self, peers: Any, ids: Any = None) -> None:
            super().assign(peers, dict.fromkeys(peers, "one"))

    start = copy.deepcopy(cohort.student("cameras/0"))
    fit(cohort, DecentralizedCallback(schedule=schedule(local_steps=1, rounds_per_epoch=1)),
        Same(batch_size=16), max_epochs=1)  # fmt: skip
    for n, p in start.named_parameters():
        base = dict(cohort.student("cameras/0").named_parameters())[n] - p
        for k, scale in enumerate(scales):
            moved = dict(cohort.student(f"cameras/{k}").named_parameters())[n] - p
            torch.testing.assert_close(moved, scale * base, rtol=1e-12, atol=1e-14)


def test_the_peer_that_diverged_is_named() -> None:
    class Mad(Eye):
        def private_loss(self, batch: Any) -> Tensor:
            return super().private_loss(batch) * float("nan")

    peers = {**fleets(eyes=2), "mad": Fleet(lambda n: Mad(n), 1)}
    with pytest.raises(DivergedError, match="'mad/0' is nan at its local step 0"):
        fit(Cohort(peers, CLASSES, vectorize="never"))


def test_saved_student_loads_as_its_own_class(tmp_path: Any) -> None:
    cohort = Cohort(fleets(dim=20), CLASSES, vectorize="always")
    fit(cohort, max_epochs=1)
    cohort.save_student("cameras/1", tmp_path / "camera.ckpt")
    loaded = Eye.load_from_checkpoint(tmp_path / "camera.ckpt")
    assert equal(loaded.state_dict(), cohort.student("cameras/1").state_dict())


@pytest.mark.parametrize(
    ("peers", "message"),
    [
        ({}, "at least one fleet"),
        ({"a": Fleet(Eye, 0)}, "count 0"),
        ({"a": Fleet(Eye, 2, ["x"])}, "2 peers but 1 ids"),
        ({"a": Fleet(Eye, 1, ["x"]), "b": Fleet(Eye, 1, ["x"])}, "share the id x"),
        ({"a": Fleet(lambda n: Eye(n + 1), 1)}, "tells 4 classes apart"),
    ],
)
def test_bad_fleets_are_refused(peers: dict[str, Fleet], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Cohort(peers, CLASSES)
