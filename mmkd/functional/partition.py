"""Partitions: which peer owns which of the labelled samples.

Every function gives, for each peer, the sorted positions of its samples; every sample has one owner
(``dirichlet_per_peer`` may leave some without). A split is a pure function of the labels, the number of
peers, the parameters and ``seed``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmkd.functional.random import generator

ATTEMPTS = 100
"""How often a split with a ``min_size`` is drawn before samples are moved."""


def iid(labels: Int[Tensor, " samples"], peers: int, *, seed: int) -> list[Int[Tensor, " _"]]:
    """Shares drawn at random, whose sizes differ by at most one.

    Raises:
        ValueError: ``peers`` is not positive.
    """
    _check(labels, peers, 0)
    shares = _shuffled(labels, generator("partition", "iid", seed)).tensor_split(peers)
    return [share.sort().values for share in shares]


def dirichlet(
    labels: Int[Tensor, " samples"],
    peers: int,
    *,
    alpha: float,
    seed: int,
    min_size: int = 0,
    balance: bool = False,
) -> list[Int[Tensor, " _"]]:
    """Class by class, peers get shares p ~ Dirichlet(alpha) of its samples (Yurochkin et al. 2019).

    Args:
        labels: classes.
        peers: how many peers share the samples.
        alpha: concentration; small is skewed, large is near IID.
        seed: keys the draw.
        min_size: samples that every peer has at least. A split that falls short is drawn again, up to
            ``ATTEMPTS`` times; if all do, the last one is repaired: as long as a peer is short, the
            smallest takes a random sample of the largest.
        balance: a peer that has ``samples / peers`` samples or more takes no part in further classes
            (as in NIID-Bench, Li et al. 2022), so sizes become more equal and labels less skewed.

    Raises:
        ValueError: a parameter is out of range, or there are fewer than ``peers * min_size`` samples.
    """
    _check(labels, peers, min_size, alpha=alpha)

    def draw(stream: torch.Generator) -> Tensor:
        owner = torch.empty(len(labels), dtype=torch.long)
        sizes = torch.zeros(peers, dtype=torch.long)
        for label in labels.unique():
            members = (labels == label).nonzero().flatten()
            log_share = _log_dirichlet(torch.full((peers,), alpha, dtype=torch.float64), stream)
            if balance:
                # Some peer is always open: before the last sample is dealt, somebody is below the mean.
                log_share[sizes * peers >= len(labels)] = -torch.inf
            dealt = _deal(log_share.softmax(0), len(members))
            owner[members[torch.randperm(len(members), generator=stream)]] = dealt
            sizes += torch.bincount(dealt, minlength=peers)
        return owner

    return _at_least(draw, "dirichlet", peers, min_size, seed)


def dirichlet_per_peer(
    labels: Int[Tensor, " samples"], peers: int, *, alpha: float, seed: int
) -> list[Int[Tensor, " _"]]:
    """Each peer draws its own class frequencies q ~ Dirichlet(alpha * prior) (Hsu et al. 2019).

    Peer after peer draws ``samples // peers`` samples, each of a class drawn from q, without
    replacement; a class that is used up leaves q, so late peers get what is left. The remainder
    ``samples % peers`` has no owner (see ``unowned``).

    Raises:
        ValueError: a parameter is out of range.
    """
    _check(labels, peers, 0, alpha=alpha)
    stream = generator("partition", "dirichlet_per_peer", seed)
    _, label, counts = labels.unique(return_inverse=True, return_counts=True)
    left = [m[torch.randperm(len(m), generator=stream)] for m in _members(label, len(counts))]
    concentration = alpha * counts.double() / len(labels)
    parts = []
    for _ in range(peers):
        log_frequency = _log_dirichlet(concentration, stream)
        own, missing = [torch.empty(0, dtype=torch.long)], len(labels) // peers
        while missing:
            stock = torch.tensor([len(positions) for positions in left])
            frequency = log_frequency.masked_fill(stock == 0, -torch.inf).softmax(0)
            # Draws of a class beyond its stock are void, as in drawing one by one.
            drawn = torch.multinomial(frequency, missing, replacement=True, generator=stream)
            taken = torch.minimum(torch.bincount(drawn, minlength=len(left)), stock).tolist()
            own += [positions[:n] for positions, n in zip(left, taken, strict=True)]
            left = [positions[n:] for positions, n in zip(left, taken, strict=True)]
            missing -= sum(taken)
        parts.append(torch.cat(own).sort().values)
    return parts


def shards(
    labels: Int[Tensor, " samples"], peers: int, *, per_peer: int = 2, seed: int
) -> list[Int[Tensor, " _"]]:
    """Samples sorted by label, cut into shards that are dealt at random (McMahan et al. 2017).

    Each peer gets ``per_peer`` shards. Sizes of shards differ by at most one, so that no sample is left over.

    Raises:
        ValueError: a parameter is out of range, or there are more shards than samples.
    """
    _check(labels, peers, 0, per_peer=per_peer)
    if peers * per_peer > len(labels):
        raise ValueError(f"{peers} peers with {per_peer} shards each need more than {len(labels)} samples")
    stream = generator("partition", "shards", seed)
    order = _shuffled(labels, stream)
    by_label = order[labels[order].argsort(stable=True)]
    cut = by_label.tensor_split(peers * per_peer)
    hands = torch.randperm(len(cut), generator=stream).view(peers, per_peer).tolist()
    return [torch.cat([cut[i] for i in hand]).sort().values for hand in hands]


def quantity_skew(
    labels: Int[Tensor, " samples"], peers: int, *, beta: float, seed: int, min_size: int = 0
) -> list[Int[Tensor, " _"]]:
    """Random samples, in shares of sizes q ~ Dirichlet(beta) (Li et al. 2022).

    ``min_size`` is kept as in ``dirichlet``.

    Raises:
        ValueError: a parameter is out of range, or there are fewer than ``peers * min_size`` samples.
    """
    _check(labels, peers, min_size, beta=beta)

    def draw(stream: torch.Generator) -> Tensor:
        share = _log_dirichlet(torch.full((peers,), beta, dtype=torch.float64), stream).softmax(0)
        owner = torch.empty(len(labels), dtype=torch.long)
        owner[_shuffled(labels, stream)] = _deal(share, len(labels))
        return owner

    return _at_least(draw, "quantity_skew", peers, min_size, seed)


def mhd_skew(
    labels: Int[Tensor, " samples"], peers: int, *, skew: float, primary: int, seed: int
) -> list[Int[Tensor, " _"]]:
    """Each peer draws ``primary`` labels, of which it gets more (Zhmoginov et al. 2023).

    Each sample draws its owner from ``mhd_probabilities`` of ``primary_labels``.

    Raises:
        ValueError: a parameter is out of range, or ``primary`` exceeds the number of labels.
    """
    _check(labels, peers, 0)
    values, label = labels.unique(return_inverse=True)
    probabilities = mhd_probabilities(
        primary_labels(len(values), peers, primary=primary, seed=seed), skew=skew
    )
    stream = generator("partition", "mhd_skew", seed)
    owner = torch.multinomial(probabilities.T[label], 1, generator=stream).flatten()
    return _members(owner, peers)


def primary_labels(classes: int, peers: int, *, primary: int, seed: int) -> Bool[Tensor, "peers classes"]:
    """Which labels are primary to which peer in ``mhd_skew``: ``primary`` each, drawn without replacement.

    Raises:
        ValueError: ``primary`` is negative or exceeds the number of labels.
    """
    if not 0 <= primary <= classes:
        raise ValueError(f"primary must be between 0 and the number of labels, {classes}; it is {primary}")
    ranks = torch.rand(peers, classes, generator=generator("partition", "primary_labels", seed)).argsort(1)
    return ranks.argsort(1) < primary


def mhd_probabilities(
    primary: Bool[Tensor, "peers classes"], *, skew: float
) -> Float[Tensor, "peers classes"]:
    """P(peer i | label l) = (1 + s [l primary to i]) / (N + s n_l), with n_l peers to which l is primary.

    Raises:
        ValueError: the skew is negative.
    """
    if skew < 0:
        raise ValueError(f"skew must not be negative; it is {skew}")
    weight = 1 + skew * primary.double()
    return weight / weight.sum(0)


def unowned(parts: list[Int[Tensor, " _"]], samples: int) -> Int[Tensor, " _"]:
    """The sorted positions of the samples that nobody owns."""
    free = torch.ones(samples, dtype=torch.bool)
    free[torch.cat(parts)] = False
    return free.nonzero().flatten()


def _check(labels: Tensor, peers: int, min_size: int, **positive: int | float) -> None:
    for name, value in {"peers": peers, **positive}.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive; it is {value}")
    if peers * min_size > len(labels):
        raise ValueError(
            f"{peers} peers cannot have {min_size} of {len(labels)} samples each;"
            " lower min_size or have fewer peers"
        )


def _log_dirichlet(concentration: Tensor, stream: torch.Generator) -> Tensor:
    """Logarithms, up to a constant, of a draw from Dirichlet(concentration).

    Gamma(a) equals Gamma(a + 1) * U^(1/a) in law. In logarithms nothing underflows: with plain draws
    a small concentration ends in 0/0, or in equal shares.
    """
    gamma = torch._standard_gamma(concentration + 1, generator=stream)
    uniform = 1 - torch.rand(concentration.shape, generator=stream, dtype=concentration.dtype)
    return gamma.log() + uniform.log() / concentration


def _deal(share: Tensor, size: int) -> Tensor:
    """An owner for each of ``size`` samples, in proportion to ``share``, rounded."""
    bounds = share.cumsum(0)[:-1].contiguous()
    return torch.searchsorted(bounds, (torch.arange(size, dtype=share.dtype) + 0.5) / size)


def _shuffled(labels: Tensor, stream: torch.Generator) -> Tensor:
    return torch.randperm(len(labels), generator=stream)


def _members(owner: Tensor, owners: int) -> list[Tensor]:
    return [(owner == i).nonzero().flatten() for i in range(owners)]


def _at_least(
    draw: Callable[[torch.Generator], Tensor], name: str, peers: int, min_size: int, seed: int
) -> list[Tensor]:
    """The first of ``ATTEMPTS`` draws that gives everybody ``min_size`` samples, or the last one repaired."""
    for attempt in range(ATTEMPTS):
        stream = generator("partition", name, seed, attempt)
        owner = draw(stream)
        sizes = torch.bincount(owner, minlength=peers)
        if int(sizes.min()) >= min_size:
            return _members(owner, peers)
    while int(sizes.min()) < min_size:
        smallest, largest = int(sizes.argmin()), int(sizes.argmax())
        theirs = (owner == largest).nonzero().flatten()
        owner[theirs[torch.randint(len(theirs), (), generator=stream)]] = smallest
        sizes[smallest] += 1
        sizes[largest] -= 1
    return _members(owner, peers)
