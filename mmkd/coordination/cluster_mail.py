"""Sending weights within a cluster: from its peers to a hub or over a graph, and back from the hub."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from mmkd.coordination.alone import UnheardError
from mmkd.coordination.arrivals import Form
from mmkd.coordination.delivery import ALIKE, Delivery
from mmkd.coordination.expected import ExpectedTree
from mmkd.encoding import Compression
from mmkd.functional.graph import Graph
from mmkd.functional.slices import Shapes, leading, padded
from mmkd.functional.trees import Tree, pick, zeros
from mmkd.transport import Stack
from mmkd.types import ConfigError, PeerName


class ClusterMail:
    """Sends trees of a cluster's peers, a row each.

    Args:
        delivery: carries them.
        hub: to which all is sent; if None, peers send over a graph.
        ids: keys of the peers' random streams, for compression that rounds at random.
        shapes: of each peer's own tensors, where peers hold leading slices of the greatest; None if all are
            equal.
        whole: whether all of them are in this process.
    """

    def __init__(
        self,
        delivery: Delivery,
        hub: str | None,
        ids: Mapping[PeerName, str],
        shapes: Mapping[PeerName, Shapes] | None,
        *,
        whole: bool,
    ) -> None:
        self._delivery, self.hub, self._ids, self._shapes = delivery, hub, ids, shapes
        self._whole = whole
        self.hosts = hub is None or delivery.hosts
        """Whether the hub, if there is one, is in this process."""

    def gather(
        self,
        kind: str,
        round: int,
        tree: Tree,
        names: Sequence[PeerName],
        graph: Graph | None,
        compression: Compression | None,
    ) -> tuple[Tree, list[int]]:
        """Send what peers say, and return it as it arrives here, ``[names, ...]``; zeros, where nothing does.

        Args:
            kind: of the payloads.
            round: the round.
            tree: what each says, ``[names, ...]``; rows of peers in other processes are not read.
            names: the peers.
            graph: who hears whom among them; not needed where there is a hub.
            compression: of what is said.

        Returns:
            what arrives, and positions of peers from which something had to arrive here and did not.

        Raises:
            ConfigError: nothing arrives that had to.
        """
        speakers, here, sent = names, list[int](), tree
        if not self._whole:
            here = [i for i, name in enumerate(names) if name in self._ids]
            speakers, sent = [names[i] for i in here], pick(tree, torch.tensor(here, dtype=torch.long))
        if compression is not None and speakers:
            sent = compression.encode(sent, [(self._ids[name], round, kind) for name in speakers])
        stacks = []
        for rows, part in self._alike(speakers, sent):
            senders = [speakers[row] for row in rows]
            if self.hub is not None:
                stacks.append(Stack(senders, part, [self.hub]))
            else:
                assert graph is not None
                stacks.append(Stack(senders, part, names, self._edges(graph, here)))
        heard = self._heard(names, graph, speakers)

        def expected() -> ExpectedTree:
            elsewhere = names if self._whole else [name for name in heard if name not in self._ids]
            return self._tree(elsewhere, tree, compression)

        arrived = self._delivery.deliver(kind, round, stacks, expected)
        if not arrived and not heard:
            return zeros(tree, len(names)), []
        shapes = {name: leaf.shape[1:] for name, leaf in (sent if speakers else tree).items()}
        found, there = rows_by_sender(arrived, names, shapes)
        absent = (
            []
            if len(there) == len(names)
            else [i for i, name in enumerate(names) if name not in there and name in set(heard)]
        )
        if absent and len(absent) == len(heard):
            raise ConfigError(
                f"no '{kind}' arrived in round {round}, neither of '{heard[0]}' nor of anybody else; see in"
                f" the log whether messages were refused, and {ALIKE}"
            )
        return (found if compression is None else compression.decode(found, tree)), absent

    def _tree(self, senders: Sequence[str], tree: Tree, compression: Compression | None) -> ExpectedTree:
        """What peers may send: rows of a tree, or of what compression makes of it."""
        device = next(iter(tree.values())).device
        if compression is not None:
            forms = _forms(compression.example(tree))
            return ExpectedTree(senders, device, lambda *_: forms, compression, tree)
        return ExpectedTree(senders, device, lambda sender, _: self._slice(tree, [sender]))

    def _slice(self, tree: Tree, names: Sequence[PeerName]) -> dict[str, Form]:
        """Shapes and types of a tree, or of the slice of it that peers of one width hold."""
        forms, shapes = _forms(tree), self._shapes
        if shapes is None or not names or names[0] not in shapes:
            return forms
        return {n: (shapes[names[0]][n], dtype) for n, (_, dtype) in forms.items()}

    def _edges(self, graph: Graph, here: list[int]) -> Int[Tensor, "2 edges"] | None:
        """Receivers, and rows of the senders that are in this process; None if all hear all."""
        edges = graph.listed
        if self._whole or edges is None:
            return edges
        row = torch.full((graph.size,), -1)
        row[here] = torch.arange(len(here))
        return torch.stack([edges[0], row[edges[1]]])[:, row[edges[1]] >= 0]

    def _heard(
        self, names: Sequence[PeerName], graph: Graph | None, here: Sequence[PeerName]
    ) -> Sequence[PeerName]:
        """Peers from which something must arrive in this process."""
        if self._whole or (self.hub is not None and self.hosts):
            return names
        if graph is None or not here:  # the hub is in another process
            return here
        listening = torch.tensor([name in self._ids for name in names])
        listener, speaker = graph.edges
        heard = set(speaker[listening[listener]].tolist())
        return [name for i, name in enumerate(names) if i in heard or listening[i]]

    def tell(
        self,
        kind: str,
        round: int,
        tree: Tree,
        names: Sequence[PeerName],
        compression: Compression | None = None,
        like: Tree | None = None,
    ) -> Tree | None:
        """Send the hub's tree ``[1, ...]`` to peers, to each its own slice of it.

        Args:
            kind: of the payload.
            round: the round.
            tree: what the hub sends; where the hub is in another process, values for what no slice covers.
            names: the peers.
            compression: which has encoded the tree, if any.
            like: a tree shaped as what peers read then.

        Returns:
            the tree as it arrives in this process; None if nothing does.

        Raises:
            ConfigError: nothing arrives for a peer in this process.
            UnheardError: nothing arrives, and peers are to go on alone.
        """
        assert self.hub is not None
        if self.hosts:
            wide = {n: leaf.expand(len(names), *leaf.shape[1:]) for n, leaf in tree.items()}
            stacks = [
                Stack([self.hub], {n: leaf[:1] for n, leaf in part.items()}, [names[row] for row in rows])
                for rows, part in self._alike(names, wide)
                if rows
            ]
            self._delivery.deliver(kind, round, stacks)
            return tree
        device = next(iter(tree.values())).device
        arrived = self._delivery.deliver(
            kind,
            round,
            [],
            lambda: ExpectedTree(
                [self.hub or ""], device, lambda _, to: self._slice(tree, to), compression, like, apart=True
            ),
        )
        told_to = {name for stack in arrived for name in stack.receivers}
        if silent := [name for name in names if name in self._ids and name not in told_to]:
            if self._delivery.goes_on:
                raise UnheardError(f"'{self.hub}' has sent no '{kind}' in round {round}")
            raise ConfigError(
                f"'{self.hub}' sent no '{kind}' that can be used to '{silent[0]}', which is here; see in the"
                f" log whether its message was refused, and {ALIKE}"
            )
        if self._shapes is None or not arrived:
            return dict(arrived[0].tensors) if arrived else None
        told = {n: leaf.clone() for n, leaf in tree.items()}
        for stack in arrived:
            for n, leaf in stack.tensors.items():
                leading(told[n], leaf.shape[1:]).copy_(leaf)
        return told

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


def _forms(tree: Mapping[str, Tensor]) -> dict[str, Form]:
    """Shape and type of a row of each leaf."""
    return {n: (leaf.shape[1:], leaf.dtype) for n, leaf in tree.items()}


def with_own(heard: Tree, tree: Tree, absent: Collection[int]) -> Tree:
    """What has arrived, with a row of its own for each who is absent: it still hears itself."""
    rows = sorted(absent)
    if not rows:
        return heard
    at = torch.tensor(rows, device=next(iter(heard.values())).device)
    return {name: leaf.index_copy(0, at, tree[name][rows]) for name, leaf in heard.items()}


def rows_by_sender(
    arrived: Sequence[Stack], names: Sequence[str], shapes: Mapping[str, torch.Size]
) -> tuple[Tree, Collection[str]]:
    """What arrives from known senders, a row each in their order, slices padded with zeros; and who they are.

    Args:
        arrived: stacks of the same tensors.
        names: possible senders, each of which gets a row: of zeros, where nothing arrives.
        shapes: of the rows, by the name of a tensor; rows of other tensors keep their shapes.
    """
    if len(arrived) == 1 and list(arrived[0].senders) == list(names):
        rows = {n: padded(leaf, shapes.get(n, leaf.shape[1:])) for n, leaf in arrived[0].tensors.items()}
        return rows, names
    row, senders = {name: i for i, name in enumerate(names)}, set[str]()
    rows = {}
    for stack in arrived:
        senders |= set(stack.senders)
        places = [row[sender] for sender in stack.senders]
        for n, leaf in stack.tensors.items():
            leaf = padded(leaf, shapes.get(n, leaf.shape[1:]))
            if n not in rows:
                rows[n] = leaf.new_zeros(len(names), *leaf.shape[1:])
            rows[n][places] = leaf
    return rows, senders
