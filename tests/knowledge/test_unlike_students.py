"""Multi-Headed Distillation among students who differ: what is refused, and what trains together."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path as File
from typing import Any

import pytest
import torch

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Fleet
from mmkd.knowledge import MultiHeadDistillation, SharedLogits
from mmkd.topology import Complete, EdgeList
from mmkd.types import Classes, ConfigError, Predictions
from tests.knowledge.worlds import learn
from tests.tiny import CLASSES, Ear, Eye, sgd

# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"nu_emb": -0.1}, "nu_emb must be at least 0"),
        ({"nu_aux": -1.0}, "nu_aux must be at least 0"),
        ({"nu_emb": 0.0, "nu_aux": 0.0}, "one above 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"teachers": 0}, "teachers must be at least 1"),
        ({"confident": 1.5}, "confident must lie in"),
        ({"digest": 0, "samples": "all"}, "digest must be at least 1"),
        ({"digest": 2}, "needs samples: all"),
        ({"pretrain": -1}, "pretrain must be at least 0"),
    ],
)
def test_settings_without_meaning_are_refused(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MultiHeadDistillation(**kwargs)


def shapes(**heads: int) -> dict[str, Predictions]:
    """What peers with so many heads, and embeddings of size 5, predict on one sample."""
    return {
        peer: Classes(torch.zeros(1, 1, 3), torch.zeros(1, n, 1, 3), torch.zeros(1, 1, 5))
        for peer, n in heads.items()
    }


def wide(some: dict[str, Predictions], peer: str, dim: int) -> dict[str, Predictions]:
    return some | {peer: some[peer]._replace(embedding=torch.zeros(1, 1, dim))}


@pytest.mark.parametrize(
    ("kwargs", "given", "said"),
    [
        ({}, shapes(a=0, b=0), "teaches auxiliary heads, and no student has any"),
        ({}, shapes(a=3, b=1, c=2), "'a' has 3 auxiliary heads, but nobody else could teach more than 2"),
        ({}, shapes(a=2, b=0), "'a' has 2 auxiliary heads, but nobody else could teach more than 1"),
        ({"level": "same"}, shapes(a=2, b=1), "'a' has 2 auxiliary heads"),
        ({"nu_emb": 1.0}, wide(shapes(a=1, b=1), "b", 7), "no two students have embeddings of one size"),
    ],
)
def test_students_whom_nobody_can_teach_are_refused(kwargs: Any, given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MultiHeadDistillation(**kwargs).check(given)


@pytest.mark.parametrize(
    ("kwargs", "given"),
    [
        ({}, shapes(a=1, b=0)),  # b's main head teaches a
        ({}, shapes(a=3, b=3, c=1)),
        ({}, shapes(a=4)),  # alone, as with any knowledge
        ({"nu_aux": 0.0, "nu_emb": 1.0}, shapes(a=0, b=0)),
        ({"nu_emb": 0.0}, wide(shapes(a=1, b=1), "b", 7)),
        ({"nu_emb": 1.0}, wide(shapes(a=1, b=1, c=1), "b", 7)),
    ],
)
def test_students_whom_somebody_can_teach_are_not(kwargs: Any, given: Any) -> None:
    MultiHeadDistillation(**kwargs).check(given)


# --- through training ------------------------------------------------------------------------------


def two_kinds(eyes: int, ears: int, optimizer: Any = None) -> dict[str, Fleet]:
    """Two cameras and two microphones with so many heads."""
    how = {"optimizer": optimizer or sgd(0.5)}
    return {
        "cameras": Fleet(lambda n: Eye(n, heads=eyes, **how), 2),
        "microphones": Fleet(lambda n: Ear(n, heads=ears, **how), 2),
    }


@pytest.mark.leanest_too
@pytest.mark.parametrize("vectorize", ["always", pytest.param("never", marks=pytest.mark.long)])
def test_students_with_unequal_numbers_of_heads_train_together(vectorize: Any) -> None:
    """Cameras say their heads 0 and 1, microphones their head 0: (2 + 2 + 1 + 1) x 3 listeners each."""
    out = learn(
        MultiHeadDistillation(), Complete(), peers=two_kinds(2, 0), ticks=4, every=2, vectorize=vectorize
    )
    assert out.callback.ledger.total("logits") == 2 * (2 + 2 + 1 + 1) * 3 * 16 * CLASSES * 4
    alone = learn(None, peers=two_kinds(2, 0), ticks=4, vectorize=vectorize)
    assert out.who_differs(alone) == {"cameras/0", "cameras/1"}  # microphones have nothing to learn with


def test_at_the_same_level_who_has_no_auxiliary_heads_has_nothing_to_say() -> None:
    out = learn(MultiHeadDistillation(level="same"), Complete(), peers=two_kinds(2, 0), ticks=4, every=2)
    assert out.callback.ledger.total("logits") == 2 * (2 + 2) * 3 * 16 * CLASSES * 4


def test_heads_that_nobody_has_taught_anything_stay_as_they_were(tmp_path: File) -> None:
    """Beside others of their group they get gradients of zero, with which Adam does not move them.

    Weight decay would, as it does any parameter whose gradient is zero.
    """

    def decaying(parameters: Any) -> Any:
        return torch.optim.Adam(parameters, lr=1e-2)

    file = tmp_path / "edges.txt"
    file.write_text("cameras/0 cameras/1")
    topology = EdgeList(str(file), directed=True)
    peers = two_kinds(2, 2, decaying)
    alone = learn(None, topology, peers=peers, ticks=3)
    for knowledge in (SharedLogits(include_self=False, into="auxiliary"), MultiHeadDistillation()):
        heard = learn(knowledge, topology, peers=peers, ticks=3)
        assert heard.who_differs(alone) == {"cameras/1"}


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_while_only_peers_teach_the_main_head_rests(vectorize: Any) -> None:
    """It learns from private samples alone, so a tick without them has no step for it, not even of momentum."""
    main = []

    class Watched(DecentralizedCallback):
        def on_fit_start(self, trainer: Any, cohort: Any) -> None:
            super().on_fit_start(trainer, cohort)
            tick = cohort._tick

            def watched(*args: Any) -> None:
                main.append(cohort.student("cameras/0").main.weight.detach().clone())
                tick(*args)

            cohort._tick = watched

    peers = two_kinds(2, 2, torch.optim.Adam)
    knowledge = MultiHeadDistillation(samples="all", digest=2)
    learn(knowledge, peers=peers, ticks=9, every=3, vectorize=vectorize, coordinate=Watched)
    moved = [not torch.equal(before, after) for before, after in pairwise(main)]
    # Nothing has been said before tick 3; of ticks 3 to 5 and 6 to 8 the first two are of peers alone.
    assert moved == [True, True, True, False, False, True, False, False]
