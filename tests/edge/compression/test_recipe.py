"""Recipes: who heals when, what is learned of whom, and what is refused in a line."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.samples import PublicSamples
from mmkd.edge.asking import Cascade
from mmkd.edge.compression import lessons
from mmkd.edge.compression.healing import PrivateHealing
from mmkd.edge.compression.lessons import from_answers, from_itself, from_neighbours
from mmkd.edge.compression.recipe import Recipe, compressed
from mmkd.edge.graph import Graph
from mmkd.edge.trained import Trained
from mmkd.students import DetectionStudent, Student
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Ear, Eye, TinyData, fit, schedule

pytest.importorskip("torch_pruning")


class TwoViews(TinyData):
    """Ears perceive the opposite of what eyes see."""

    def public(self, split: str) -> Any:
        return PublicSamples({"image": self.public_x, "audio": -self.public_x})


@pytest.fixture(scope="module")
def run() -> Trained:
    """Two eyes and an ear of few steps."""
    fleets = {"eyes": Fleet(lambda n: Eye(n, drop=0.1), 2), "ears": Fleet(lambda n: Ear(n, drop=0.0), 1)}
    cohort, data = Cohort(fleets, CLASSES, vectorize="never"), TwoViews(batch_size=16)
    fit(cohort, DecentralizedCallback(schedule=schedule(rounds_per_epoch=1)), data, max_epochs=1)
    return Trained("run", "last.ckpt", cohort, data)


def same(a: Student, b: Student) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_local_steps_are_dealt() -> None:
    """To all that heal alike, the rest to the last; to ``heal`` alone, where it stands; or first."""

    def dealt(*words: str) -> list[tuple[str, int]]:
        return [(type(step).__name__, steps) for step, steps in Recipe(words, heal=101).parts()]

    assert dealt("prune:0.7", "int8-aware") == [("Pruned", 50), ("Aware", 51)]
    assert dealt("sparse:0.7", "int8") == [("Sparse", 101), ("Quantised", 0)]
    assert dealt("prune:0.7", "heal", "lowrank:0.1", "heal") == [
        ("Pruned", 0), ("Heal", 50), ("LowRank", 0), ("Heal", 51),
    ]  # fmt: skip
    assert dealt("int8") == [("Heal", 101), ("Quantised", 0)]
    assert dealt() == [("Heal", 101)]
    assert Recipe(["prune:0.7"]).format == "onnx"
    assert Recipe(["int8-aware", "prune:0.7"]).format == Recipe(["int8"]).format == "int8"


@pytest.mark.parametrize("words", [[], ["int8"], ["int8-aware"], ["heal"]])
def test_without_steps_nothing_changes(run: Trained, words: list[str]) -> None:
    student = run.student("eyes/0")
    recipe = Recipe(words, heal=1)
    for step, _ in recipe.parts():
        step(PrivateHealing(student, run.data, "eyes/0", None, steps=1, rate=1.0), 0)
    assert same(student, run.student("eyes/0"))


def test_a_recipe_gives_the_same_student_again(run: Trained) -> None:
    """And another without the lesson; the run keeps its own, and neither student depends on what came before."""
    before = run.student("eyes/1")
    recipe = Recipe(["prune:0.5", "int8-aware"], distil="neighbours", heal=12)
    first = compressed(run, "eyes/1", recipe)
    torch.manual_seed(7)
    assert same(first, compressed(run, "eyes/1", recipe))
    alone = compressed(run, "eyes/1", Recipe(["prune:0.5", "int8-aware"], heal=12))
    assert not same(first, alone)
    assert same(before, run.student("eyes/1"))
    assert not first.training


def test_orders_differ(run: Trained) -> None:
    """What is pruned behind the healing is not healed."""
    first = compressed(run, "eyes/0", Recipe(["heal", "prune:0.5"], distil="self", heal=8))
    last = compressed(run, "eyes/0", Recipe(["prune:0.5", "heal"], distil="self", heal=8))
    assert [p.shape for p in first.parameters()] == [p.shape for p in last.parameters()]
    assert not same(first, last)


def chances(z: Tensor, t: float) -> Any:
    e = np.exp(z.detach().double().numpy() / t)
    return e / e.sum(-1, keepdims=True)


def divergence(p: Any, z: Tensor, t: float) -> float:
    """T^2 KL, a mean over samples."""
    return float(t**2 * (p * (np.log(p) - np.log(chances(z, t)))).sum(-1).mean())


def test_lessons_by_hand(run: Trained) -> None:
    """Public samples of a step and what the others say of them, each of its own view: eyes and ears."""
    students = {peer: run.student(peer) for peer in run.data.peers}
    batch = run.data.reader("eyes/0", "train").batch(torch.arange(4), 0)
    own, other = students["eyes/0"], students["eyes/1"]
    lesson = from_neighbours(students, run.data, "eyes/0")
    x = run.data.public_x[lesson.order(range(3, 4))[0]]  # type: ignore[attr-defined]
    told = (chances(other(x), 2) + chances(students["ears/0"](-x), 2)) / 2
    assert float(lesson(own, batch, 3).detach()) == pytest.approx(divergence(told, own(x), 2), rel=1e-4)

    itself = from_itself(run.student("eyes/0"), run.data, "eyes/0")
    assert float(itself(own, batch, 0).detach()) == pytest.approx(0, abs=1e-5)
    order = lessons._order(run.data, "public of eyes/0", 100)
    x = run.data.public_x[order(range(1))[0]]  # type: ignore[attr-defined]
    public = divergence(chances(own(x), 2), other(x), 2)
    private = divergence(chances(own(batch.x), 2), other(batch.x), 2)
    assert float(itself(other, batch, 0).detach()) == pytest.approx((public + private) / 2, rel=1e-4)


def test_a_device_learns_what_it_was_told(run: Trained, tmp_path: Path) -> None:
    """Others call all samples of one kind what it never does, and then it does so, too."""
    device = Cascade(Graph(run.student("eyes/0")), None, "edge", "eyes/0", ["ears/0"], threshold=0.5)
    x = run.data.public_x[:40] + 3  # type: ignore[attr-defined]
    student = run.student("eyes/0")
    odd = int(student(x).softmax(-1).mean(0).argmin())
    told = torch.full((3,), 0.05).scatter(0, torch.tensor(odd), 0.9)
    device._heard = deque(((x[i : i + 1],), told) for i in range(40))
    assert device.save(tmp_path / "heard") == 40
    found = compressed(run, "eyes/0", Recipe(distil=str(tmp_path / "heard"), heal=100, rate=3.0))
    before, after = (float(s(x).detach().softmax(-1)[:, odd].mean()) for s in (student, found))
    assert after > before + 0.3
    lesson = from_answers(tmp_path / "heard", student, run.data, "eyes/0", x[:1])
    z = student(x[lesson.order(range(1))[0]])  # type: ignore[attr-defined]
    assert float(lesson(student, None, 0).detach()) == pytest.approx(  # type: ignore[arg-type]
        divergence(told.double().numpy(), z, 1), rel=1e-4
    )
    with pytest.raises(ConfigError, match="holds no answers about what 'ears/0' reads: audio, of 3 classes"):
        compressed(run, "ears/0", Recipe(distil=str(tmp_path / "heard"), heal=1))
    (tmp_path / "heard").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="heard holds no answers: not a payload"):
        compressed(run, "eyes/0", Recipe(distil=str(tmp_path / "heard"), heal=1))


@pytest.mark.parametrize(
    ("steps", "how", "said"),
    [
        (["prun:0.7"], {}, "there is no step 'prun:0.7'; did you mean prune"),
        (["prune"], {}, "'prune' says no share: write such as prune:0.7"),
        (["sparse:most"], {}, "'sparse:most' says no share"),
        (["int8:0.7"], {}, "there is no step 'int8:0.7'"),
        (["prune:1.0"], {}, r"Pruned: share must lie in \[0, 1\), not 1"),
        (["int8", "prune:0.7"], {}, "int8 is the last step"),
        (["int8-aware", "int8"], {}, "leave int8 out"),
        (["sparse:0.7", "lowrank:0.3"], {}, "lowrank fills the zeros that sparse has made"),
        (["prune:0.7"], {"distil": "self"}, "distil is 'self', and heal is 0"),
        (["heal"], {}, "'heal' is among the steps, and heal is 0"),
        ([], {"heal": -1}, "Recipe: heal must be at least 0"),
    ],
)
def test_recipes_without_a_meaning_are_a_line(steps: list[str], how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Recipe(steps, **how)


class Stubborn(Eye):
    """Relies on the number of its channels."""

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x).view(-1, 16)


def test_what_cannot_be_is_a_line(run: Trained) -> None:
    with pytest.raises(
        ConfigError, match="distil is 'neighbors', and there is no such file: choose none, self"
    ):
        compressed(run, "eyes/0", Recipe(distil="neighbors", heal=1))
    alone = {"eyes/0": run.student("eyes/0")}
    with pytest.raises(ConfigError, match="'eyes/0' is alone and has no neighbours"):
        from_neighbours(alone, run.data, "eyes/0")
    with pytest.raises(ConfigError, match="a DetectionStudent, which says no probabilities of classes"):
        from_neighbours({**alone, "eyes/1": DetectionStudent(1)}, run.data, "eyes/0")
    stubborn = run._replace(compressed={"eyes/0": Stubborn(CLASSES).eval()})
    with pytest.raises(
        ConfigError, match=r"Stubborn (cannot be pruned|does not run any more behind prune:0\.5): "
    ):
        compressed(stubborn, "eyes/0", Recipe(["prune:0.5"]))
