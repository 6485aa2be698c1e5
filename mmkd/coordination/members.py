"""Weights of the peers of a cluster along one axis, with zeros for peers in other processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from mmkd.cohort.peer_axis import alike, widest
from mmkd.cohort.peers import Peers
from mmkd.functional.slices import Shapes, greatest, padded
from mmkd.functional.trees import Tree, pick, put
from mmkd.types import ConfigError, PeerName


class Members:
    """Weights of peers of one cluster, in the order in which they are named.

    Where all are in this process, rows are those of the peer axis, without a copy.

    Args:
        names: of the cluster, in canonical order.
        peers: those of the cohort, and the facts of peers in other processes.
        slices: whether peers hold leading slices of the widest student's weights, instead of equal shapes.

    Raises:
        ConfigError: the students cannot be averaged.
    """

    def __init__(self, names: list[PeerName], peers: Peers, *, slices: bool) -> None:
        self.names, self.slices, self._peers, self._axis = names, slices, peers, peers.axis
        self.here = [names[i] for i in peers.here(names)]
        self.whole = len(self.here) == len(names)
        facts = peers.everybody
        self.shapes: list[Shapes] = [facts[name].shapes for name in names]
        """For each peer, shapes of the tensors that may leave it."""
        self.widest = widest(dict(zip(names, self.shapes, strict=True))) if slices else names
        """Peers whose students hold those of all others as slices; everybody without slices."""
        alike(self.widest, [facts[name].shapes for name in self.widest])
        self.statistics = frozenset(facts[self.widest[0]].statistics)
        """Names of the floating-point buffers among these tensors."""

    @property
    def common(self) -> bool:
        """Whether all begin with equal weights; in several processes, whether equal seeds draw these."""
        here = self.held(self.widest)
        held = self._axis.parameters_of(here) if here else {}
        starts = {self._peers.everybody[name].start for name in self.widest}
        equal = all(bool((leaf == leaf[:1]).all()) for leaf in held.values())
        return equal and (self.whole or len(starts) == 1)

    def check_start(self, *, hub: bool) -> None:
        """Refuse a cluster whose first weights are needed in this process and are not known in it.

        Args:
            hub: whether a hub is in this process, which needs them even if no peer of the cluster is.

        Raises:
            ConfigError: nobody here holds them.
        """
        if (self.here or hub) and not self.held(self.widest):
            kind = "one of the widest" if self.slices else "one"
            raise ConfigError(
                f"all of {', '.join(self.names)} start from weights in common: hold {kind} of them in the"
                " process of the hub, and beside any other of them"
            )

    def parameters_of(self, names: Sequence[PeerName]) -> Tree:
        """Parameters ``[names, ...]``; to be read only, perhaps the students' own."""
        if self.whole:
            return self._axis.parameters_of(names)
        here = self.held(names)
        return self.among(names, self._axis.parameters_of(here) if here else self._zeros())

    def beginning(self, names: Sequence[PeerName], known: Tree, *, equal: bool) -> Tree:
        """Parameters ``[names, ...]`` with which peers begin a round, those in other processes among them.

        Args:
            names: of the peers.
            known: the hub's weights ``[1, ...]``, where they are known here.
            equal: whether all have heard them; if not, rows of peers in this process are their own.
        """
        x = self.parameters_of(names)
        if self.whole:
            return x
        if not known and self.here:
            known = self.parameters_of((self.held(names) or self.here)[:1])
        common = {n: (known or x)[n].expand(leaf.shape).clone() for n, leaf in x.items()}
        if not equal:
            here = torch.tensor(self._peers.here(names), dtype=torch.long)
            put(common, here, pick(x, here))
        return common

    def weights(self, names: Sequence[PeerName]) -> Tree:
        """A copy of parameters and floating-point buffers, ``[names, ...]``."""
        here = self.held(names)
        if not here:
            return self.among(names, self._zeros(buffers=True))
        found = self._axis.weights(here, buffers=True, slices=self.slices)
        return found if self.whole else self.among(names, found)

    def cut(self, *, buffers: bool) -> Tree:
        """Load slices of the widest student's initial weights, which all know from the seed.

        Args:
            buffers: whether floating-point buffers are included.

        Returns:
            those weights, ``[1, ...]``.
        """
        x = self.weights((self.held(self.widest) or self.widest)[:1])
        x = {n: leaf for n, leaf in x.items() if buffers or n not in self.statistics}
        self.load([name for name in self.names if name not in self.widest], x)
        return x

    def load(self, names: Sequence[PeerName], weights: Mapping[str, Tensor]) -> None:
        """Overwrite weights of those in this process with their rows, or with the one row for all."""
        here = self.held(names)
        if not here:
            return
        if len(here) < len(names):
            places = self._peers.here(names)
            weights = {n: t if len(t) == 1 else t[places] for n, t in weights.items()}
        rows = {n: t.expand(len(here), *t.shape[1:]) if len(t) == 1 else t for n, t in weights.items()}
        parameters = {n: t for n, t in weights.items() if n not in self.statistics}
        self._peers.divergence.given(here, parameters)
        self._axis.load_weights(here, rows)

    def among(self, names: Sequence[PeerName], held: Mapping[str, Tensor]) -> Tree:
        """Rows of those in this process, with rows of zeros for all others of ``names``."""
        places = self._peers.here(names)
        spread = {}
        for n, leaf in held.items():
            leaf = padded(leaf, self.full[n]) if self.slices else leaf
            spread[n] = leaf.new_zeros(len(names), *leaf.shape[1:])
            spread[n][places] = leaf
        return spread

    def held(self, names: Sequence[PeerName]) -> list[PeerName]:
        """Those of ``names`` that are in this process."""
        return list(names) if self.whole else [names[i] for i in self._peers.here(names)]

    @cached_property
    def full(self) -> Shapes:
        """The greatest shape of each tensor."""
        return {n: greatest(own[n] for own in self.shapes) for n in self.shapes[0]}

    def _zeros(self, *, buffers: bool = False) -> Tree:
        """Tensors of the greatest shapes, without rows."""
        device = self._peers.device
        return {
            n: torch.zeros(0, *shape, device=device)
            for n, shape in self.full.items()
            if buffers or n not in self.statistics
        }
