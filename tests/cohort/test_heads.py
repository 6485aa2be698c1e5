"""Accuracy of every head and of their ensemble, counted by hand on students whose logits are given."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.peers import PeerDataModule
from mmkd.data.samples import PublicSamples, Samples
from mmkd.errors import ConfigError
from mmkd.evaluation.accuracy import Confusion, readings
from mmkd.federated import FedAvg
from mmkd.knowledge import MultiHeadDistillation
from mmkd.students.base import Classifier
from mmkd.topology import Ring
from tests.grids import each_once, pairwise
from tests.tiny import CLASSES, TinyData, fit, fleets, schedule, sgd, trainer

HEADS = ["main", "last", "best", "ensemble"]
BOTH = pytest.mark.parametrize("vectorize", ["never", "always"])
SIZE = 40
"""Samples of each split; the split decides which of the columns of a table they read."""
SPLITS = ["train", "val", "test"]
COLUMNS = SIZE * len(SPLITS)
EXPERIENCE = {
    "cameras/0": [10, 4, 0],
    "cameras/1": [1, 1, 12],
    "microphones/0": [3, 3, 3],
    "microphones/1": [0, 20, 1],
}
"""Private samples of each class."""


class Table(Classifier):
    """Sample i is the i-th unit vector, so the logits of a head on it are a column of its weights.

    A rate of zero keeps them as given.
    """

    modalities = ("image",)

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, dim=COLUMNS, **{"optimizer": sgd(0.0), **kwargs})

    def embed(self, x: Tensor) -> Tensor:
        return x


class SoundTable(Table):
    modalities = ("audio",)


class Columns(PeerDataModule):
    """Columns of the tables; labels are fixed, uneven and all there, or without a class if ``lacks`` is one."""

    num_classes = CLASSES
    modalities = ("image", "audio")

    def __init__(self, *, lacks: int | None = None) -> None:
        super().__init__(batch_size=8)
        kept = [c for c in (0, 0, 0, 1, 2, 2) if c != lacks]
        self.y = torch.tensor([kept[i % len(kept)] for i in range(COLUMNS)])
        self.held_out = {split: self._part(split) for split in SPLITS}

    def _part(self, split: str) -> Samples:
        start = SIZE * SPLITS.index(split)
        return Samples(torch.eye(COLUMNS)[start : start + SIZE], self.y[start : start + SIZE])

    def private(self, peer: str, split: str) -> Any:
        if split != "train":
            return self.held_out[split]
        y = torch.arange(CLASSES).repeat_interleave(torch.tensor(EXPERIENCE[peer]))
        return Samples(torch.eye(COLUMNS)[: len(y)], y)

    def public(self, split: str) -> Any:
        x = torch.eye(COLUMNS)[:10]
        return PublicSamples({"image": x, "audio": x})


def tables(heads: dict[str, int], **kwargs: Any) -> dict[str, Fleet]:
    kinds = {"cameras": Table, "microphones": SoundTable}
    return {
        fleet: Fleet(lambda n, kind=kinds[fleet], h=h: kind(n, heads=h, **kwargs), 2)
        for fleet, h in heads.items()
    }


def drawn(cohort: Cohort, seed: int = 0, lean: float = 1.5) -> dict[str, list[Tensor]]:
    """Fill the tables of all peers, ``[samples, classes]`` for each head, the main one first.

    Each head leans towards the truth by another amount, so that they differ.
    """
    stream, given = torch.Generator().manual_seed(seed), {}
    y = Columns().y
    for name in cohort.names:
        student: Any = cohort.student(name)
        heads = [student.main, *student.aux]
        given[name] = []
        for h, head in enumerate(heads):
            logits = torch.randn(COLUMNS, CLASSES, generator=stream)
            logits[torch.arange(COLUMNS), y] += lean * h / len(heads)
            with torch.no_grad():
                head.weight.copy_(logits.T)
                head.bias.zero_()
            given[name].append(logits)
    return given


def prior(peer: str, strength: float) -> list[float]:
    """What is added to a peer's logits: strength times the log of its label frequencies, one added to each."""
    counts = EXPERIENCE[peer]
    return [strength * math.log((n + 1) / (sum(counts) + CLASSES)) for n in counts]


def by_hand(
    heads: list[Tensor], peer: str, data: Columns, split: str, strength: float
) -> dict[str, tuple[float, float]]:
    """Shared and private accuracy of each head and, of several, of their ensemble: sample by sample."""
    start = SIZE * SPLITS.index(split)
    scores: dict[str, list[list[float]]] = {}
    for h, logits in enumerate(heads):
        scores[f"head{h}"] = logits[start : start + SIZE].tolist()
    if len(heads) > 1:
        scores["ensemble"] = []
        for i in range(SIZE):
            mean = [0.0] * CLASSES
            for rows in list(scores.values())[: len(heads)]:
                total = sum(math.exp(z) for z in rows[i])
                mean = [m + math.exp(z) / total / len(heads) for m, z in zip(mean, rows[i], strict=True)]
            scores["ensemble"].append([math.log(m) for m in mean])
    labels = data.y[start : start + SIZE].tolist()
    found = {}
    for name, rows in scores.items():
        shared, private, weights = [], 0.0, 0.0
        for c in range(CLASSES):
            mine = [row for row, y in zip(rows, labels, strict=True) if y == c]
            if not mine:
                continue
            bare = sum(row.index(max(row)) == c for row in mine) / len(mine)
            put_back = [[z + p for z, p in zip(row, prior(peer, strength), strict=True)] for row in mine]
            known = sum(row.index(max(row)) == c for row in put_back) / len(mine)
            shared.append(bare)
            private += EXPERIENCE[peer][c] * known
            weights += EXPERIENCE[peer][c]
        found[name] = sum(shared) / len(shared), private / weights
    return found


def validated(cohort: Cohort, data: PeerDataModule, *, test: bool = True) -> Any:
    """A fit that changes no weight, and its validation; then a test. Returns the logged metrics of each."""
    callback = DecentralizedCallback(schedule=schedule(local_steps=1, rounds_per_epoch=1))
    run = trainer(callback, max_epochs=1)
    run.fit(cohort, datamodule=data)
    logged = [{k: float(v) for k, v in run.callback_metrics.items()}]
    if test:
        (results,) = run.test(cohort, datamodule=data, verbose=False)
        logged.append(dict(results))
    return logged


# --- metrics per head ------------------------------------------------------------------------------


@pairwise(
    strength={"bare": 0.0, "prior": 1.0},
    lacks={"all classes": None, "one is missing": 0},
    vectorize=["never", "always"],
)
def test_accuracies_of_every_head_by_hand(strength: float, lacks: int | None, vectorize: str) -> None:
    """Three heads and their ensemble, on validation and on test samples, in the log and as metrics.

    Shared: the mean recall over the classes that are there, of bare logits. Private: recalls with the
    prior put back, weighed by the peer's own labels.
    """
    cohort = Cohort(
        tables({"cameras": 2, "microphones": 2}, prior_correction=strength), CLASSES, vectorize=vectorize
    )
    given, data = drawn(cohort), Columns(lacks=lacks)
    logged = validated(cohort, data)
    different = set()
    for split, log in zip(("val", "test"), logged, strict=True):
        for peer, heads in given.items():
            expected = by_hand(heads, peer, data, split, strength)
            assert list(expected) == ["head0", "head1", "head2", "ensemble"]
            for head, (shared, private) in expected.items():
                got = [log[f"peer/{peer}/{split}/{head}_{kind}_accuracy"] for kind in ("shared", "private")]
                assert got == pytest.approx([shared, private], abs=1e-6), (peer, head)
                different.add((round(shared, 3), round(private, 3)))
            # Whoever is not asked otherwise is its main head.
            main = [log[f"peer/{peer}/{split}/{kind}_accuracy"] for kind in ("shared", "private")]
            assert main == pytest.approx(expected["head0"], abs=1e-6)
    assert len(different) > 20
    kinds = {"shared_accuracy", "private_accuracy"}
    kinds |= {f"{head}_{kind}" for head in ("head0", "head1", "head2", "ensemble") for kind in kinds}
    assert set(cohort.metrics["cameras/0"]) == kinds
    for peer, kind in itertools.product(given, kinds):
        assert cohort.metrics[peer][kind] == pytest.approx(logged[1][f"peer/{peer}/test/{kind}"], abs=1e-6)


def test_the_prior_moves_private_accuracy_alone() -> None:
    """Equal logits, once with a prior put back, once without."""
    logs = []
    for strength in (0.0, 1.0):
        cohort = Cohort(tables({"cameras": 1}, prior_correction=strength), CLASSES, vectorize="always")
        drawn(cohort)
        logs.append(validated(cohort, Columns(), test=False)[0])
    bare, known = logs
    for head in ("head0", "head1", "ensemble"):
        name = f"peer/cameras/0/val/{head}"
        assert bare[f"{name}_shared_accuracy"] == known[f"{name}_shared_accuracy"]
        # It mostly saw the first class, and is weighed by what it saw.
        assert bare[f"{name}_private_accuracy"] < known[f"{name}_private_accuracy"]


def test_an_ensemble_is_the_mean_of_probabilities_and_not_of_logits() -> None:
    """Of p = 0.98 for a wrong class and twice 0.60 for the right one: (0.98, 0.40, 0.40) and (0.02, 0.60, 0.60).

    The mean favours the wrong class, 0.593 against 0.407, and so would mean logits: log odds 3.89 against
    twice 0.405. With p = 0.75 and twice 0.70 the right one wins, 0.55 against 0.45, and in log odds 1.69
    against 1.10. With p = 0.97 and twice 0.79 log odds are 3.48 against 2.65: the wrong one, but of
    probabilities 0.97 + 0.42 = 1.39 against 1.61 the right one.
    """
    cohort = Cohort(tables({"cameras": 2}), CLASSES, vectorize="always")
    cases = [(0.98, 0.60), (0.75, 0.70), (0.97, 0.79)]
    for name in cohort.names:
        student: Any = cohort.student(name)
        for h, head in enumerate([student.main, *student.aux]):
            with torch.no_grad():
                head.weight.fill_(-30.0)
                head.bias.zero_()
                for i, y in enumerate(Columns().y.tolist()):
                    wrong, right = cases[i % 3]
                    p = 1 - wrong if h == 0 else right
                    head.weight[y, i], head.weight[(y + 1) % CLASSES, i] = math.log(p), math.log(1 - p)
    (log,) = validated(cohort, Columns(), test=False)
    labels = Columns().y[SIZE : 2 * SIZE].tolist()
    recalls = []
    for c in range(CLASSES):
        mine = [i for i, y in enumerate(labels, SIZE) if y == c]
        recalls.append(sum(i % 3 > 0 for i in mine) / len(mine))
    assert log["peer/cameras/0/val/head0_shared_accuracy"] == 0
    assert log["peer/cameras/0/val/head1_shared_accuracy"] == 1
    assert log["peer/cameras/0/val/ensemble_shared_accuracy"] == pytest.approx(sum(recalls) / CLASSES)
    assert 0 < sum(recalls) < CLASSES


def test_batches_add_up() -> None:
    """Counts of several batches, and of peers that read different ones, are those of all samples at once."""
    stream = torch.Generator().manual_seed(0)
    heads = torch.randn(2, 3, 50, CLASSES, generator=stream)  # heads, peers, samples
    y = torch.randint(CLASSES, (50,), generator=stream)
    priors, peers = torch.randn(3, CLASSES, generator=stream), ["a", "b", "c"]
    frequencies = {peer: torch.rand(CLASSES, generator=stream, dtype=torch.float64) for peer in peers}
    whole, parts = Confusion(CLASSES), Confusion(CLASSES)
    whole.update(peers, readings(heads, priors), y)
    for cut in (slice(0, 7), slice(7, 8), slice(8, 50)):
        for row, peer in enumerate(peers):
            one = readings(heads[:, row : row + 1, cut], priors[row : row + 1])
            parts.update([peer], one, y[cut])
    found = [it.compute(frequencies, "main", choose=True) for it in (whole, parts)]
    assert found[0] == found[1]
    assert len({metrics["shared_accuracy"] for metrics in found[0].values()}) > 1
    assert parts.compute(frequencies, "main", choose=True) == {}  # all is forgotten


# --- which head speaks for a peer ------------------------------------------------------------------


@each_once(head=HEADS, vectorize=["never", "always"])
def test_the_head_that_is_asked_for_is_tested_and_predicts(head: Any, vectorize: str) -> None:
    """The best on validation samples, whatever it is in the test; of three heads of some peers and five of others.

    ``predict_step`` gives its probabilities, which know nothing of the prior.
    """
    cohort = Cohort(
        tables({"cameras": 2, "microphones": 4}, prior_correction=1.0),
        CLASSES,
        head=head,
        vectorize=vectorize,
    )
    given, data = drawn(cohort, lean=0.0), Columns()
    logged = validated(cohort, data)
    best = {}
    for peer, heads in given.items():
        expected = by_hand(heads, peer, data, "val", 1.0)
        ranked = [expected[f"head{h}"][0] for h in range(len(heads))]
        best[peer] = ranked.index(max(ranked))
    assert len(set(best.values())) > 1
    test_best = 0
    for peer, heads in given.items():
        name = {"main": "head0", "last": f"head{len(heads) - 1}", "best": f"head{best[peer]}"}.get(
            head, "ensemble"
        )
        for split, log in zip(("val", "test"), logged, strict=True):
            expected = by_hand(heads, peer, data, split, 1.0)
            got = [log[f"peer/{peer}/{split}/{kind}_accuracy"] for kind in ("shared", "private")]
            assert got == pytest.approx(expected[name], abs=1e-6), (peer, split)
        test_best += by_hand(heads, peer, data, "test", 1.0)[f"head{best[peer]}"][0] < max(
            by_hand(heads, peer, data, "test", 1.0)[f"head{h}"][0] for h in range(len(heads))
        )
    assert test_best > 0  # the choice on validation samples is not always that of the test
    (said,) = trainer().predict(cohort, datamodule=data)
    assert list(said) == cohort.names
    for peer, heads in given.items():
        soft = torch.stack(heads)[:, 2 * SIZE :].softmax(-1)
        expected_p = {"main": soft[0], "last": soft[-1], "best": soft[best[peer]]}.get(head, soft.mean(0))
        torch.testing.assert_close(said[peer], expected_p, rtol=0, atol=1e-6)


def test_best_is_the_first_of_equals() -> None:
    """Three heads alike: the main one stays the peer's."""
    cohort = Cohort(tables({"cameras": 2}), CLASSES, head="best", vectorize="always")
    given = drawn(cohort)
    for name in cohort.names:
        student: Any = cohort.student(name)
        for head in student.aux:
            with torch.no_grad():
                head.weight.copy_(student.main.weight)
    validated(cohort, Columns())
    (said,) = trainer().predict(cohort, datamodule=Columns())
    for peer in cohort.names:
        torch.testing.assert_close(said[peer], given[peer][0][2 * SIZE :].softmax(-1), rtol=0, atol=1e-6)


def upside_down(cohort: Cohort) -> None:
    """On validation samples the auxiliary head is right and the main one wrong, on test samples vice versa."""
    y = Columns().y
    right = 5.0 * torch.nn.functional.one_hot(y, CLASSES).float().T
    is_test = torch.arange(COLUMNS) >= 2 * SIZE
    for name in cohort.names:
        student: Any = cohort.student(name)
        with torch.no_grad():
            student.main.weight.copy_(torch.where(is_test, right, -right))
            student.aux[0].weight.copy_(torch.where(is_test, -right, right))
            student.main.bias.zero_()
            student.aux[0].bias.zero_()


@BOTH
def test_the_choice_of_validation_is_kept_in_the_test(vectorize: str) -> None:
    """And replaced by that of the next validation only."""
    cohort = Cohort(tables({"cameras": 1}), CLASSES, head="best", vectorize=vectorize)
    upside_down(cohort)
    val, test = validated(cohort, Columns())
    for peer in cohort.names:
        assert val[f"peer/{peer}/val/shared_accuracy"] == val[f"peer/{peer}/val/head1_shared_accuracy"] == 1
        assert test[f"peer/{peer}/test/shared_accuracy"] == 0
        assert test[f"peer/{peer}/test/head0_shared_accuracy"] == 1
    # A second test chooses nothing anew either.
    (again,) = trainer().test(cohort, datamodule=Columns(), verbose=False)
    assert again["test/shared_accuracy"] == 0
    for name in cohort.names:  # the two heads change places
        student: Any = cohort.student(name)
        with torch.no_grad():
            main = student.main.weight.clone()
            student.main.weight.copy_(student.aux[0].weight)
            student.aux[0].weight.copy_(main)
    val, test = validated(cohort, Columns())
    assert val["val/shared_accuracy"] == val["val/head0_shared_accuracy"] == 1
    assert test["test/shared_accuracy"] == test["test/head0_shared_accuracy"] == 0


@each_once(start=["never", "always"], vectorize=["always", "never"])
def test_the_choice_is_kept_in_checkpoints(vectorize: str, start: Any, tmp_path: Path) -> None:
    """A fresh cohort, vectorised or not, that takes the checkpoint up tests and predicts with that head."""
    cohort = Cohort(tables({"cameras": 1}), CLASSES, head="best", vectorize=start)
    upside_down(cohort)
    save = ModelCheckpoint(tmp_path, "one")
    run = trainer(
        DecentralizedCallback(schedule=schedule(local_steps=1, rounds_per_epoch=1)), save,
        max_epochs=1, enable_checkpointing=True,
    )  # fmt: skip
    run.fit(cohort, datamodule=Columns())
    run.save_checkpoint(tmp_path / "end.ckpt")
    fresh = Cohort(tables({"cameras": 1}), CLASSES, head="best", vectorize=vectorize)  # type: ignore[arg-type]
    (results,) = trainer().test(fresh, datamodule=Columns(), ckpt_path=tmp_path / "end.ckpt", verbose=False)
    assert results["test/head1_shared_accuracy"] == results["test/shared_accuracy"] == 0
    assert results["test/head0_shared_accuracy"] == 1
    other = Cohort(tables({"cameras": 1}), CLASSES, head="best", vectorize=vectorize)  # type: ignore[arg-type]
    (said,) = trainer().predict(other, datamodule=Columns(), ckpt_path=tmp_path / "end.ckpt")
    right = 5.0 * torch.nn.functional.one_hot(Columns().y[2 * SIZE :], CLASSES).float()
    for peer in cohort.names:
        torch.testing.assert_close(said[peer], (-right).softmax(-1), rtol=0, atol=1e-6)


def test_nobody_chooses_on_test_samples() -> None:
    """Without validation there is no best head yet: as in ``predict_step`` the main one speaks, and no luckier one."""
    cohort = Cohort(tables({"cameras": 1}), CLASSES, head="best", vectorize="always")
    upside_down(cohort)
    for name in cohort.names:  # the auxiliary head is right in the test
        student: Any = cohort.student(name)
        with torch.no_grad():
            for head in (student.main, student.aux[0]):
                head.weight.neg_()
    (results,) = trainer().test(cohort, datamodule=Columns(), verbose=False)
    assert results["test/head1_shared_accuracy"] == 1
    assert results["test/head0_shared_accuracy"] == 0
    assert results["test/shared_accuracy"] == 0


@BOTH
def test_heads_are_read_in_evaluation_mode(vectorize: str) -> None:
    """Every head of a student with statistics and random layers, after training with peers that taught them."""
    peers = fleets(heads=2, drop=0.5)
    cohort = Cohort(peers, CLASSES, vectorize=vectorize, head="last")
    knowledge = MultiHeadDistillation()
    data = TinyData(batch_size=16)
    fit(cohort, DecentralizedCallback(knowledge, FedAvg(), Ring(), schedule()), data, max_epochs=1)
    x, y = data.held_out.x, data.held_out.y
    (said,) = trainer().predict(cohort, datamodule=data)
    for peer in cohort.names:
        student: Any = cohort.student(peer).eval()
        with torch.no_grad():
            seen = student.predict(x)
        for h, logits in enumerate([seen.logits, *seen.auxiliary]):
            right = logits.argmax(-1) == y
            recalls = [right[y == c].double().mean() for c in range(CLASSES)]
            got = cohort.metrics[peer][f"head{h}_shared_accuracy"]
            assert got == pytest.approx(float(sum(recalls)) / CLASSES, abs=1e-6)
        torch.testing.assert_close(said[peer], seen.auxiliary[-1].softmax(-1), rtol=1e-4, atol=1e-5)
        assert cohort.metrics[peer]["shared_accuracy"] == cohort.metrics[peer]["head2_shared_accuracy"]


# --- the log ---------------------------------------------------------------------------------------


def test_means_over_all_and_over_each_modality() -> None:
    """Cameras with one auxiliary head, microphones with three: a mean is of those who have such a head."""
    cohort = Cohort(tables({"cameras": 1, "microphones": 3}), CLASSES, vectorize="always")
    given, data = drawn(cohort), Columns()
    for split, log in zip(("val", "test"), validated(cohort, data), strict=True):
        found: dict[str, dict[str, float]] = {}
        for peer, heads in given.items():
            expected = by_hand(heads, peer, data, split, 0.0)
            for name, pair in [("", expected["head0"]), *((f"{h}_", p) for h, p in expected.items())]:
                for kind, value in zip(("shared", "private"), pair, strict=True):
                    found.setdefault(f"{name}{kind}_accuracy", {})[peer] = value
        assert len(found) == 2 * (1 + 4 + 1)
        means = {}
        for kind, values in found.items():
            means[f"{split}/{kind}"] = sum(values.values()) / len(values)
            for modality, fleet in (("image", "cameras"), ("audio", "microphones")):
                of = [value for peer, value in values.items() if peer.startswith(fleet)]
                if of:
                    means[f"{split}/{modality}/{kind}"] = sum(of) / len(of)
        assert "val/image/head2_shared_accuracy" not in means
        got = {name: value for name, value in log.items() if name.startswith(f"{split}/")}
        assert got == pytest.approx(means, abs=1e-6)


def test_one_modality_needs_no_means_of_its_own() -> None:
    cohort = Cohort(tables({"cameras": 1}), CLASSES)
    drawn(cohort)
    (log,) = validated(cohort, Columns(), test=False)
    assert "val/shared_accuracy" in log
    assert not any("/image/" in name for name in log)


def test_the_last_head_of_students_that_have_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.head is 'last', and no student has an auxiliary head"):
        Cohort(tables({"cameras": 0, "microphones": 0}), CLASSES, head="last")
    Cohort(tables({"cameras": 0, "microphones": 1}), CLASSES, head="last")


@each_once(head=[head for head in HEADS if head != "last"], vectorize=["never", "always"])
def test_without_auxiliary_heads_nothing_tells_of_heads(head: Any, vectorize: str) -> None:
    """Whichever is asked for is the only one."""
    cohort = Cohort(tables({"cameras": 0, "microphones": 0}), CLASSES, head=head, vectorize=vectorize)
    given, data = drawn(cohort), Columns()
    for split, log in zip(("val", "test"), validated(cohort, data), strict=True):
        assert not any("head" in name or "ensemble" in name for name in log)
        for peer, heads in given.items():
            ((shared, private),) = by_hand(heads, peer, data, split, 0.0).values()
            assert log[f"peer/{peer}/{split}/shared_accuracy"] == pytest.approx(shared, abs=1e-6)
            assert log[f"peer/{peer}/{split}/private_accuracy"] == pytest.approx(private, abs=1e-6)
    (said,) = trainer().predict(cohort, datamodule=data)
    for peer, (logits,) in given.items():
        torch.testing.assert_close(said[peer], logits[2 * SIZE :].softmax(-1), rtol=0, atol=1e-6)
