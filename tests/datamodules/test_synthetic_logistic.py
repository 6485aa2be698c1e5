"""FedProx's Synthetic(alpha, beta): the distributions of its code, measured on what is drawn."""

from __future__ import annotations

import torch

from datamodules.synthetic_logistic import FEATURES, LogisticStudent, SyntheticLogistic
from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import FedProx
from mmkd.schedule import Schedule
from mmkd.topology import Star
from tests.tiny import sgd, trainer


def data(*, peers: int = 300, **kwargs) -> SyntheticLogistic:
    made = SyntheticLogistic(peers={f"p/{i}": "vector" for i in range(peers)}, batch_size=10, **kwargs)
    made.setup("fit")
    return made


def test_sizes_follow_the_power_law() -> None:
    sizes = torch.tensor([len(s) for s in data(largest=10**6)._drawn.values()], dtype=torch.float64)
    logs = (sizes - 50 + 0.5).log()  # integers: half a sample is lost on average
    assert sizes.min() >= 50
    assert abs(float(logs.mean()) - 4) < 5 * 2 / 300**0.5
    assert abs(float(logs.std()) - 2) < 5 * 2 / 600**0.5
    assert max(len(s) for s in data(largest=200)._drawn.values()) == 200


def test_beta_is_the_standard_deviation_of_the_inputs_centres() -> None:
    made = data(beta=3.0)
    centres = torch.stack([s.x.double().mean(0) for s in made._drawn.values()])
    # B_k is seen through the mean of 60 coordinates, each off by N(0, 1): variance 9 + 1/60.
    means = centres.mean(1)
    assert abs(float(means.std()) - (9 + 1 / 60) ** 0.5) < 5 * 3 / 600**0.5
    within = torch.stack([s.x.double().var(0) for s in made._drawn.values() if len(s) > 200]).mean(0)
    expected = torch.arange(1, FEATURES + 1, dtype=torch.float64) ** -1.2
    torch.testing.assert_close(within, expected, rtol=0.1, atol=0)


def test_with_iid_one_model_labels_all() -> None:
    made = data(iid=True)
    x = torch.cat([s.x for s in made._drawn.values()])
    y = torch.cat([s.y for s in made._drawn.values()])
    assert float(x.double().mean(0).abs().max()) < 0.05
    # Far inputs of one direction get one label, whoever owns them.
    first = x[:, 0] > 2.5
    same = torch.bincount(y[first & (x[:, 1].abs() < 0.3) & (x[:, 2].abs() < 0.3)])
    mixed = data()
    other = torch.cat([s.y for s in mixed._drawn.values()])
    assert same.max() / same.sum() > torch.bincount(other).max() / len(other) + 0.2


def test_parts_are_disjoint_and_seeded() -> None:
    one, two, three = data(peers=20), data(peers=20), data(peers=20, seed=1)
    for peer in one.peers:
        whole = one._drawn[peer]
        parts = [one._part(peer, split) for split in ("train", "val", "test")]
        assert sum(len(part) for part in parts) == len(whole)
        assert len({tuple(row) for part in parts for row in part.x.tolist()}) == len(whole)
        assert torch.equal(whole.x, two._drawn[peer].x)
        assert not torch.equal(whole.x[:50], three._drawn[peer].x[:50])


def test_fedprox_learns_on_it() -> None:
    cohort = Cohort(
        {"p": Fleet(lambda n: LogisticStudent(n, optimizer=sgd(0.01)), 30)}, 10, vectorize="always"
    )
    callback = DecentralizedCallback(None, FedProx(mu=0.1), Star(), Schedule(local_steps=20))
    trainer(callback, max_epochs=10).fit(cohort, datamodule=SyntheticLogistic(largest=500, batch_size=10))
    counts = cohort.metrics["p/0"]
    assert counts["private_accuracy"] > 0.5
