"""What is logged of one peer, and of thousands."""

from __future__ import annotations

import pytest

from mmkd.cohort import Cohort, Fleet
from mmkd.cohort import reading as module
from mmkd.evaluation import logged as metrics
from mmkd.evaluation.logged import by_peer
from tests.tiny import CLASSES, Eye, TinyData, trainer


def test_few_peers_are_listed() -> None:
    assert by_peer("loss", {"a/0": 1.0, "a/1": 3.0}) == {"peer/a/0/loss": 1.0, "peer/a/1/loss": 3.0}


def test_of_many_is_told_how_they_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "LISTED", 4)
    # Of 0, 1, 2, 3, 4 in any order the quartiles are members.
    found = by_peer("loss", {f"a/{i}": float(v) for i, v in enumerate([3, 0, 4, 1, 2])})
    names = ("min", "q25", "median", "q75", "max")
    assert found == {f"peers/loss/{name}": float(v) for v, name in enumerate(names)}


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_evaluated_some_at_a_time(vectorize: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is held beside a peer, its accuracy is its own."""
    found = []
    for together in (512, 2):
        monkeypatch.setattr(module, "TOGETHER", together)
        cohort = Cohort({"eyes": Fleet(Eye, 5)}, CLASSES, vectorize=vectorize, init="own")  # type: ignore[arg-type]
        trainer().test(cohort, datamodule=TinyData(batch_size=16), verbose=False)
        found.append(cohort.metrics)
    assert len(found[0]) == 5
    assert found[0] == found[1]
    assert len({m["shared_accuracy"] for m in found[0].values()}) > 1
