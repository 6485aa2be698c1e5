"""Sending weights within a cluster: from its peers to a hub or over a graph, and back from the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from mmkd.coordination.delivery import Delivery, rows_by_sender
from mmkd.encoding import Compression
from mmkd.functional.graph import Graph
from mmkd.functional.slices import Shapes, leading
from mmkd.functional.trees import Tree
from mmkd.transport import Stack
from mmkd.types import PeerName


class ClusterMail:
    """Sends trees of a cluster's peers, a row each.

    Args:
        delivery: carries them.
        hub: to which all is sent; if None, peers send over a graph.
        ids: keys of the peers' random streams, for compression that rounds at random.
        shapes: of each peer's own tensors, where peers hold leading slices of the greatest; None if all are
            equal.
    """

    def __init__(
        self,
        delivery: Delivery,
        hub: str | None,
        ids: Mapping[PeerName, str],
        shapes: Mapping[PeerName, Shapes] | None,
    ) -> None:
        self._delivery, self.hub, self._ids, self._shapes = delivery, hub, ids, shapes

    def gather(
        self,
        kind: str,
        round: int,
        tree: Tree,
        names: Sequence[PeerName],
        graph: Graph | None,
        compression: Compression | None,
    ) -> Tree:
        """Send what peers say, and return it as it arrives, ``[names, ...]``.

        Args:
            kind: of the payloads.
            round: the round.
            tree: what each says, ``[names, ...]``.
            names: the peers.
            graph: who hears whom among them; not needed where there is a hub.
            compression: of what is said.
        """
        sent = tree
        if compression is not None:
            sent = compression.encode(tree, [(self._ids[name], round, kind) for name in names])
        stacks = []
        for rows, part in self._alike(names, sent):
            senders = [names[row] for row in rows]
            if self.hub is not None:
                stacks.append(Stack(senders, part, [self.hub]))
            else:
                assert graph is not None
                stacks.append(Stack(senders, part, names, graph.listed))
        arrived = self._delivery.deliver(kind, round, stacks)
        heard = rows_by_sender(arrived, names, {name: leaf.shape[1:] for name, leaf in sent.items()})
        return heard if compression is None else compression.decode(heard, tree)

    def tell(self, kind: str, round: int, tree: Tree, names: Sequence[PeerName]) -> None:
        """Send the hub's tree ``[1, ...]`` to peers, to each its own slice of it."""
        assert self.hub is not None
        wide = {n: leaf.expand(len(names), *leaf.shape[1:]) for n, leaf in tree.items()}
        stacks = [
            Stack([self.hub], {n: leaf[:1] for n, leaf in part.items()}, [names[row] for row in rows])
            for rows, part in self._alike(names, wide)
            if rows
        ]
        self._delivery.deliver(kind, round, stacks)

    def _alike(self, names: Sequence[PeerName], tree: Tree) -> Iterator[tuple[list[int], Tree]]:
        """Rows of peers in parts of equal shapes, each cut to its own slice where peers hold slices."""
        if self._shapes is None:
            yield list(range(len(names))), tree
            return
        kinds: dict[tuple[torch.Size, ...], list[int]] = {}
        for row, name in enumerate(names):
            kinds.setdefault(tuple(self._shapes[name][n] for n in tree), []).append(row)
        for sizes, rows in kinds.items():
            parts = zip(tree.items(), sizes, strict=True)
            yield rows, {n: leading(leaf[rows], size) for (n, leaf), size in parts}
