"""Mixing matrices and their use on a stacked tree: row k weighs what peer k hears.

``adjacency[k, j]`` says that k hears j; its diagonal is False. Matrices are float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mmkd.functional.graph import Graph, neighbours


class Mixing(NamedTuple):
    """A mixing matrix by its rows: whom each receiver weighs, in ascending order, and by how much.

    Slots of weight 0 are empty, so rows may weigh unequally many.
    """

    place: Int[Tensor, "receivers slots"]
    share: Float[Tensor, "receivers slots"]

    def dense(self, peers: int) -> Float[Tensor, "receivers peers"]:
        """The matrix."""
        matrix = self.share.new_zeros(len(self.share), peers)
        return matrix.scatter_add_(1, self.place, self.share)

    def lazy(self, step: float) -> Mixing:
        """Row k moves by ``step`` from itself towards what it was: (1 - step) I + step W; square only."""
        own = self.place == torch.arange(len(self.place))[:, None]
        first = own & (own.cumsum(1) == 1) & (self.share != 0)
        return Mixing(self.place, step * self.share + (1 - step) * first.to(self.share.dtype))


def neighbourhood_mixing(graph: Graph, weights: Float[Tensor, " peers"]) -> Mixing:
    """Row k weighs k itself and those that it hears in proportion to ``weights``, and sums to 1.

    On the complete graph all rows are equal: FedAvg's matrix of rank one. A peer whose neighbourhood
    weighs nothing keeps what it has.

    Raises:
        ValueError: a weight is negative or not finite.
    """
    if bool((weights < 0).any()) or not bool(weights.isfinite().all()):
        raise ValueError(f"mixing weights must be finite and not negative; they are {weights.tolist()}")
    place, there = graph.around
    share = weights.double()[place].where(there, 0.0)
    total = share.sum(1, keepdim=True)
    own = (place == torch.arange(len(place))[:, None]) & there
    return Mixing(place, torch.where(total > 0, share / total, own.double()))


def metropolis_mixing(graph: Graph) -> Mixing:
    """Metropolis-Hastings: W_kj = 1 / (1 + max(deg_k, deg_j)); symmetric and doubly stochastic.

    Raises:
        ValueError: the graph is directed.
    """
    if not graph.undirected:
        raise ValueError(
            "Metropolis weights need an undirected graph, and here a peer hears one that does not hear it"
        )
    place, there = graph.around
    degree = graph.heard_by.double()
    own = (place == torch.arange(len(place))[:, None]) & there
    share = (1 / (1 + torch.maximum(degree[:, None], degree[place]))).where(there & ~own, 0.0)
    return Mixing(place, torch.where(own, 1 - share.sum(1, keepdim=True), share))


def push_mixing(graph: Graph) -> Mixing:
    """Push-sum: j keeps and gives 1 / (1 + number of peers that hear it); columns sum to 1."""
    place, there = graph.around
    return Mixing(place, (1 / (1 + graph.listeners_of.double()))[place].where(there, 0.0))


def without(
    mixing: Mixing | Float[Tensor, "receivers peers"], absent: Bool[Tensor, " peers"]
) -> Mixing | Float[Tensor, "receivers peers"]:
    """A mixing matrix in which nobody weighs those who are absent, and rows sum to what they summed to.

    Others weigh more, in proportion, and equally where they weighed nothing. Of a square matrix each peer
    still weighs itself, and a peer to whom nobody else is left keeps what it has.

    Args:
        mixing: a row for each peer, or one for all.
        absent: of whom nothing has arrived.
    """
    if isinstance(mixing, Mixing):
        own = mixing.place == torch.arange(len(mixing.place))[:, None]
        first = own & (own.cumsum(1) == 1)
        share = mixing.share.masked_fill(absent[mixing.place] & ~own, 0.0)
        return Mixing(mixing.place, _as_before(share, mixing.share, first.to(share.dtype)))
    there = (~absent).expand(mixing.shape)
    if len(mixing) == len(absent) > 1:
        there = there | torch.eye(len(absent), dtype=torch.bool)
    return _as_before(mixing.where(there, 0.0), mixing, there.to(mixing.dtype))


def _as_before(share: Tensor, before: Tensor, otherwise: Tensor) -> Tensor:
    """Rows in proportion to ``share``, or to ``otherwise`` where these sum to 0, with sums as before."""
    share = torch.where(share.sum(1, keepdim=True) > 0, share, otherwise)
    return share * (before.sum(1, keepdim=True) / share.sum(1, keepdim=True))


def weighs_only_heard(mixing: Mixing | Float[Tensor, "receivers peers"], graph: Graph) -> bool:
    """Whether each receiver weighs itself and those that it hears alone; one row stands for all."""
    size, (place, there) = graph.size, graph.around
    if isinstance(mixing, Mixing):
        if mixing.place is place:
            return True
        rows = torch.arange(len(mixing.place))[:, None] * size + mixing.place
        weighed = rows[mixing.share != 0]
    else:
        weighed = (mixing.expand(size, -1) != 0).flatten().nonzero()[:, 0]
    heard = (torch.arange(size)[:, None] * size + place)[there]
    return bool(torch.isin(weighed, heard).all())


def neighbourhood_average(
    adjacency: Bool[Tensor, "peers peers"], weights: Float[Tensor, " peers"]
) -> Float[Tensor, "peers peers"]:
    """``neighbourhood_mixing`` as a matrix."""
    return neighbourhood_mixing(Graph.of(adjacency), weights).dense(len(adjacency))


def metropolis_weights(adjacency: Bool[Tensor, "peers peers"]) -> Float[Tensor, "peers peers"]:
    """``metropolis_mixing`` as a matrix."""
    return metropolis_mixing(Graph.of(adjacency)).dense(len(adjacency))


def push_weights(adjacency: Bool[Tensor, "peers peers"]) -> Float[Tensor, "peers peers"]:
    """``push_mixing`` as a matrix."""
    return push_mixing(Graph.of(adjacency)).dense(len(adjacency))


def contraction(matrix: Float[Tensor, "peers peers"]) -> float:
    """max(|lambda_2|, |lambda_n|): the factor by which one round shrinks disagreement; 1 if disconnected.

    Raises:
        ValueError: the matrix is not symmetric with rows that sum to 1.
    """
    wide = matrix.double().cpu()
    stochastic = torch.allclose(wide.sum(1), torch.ones(len(wide), dtype=wide.dtype), atol=1e-6)
    if not stochastic or not torch.allclose(wide, wide.T, atol=1e-6):
        raise ValueError("the contraction is defined for symmetric mixing matrices whose rows sum to 1")
    eigenvalues = torch.linalg.eigvalsh(wide)
    return float(eigenvalues[:-1].abs().max()) if len(wide) > 1 else 0.0


def spectral_gap(matrix: Float[Tensor, "peers peers"]) -> float:
    """1 - ``contraction``, under the same conditions."""
    return 1 - contraction(matrix)


@torch.no_grad()
def mix(
    tree: Mapping[str, Shaped[Tensor, "peers ..."]], matrix: Float[Tensor, "receivers peers"] | Mixing
) -> dict[str, Shaped[Tensor, "receivers ..."]]:
    """Combine the rows of every floating-point leaf: row k becomes sum_j matrix[k, j] leaf[j].

    Integer leaves are left alone. Leaves are added up in their own dtype (half precision in float32).
    Terms are added in the order of j, zeros skipped, each row by itself: so a row's bits depend on
    nothing but its own weights and what they touch, on one host or many; equal rows give equal bits;
    a row with a single 1 is a copy; and a value that is not finite stays with those who hear it.
    """
    columns, share = matrix if isinstance(matrix, Mixing) else _slots(matrix.double().cpu())
    if len(share) == 1 and bool(share.any()):
        columns, share = columns[share != 0][None], share[share != 0][None]
        active, place = torch.ones_like(columns, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    else:
        # Equal rows are added up once.
        both, place = torch.unique(torch.cat([columns.double(), share], 1), dim=0, return_inverse=True)
        columns, share = both[:, : both.shape[1] // 2].long(), both[:, both.shape[1] // 2 :]
        active = share != 0
    mixed: dict[str, Tensor] = {name: leaf for name, leaf in tree.items() if not leaf.is_floating_point()}
    # Leaves of one type lie side by side: one addition for all of them costs less than one for each.
    kinds: dict[tuple[torch.dtype, torch.device], list[str]] = {}
    for name, leaf in tree.items():
        if leaf.is_floating_point():
            kinds.setdefault((leaf.dtype, leaf.device), []).append(name)
    for (dtype, device), names in kinds.items():
        wide = torch.promote_types(dtype, torch.float32)
        flat = torch.cat([tree[name].reshape(len(tree[name]), -1) for name in names], 1).to(wide)
        total = _summed(flat, share.to(flat), columns, active)
        spread = total.to(dtype)[place.to(device)]
        parts = spread.split([tree[name][0].numel() for name in names], dim=1)
        mixed |= {
            name: part.reshape(-1, *tree[name].shape[1:]) for name, part in zip(names, parts, strict=True)
        }
    return {name: mixed[name] for name in tree}


def _slots(plan: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of what each row weighs, and its weights; rows that weigh fewer than others end in zeros."""
    if len(plan) == 1 and bool(plan.any()):
        columns = plan.nonzero()[:, 1][None]
        return columns, plan[:, columns[0]]
    columns, there = neighbours(plan != 0)
    return columns, plan.gather(1, columns).where(there, 0.0)


def _summed(flat: Tensor, weights: Tensor, columns: Tensor, active: Tensor) -> Tensor:
    """Rows of ``flat`` at ``columns`` times ``weights``, added up slot by slot where ``active``."""
    # A product, then a sum: fused, their rounding would depend on a row's place in memory.
    if len(columns) == 1 and bool(active.all()):  # everybody hears the same: rows are read where they lie
        pairs = list(zip(columns[0].tolist(), weights[0].tolist(), strict=True))
        total: Tensor = flat[pairs[0][0]] * pairs[0][1]
        term = torch.empty_like(total)
        for row, weight in pairs[1:]:
            total.add_(torch.mul(flat[row], weight, out=term))
        return total[None]
    total, full = flat.new_zeros(len(columns), flat.shape[1]), active.all(0).tolist()
    picks, alive = columns.to(flat.device), active.to(flat.device)
    for slot, everybody in enumerate(full):
        term = flat[picks[:, slot]].mul_(weights[:, slot, None])
        if everybody:
            total = term if slot == 0 else total.add_(term)
        else:
            total = torch.where(alive[:, slot, None], term if slot == 0 else total + term, total)
    return total
