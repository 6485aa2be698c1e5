"""Partitions: every sample has one owner, and the skew is the one that was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from mmkd.data.partition import IID, Dirichlet, DirichletPerPeer, MHDSkew, Partition, QuantitySkew, Shards
from mmkd.functional import partition
from mmkd.functional.random import generator

Split = Callable[..., list[Tensor]]

SPLITS: dict[str, Split] = {
    "iid": partition.iid,
    "dirichlet": partial(partition.dirichlet, alpha=0.3),
    "dirichlet, tiny alpha": partial(partition.dirichlet, alpha=1e-3),
    "dirichlet, balanced": partial(partition.dirichlet, alpha=0.1, balance=True),
    "dirichlet, floor": partial(partition.dirichlet, alpha=0.1, min_size=20),
    "dirichlet_per_peer": partial(partition.dirichlet_per_peer, alpha=1.0),
    "shards": partition.shards,
    "quantity_skew": partial(partition.quantity_skew, beta=0.3),
    "mhd_skew": partial(partition.mhd_skew, skew=10.0, primary=2),
}
every_split = pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())


def labels(samples: int = 403, classes: int = 10, seed: int = 0) -> Tensor:
    return torch.randint(classes, (samples,), generator=generator(seed, "labels"))


def counts(y: Tensor, parts: list[Tensor]) -> Tensor:
    """Samples of each class that each peer has, ``[peers, classes]``."""
    return torch.stack([torch.bincount(y[part], minlength=int(y.max()) + 1) for part in parts])


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@every_split
@pytest.mark.parametrize("peers", [1, 4, 7])
def test_no_sample_has_two_owners_and_the_rest_is_counted(split: Split, peers: int) -> None:
    y = labels()
    parts = split(y, peers, seed=3)
    assert len(parts) == peers
    owned = torch.cat(parts)
    assert owned.dtype == torch.long
    assert len(owned.unique()) == len(owned)
    rest = partition.unowned(parts, len(y))
    assert torch.equal(torch.cat([owned, rest]).sort().values, torch.arange(len(y)))
    hsu = isinstance(split, partial) and split.func is partition.dirichlet_per_peer
    assert len(rest) == (len(y) % peers if hsu else 0)
    assert all(torch.equal(part, part.sort().values) for part in parts)


@every_split
def test_the_seed_and_nothing_else_decides(split: Split) -> None:
    y = labels()
    first = split(y, 4, seed=0)
    state = torch.random.get_rng_state()
    torch.rand(5)
    assert same(split(y, 4, seed=0), first)
    torch.random.set_rng_state(state)
    split(y, 4, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not same(split(y, 4, seed=1), first)


@every_split
def test_labels_are_names(split: Split) -> None:
    y = labels()
    assert same(split(100 + 3 * y, 4, seed=0), split(y, 4, seed=0))


def test_iid_shares_are_equal_and_mixed() -> None:
    y = labels(10_000)
    parts = partition.iid(y[:-1], 4, seed=0)
    assert sorted(len(part) for part in parts) == [2499, 2500, 2500, 2500]
    # A class of n samples gives a peer n/4 +- sqrt(n * 1/4 * 3/4); 6 deviations happen in no test.
    n = torch.bincount(y)
    assert ((counts(y, parts) - n / 4).abs() < 6 * (n * 3 / 16).sqrt()).all()


def test_large_alpha_is_near_iid_and_small_alpha_concentrates() -> None:
    y = labels(4000)
    # A share of Dirichlet(alpha) over 4 peers has mean 1/4 and variance 3/16 / (4 alpha + 1).
    alpha = 1e6
    shares = counts(y, partition.dirichlet(y, 4, alpha=alpha, seed=0)) / torch.bincount(y)
    bound = 6 * math.sqrt(3 / 16 / (4 * alpha + 1)) + 1 / int(torch.bincount(y).min())
    assert ((shares - 1 / 4).abs() < bound).all()
    # At 1e-3 all but a share of the order of alpha goes to one peer, class by class.
    shares = counts(y, partition.dirichlet(y, 4, alpha=1e-3, seed=0)) / torch.bincount(y)
    assert (shares.amax(0) > 0.99).all()
    # ... and not always to the same: 30 classes at 4 peers miss one with chance 4 * 0.75^30 < 1e-3.
    y = torch.arange(30).repeat(20)
    assert (counts(y, partition.dirichlet(y, 4, alpha=1e-3, seed=0)).sum(1) > 0).all()


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_dirichlet_shares_have_the_variance_of_the_distribution(alpha: float) -> None:
    classes, size, peers = 1000, 100, 5
    y = torch.arange(classes).repeat(size)
    shares = counts(y, partition.dirichlet(y, peers, alpha=alpha, seed=0)).double() / size
    mean = 1 / peers
    variance = mean * (1 - mean) / (peers * alpha + 1)
    # The mean of 1000 classes; squared deviations are at most (1 - mean)^2, hence their deviation
    # at most sqrt(variance) * (1 - mean). Rounding moves a share by at most 1/size.
    assert (shares.mean(1) - mean).abs().max() < 6 * math.sqrt(variance / classes)
    spread = 6 * math.sqrt(variance / classes) * (1 - mean) + 1 / size**2
    assert ((shares - mean).square().mean(1) - variance).abs().max() < spread


@pytest.mark.parametrize("min_size", [1, 20, 100])
@pytest.mark.parametrize("seed", range(5))
def test_min_size_holds_even_where_no_draw_gives_it(min_size: int, seed: int) -> None:
    y = labels(400)
    # 4 * 100 = 400: only equal shares will do, which no draw at alpha 0.1 gives.
    for split in (
        partial(partition.dirichlet, alpha=0.1),
        partial(partition.dirichlet, alpha=1e-3, balance=True),
        partial(partition.quantity_skew, beta=0.1),
    ):
        parts = split(y, 4, min_size=min_size, seed=seed)
        assert min(len(part) for part in parts) >= min_size
        assert len(partition.unowned(parts, len(y))) == 0


def test_a_draw_that_meets_min_size_is_left_alone() -> None:
    y = labels(400)
    free = partition.dirichlet(y, 4, alpha=1.0, seed=0)
    smallest = min(len(part) for part in free)
    assert smallest > 0
    assert same(partition.dirichlet(y, 4, alpha=1.0, min_size=smallest, seed=0), free)
    assert not same(partition.dirichlet(y, 4, alpha=1.0, min_size=smallest + 1, seed=0), free)


def test_a_balanced_peer_gets_no_further_class_once_it_has_its_mean() -> None:
    classes, size, peers = 20, 50, 5
    y = torch.arange(classes).repeat_interleave(size)
    for seed in range(5):
        dealt = counts(y, partition.dirichlet(y, peers, alpha=0.1, balance=True, seed=seed))
        before = dealt.cumsum(1) - dealt
        assert (dealt[before * peers >= len(y)] == 0).all()
        assert dealt.sum(1).max() < len(y) / peers + size


def test_hsu_gives_equal_sizes_and_its_own_prior_to_each_peer() -> None:
    y = labels(4003)
    parts = partition.dirichlet_per_peer(y, 4, alpha=1e6, seed=0)
    assert [len(part) for part in parts] == [1000] * 4
    assert len(partition.unowned(parts, len(y))) == 3
    # Near IID: a class with frequency f gives the first peer 1000 f +- sqrt(1000 f (1 - f)).
    f = torch.bincount(y) / len(y)
    assert ((counts(y, parts)[0] - 1000 * f).abs() < 6 * (1000 * f * (1 - f)).sqrt()).all()
    # At small alpha the first peer, who finds every class whole, takes one class until none is left.
    y = torch.arange(10).repeat(100)
    first = counts(y, partition.dirichlet_per_peer(y, 4, alpha=1e-3, seed=0))[0]
    assert first.sum() == 250
    assert first.sort(descending=True).values.tolist() == [100, 100, 50] + [0] * 7


def test_hsu_concentrates_by_the_share_of_a_class() -> None:
    """Of 9,000 to 1,000 labels the first peer draws q ~ Beta(5 * 0.9, 5 * 0.1), and 1,000 labels from q.

    None runs out before. Its share of the first class has mean f = 0.9, and the second moment about it is
    that of the beta-binomial, v = f (1 - f) (5 + n) / (n (5 + 1)); that of a square about v is 5.8 v^2, for
    the kurtosis of Beta(4.5, 0.5) is 6.8. Five standard deviations of means over 200 seeds.
    """
    y, seeds, f, n = (torch.arange(10_000) >= 9_000).long(), 200, 0.9, 1_000
    shares = torch.tensor(
        [
            float((y[partition.dirichlet_per_peer(y, 10, alpha=5.0, seed=s)[0]] == 0).sum()) / n
            for s in range(seeds)
        ],
        dtype=torch.float64,
    )
    variance = f * (1 - f) * (5 + n) / (n * 6)
    assert abs(shares.mean() - f) < 5 * math.sqrt(variance / seeds)
    assert abs((shares - f).square().mean() - variance) < 5 * variance * math.sqrt(5.8 / seeds)


@pytest.mark.parametrize("per_peer", [1, 2, 5])
def test_shards_limit_the_labels_of_a_peer(per_peer: int) -> None:
    # 10 classes of 60 samples; 4 * per_peer shards of 600 / (4 * per_peer) samples.
    y = torch.arange(10).repeat(60)
    parts = partition.shards(y, 4, per_peer=per_peer, seed=0)
    assert [len(part) for part in parts] == [150] * 4
    # A shard of s samples in a row of classes of 60 touches at most ceil((s - 1) / 60) + 1 of them.
    most = per_peer * (math.ceil((150 // per_peer - 1) / 60) + 1)
    assert ((counts(y, parts) > 0).sum(1) <= most).all()


def test_shards_that_fit_into_classes_hold_one_label_each() -> None:
    # 20 shards of 30 in 10 classes of 60: two shards a class, none across a border.
    y = torch.arange(10).repeat(60)
    dealt = counts(y, partition.shards(y, 10, per_peer=2, seed=0))
    assert set(dealt.unique().tolist()) <= {0, 30, 60}
    assert (dealt.sum(1) == 60).all()


def test_quantity_skew_moves_sizes_not_labels() -> None:
    y = labels(20_000)
    parts = partition.quantity_skew(y, 4, beta=0.5, seed=0)
    dealt = counts(y, parts).double()
    sizes = dealt.sum(1)
    assert sizes.max() > 2 * sizes.min()
    f = (torch.bincount(y) / len(y)).double()
    expected = sizes[:, None] * f
    assert ((dealt - expected).abs() <= 6 * (expected * (1 - f)).sqrt() + 1).all()
    # Sizes vary as 20000 * Dirichlet(beta): near equal at large beta, with variance as above.
    sizes = torch.tensor([len(p) for p in partition.quantity_skew(y, 4, beta=1e6, seed=0)])
    assert (sizes - 5000).abs().max() < 20_000 * 6 * math.sqrt(3 / 16 / 4e6) + 1


@pytest.mark.parametrize(("skew", "primary"), [(0.0, 2), (1.0, 1), (10.0, 3), (100.0, 10)])
def test_mhd_owners_follow_the_formula(skew: float, primary: int) -> None:
    peers, classes = 5, 10
    y = labels(100_000, classes)
    hot = partition.primary_labels(classes, peers, primary=primary, seed=2)
    assert (hot.sum(1) == primary).all()
    dealt = counts(y, partition.mhd_skew(y, peers, skew=skew, primary=primary, seed=2))
    for label in range(classes):
        n, n_l = int((y == label).sum()), int(hot[:, label].sum())
        for peer in range(peers):
            p = (1 + skew * bool(hot[peer, label])) / (peers + skew * n_l)
            assert abs(int(dealt[peer, label]) - n * p) < 6 * math.sqrt(n * p * (1 - p))


def test_primary_labels_are_drawn_alike() -> None:
    hot = partition.primary_labels(10, 20_000, primary=3, seed=0)
    assert (hot.double().mean(0) - 0.3).abs().max() < 6 * math.sqrt(0.3 * 0.7 / 20_000)


@pytest.mark.parametrize(
    "call",
    [
        lambda y: partition.iid(y, 0, seed=0),
        lambda y: partition.dirichlet(y, 4, alpha=0.0, seed=0),
        lambda y: partition.dirichlet(y, 4, alpha=math.nan, seed=0),
        lambda y: partition.dirichlet(y, 4, alpha=1.0, min_size=11, seed=0),
        lambda y: partition.dirichlet_per_peer(y, 4, alpha=-1.0, seed=0),
        lambda y: partition.shards(y, 4, per_peer=0, seed=0),
        lambda y: partition.shards(y, 4, per_peer=11, seed=0),
        lambda y: partition.quantity_skew(y, 4, beta=-0.1, seed=0),
        lambda y: partition.quantity_skew(y, 4, beta=0.1, min_size=11, seed=0),
        lambda y: partition.mhd_skew(y, 4, skew=-1.0, primary=1, seed=0),
        lambda y: partition.mhd_skew(y, 4, skew=1.0, primary=11, seed=0),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[Tensor], object]) -> None:
    y = torch.arange(10).repeat(4)
    with pytest.raises(ValueError, match=r"must|cannot|need"):
        call(y)


def test_all_that_fits_is_accepted() -> None:
    y = torch.arange(10).repeat(4)
    assert [len(p) for p in partition.shards(y, 4, per_peer=10, seed=0)] == [10] * 4
    assert [len(p) for p in partition.dirichlet(y, 4, alpha=1.0, min_size=10, seed=0)] == [10] * 4


@pytest.mark.parametrize(
    ("shell", "split"),
    [
        (IID(), partition.iid),
        (Dirichlet(0.3, 5, True), partial(partition.dirichlet, alpha=0.3, min_size=5, balance=True)),
        (DirichletPerPeer(0.3), partial(partition.dirichlet_per_peer, alpha=0.3)),
        (Shards(3), partial(partition.shards, per_peer=3)),
        (QuantitySkew(0.3, 5), partial(partition.quantity_skew, beta=0.3, min_size=5)),
        (MHDSkew(5.0, 3), partial(partition.mhd_skew, skew=5.0, primary=3)),
    ],
)
def test_what_a_configuration_names_is_that_function(shell: Partition, split: Split) -> None:
    y = labels()
    assert same(shell(y, 4, 7), split(y, 4, seed=7))
