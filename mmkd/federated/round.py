"""What an aggregation sees of a round: who takes part, and how to speak, listen and differentiate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from mmkd.encoding import Compression
from mmkd.functional.graph import Graph
from mmkd.functional.mixing import Mixing
from mmkd.functional.neighbourhoods import Rule
from mmkd.functional.slices import Shapes
from mmkd.functional.trees import Tree
from mmkd.types import PeerName


class Setting(NamedTuple):
    """What must be known before training to say whether an aggregation has a meaning."""

    peers: Sequence[PeerName]
    optimizers: Mapping[PeerName, Optimizer]  # of those in this process
    steps: Sequence[int]  # local steps a round
    clipped: bool
    hub: bool
    agree: bool  # everybody hears everybody, through a hub or not
    fixed: bool  # the same graph in every round
    undirected: bool  # who is heard hears, in round 0
    sampled: bool  # peers may sit out
    drawn: bool  # who sits out is drawn with known chances, or nobody does
    common: bool  # all begin with equal weights
    whole_epochs: bool  # local work passes over all private samples
    p: Float[Tensor, " peers"]  # weights
    q: Float[Tensor, " peers"]  # chances to take part
    whole: bool  # all are in this process


class Round(ABC):
    """One round of one cluster. A *row* is a peer's place in the cluster.

    Trees that an aggregation is given have a row for each peer that takes part; what it keeps has a row
    for each peer of the cluster, or one for all. Rows of peers in other processes are zeros until they are
    heard, and nobody reads what comes of them; where the hub is in another process, what it knows is what it
    answers, and not what is made here of what nobody here has heard.
    """

    number: int
    rows: Int[Tensor, " present"]
    """Who takes part."""
    p: Float[Tensor, " peers"]
    """Weights of the peers, which sum to 1, float64."""
    q: Float[Tensor, " peers"]
    """Chances of the peers to take part, float64."""
    steps: Float[Tensor, " peers"]
    """Local steps of the peers in a round, float64."""
    shapes: Sequence[Shapes]
    """Of each peer's own tensors; rows of trees have the greatest."""
    agree: bool
    """Whether everybody hears everybody."""
    step: int
    """How many ticks of the round have passed."""
    ticks: int
    """Ticks of a round."""

    @property
    def size(self) -> int:
        """Peers in the cluster."""
        return len(self.p)

    @property
    def share(self) -> Float[Tensor, "1 present"]:
        """P renormalised over those who take part: a mixing matrix of one row."""
        present = self.p[self.rows]
        return (present / present.sum())[None]

    @property
    @abstractmethod
    def graph(self) -> Graph:
        """Who hears whom among those who take part."""

    @property
    @abstractmethod
    def hub(self) -> Tree:
        """What the hub has, ``[1, ...]``: known before its first answer only where peers hold slices."""

    @abstractmethod
    def send(self, kind: str, tree: Tree, compression: Compression | None = None) -> Tree:
        """Everybody present speaks, where everybody hears everybody; what is heard, ``[present, ...]``.

        Raises:
            ConfigError: on this graph not everybody hears everybody.
        """

    @abstractmethod
    def mix(
        self,
        kind: str,
        tree: Tree,
        mixing: Float[Tensor, "receivers present"] | Mixing,
        *,
        compression: Compression | None = None,
        memory: Tree | None = None,
    ) -> Tree:
        """Everybody present speaks, and each adds up what it hears.

        Args:
            kind: of the payload.
            tree: what each says, ``[present, ...]``.
            mixing: how much each weighs whom; one row where all hear the same.
            compression: of what is said.
            memory: what all remember of each other, ``[present, ...]``: what is said is added to it, in
                place, and it is mixed instead.

        Returns:
            ``[receivers, ...]``; through a hub, what it answers.

        Raises:
            ConfigError: somebody weighs one that it does not hear.
        """

    @abstractmethod
    def reduce(self, kind: str, tree: Tree, rule: Rule) -> Tree:
        """Everybody present speaks, and ``rule`` makes something of what each listener hears.

        Returns:
            ``[1, ...]`` where everybody hears everybody, through a hub or not, else ``[present, ...]``.
        """

    @abstractmethod
    def answer(
        self,
        kind: str,
        tree: Tree,
        *,
        compression: Compression | None = None,
        told: Tree | None = None,
        rows: Sequence[int] | None = None,
    ) -> Tree:
        """The hub tells all who listen the same, ``[1, ...]``; free where there is no hub.

        Args:
            kind: of the payload.
            tree: what they are to know.
            compression: of what is said.
            told: what they know already, so that the difference is said; if None, all is.
            rows: who listens, if not those who are present next.

        Returns:
            what listeners know then.
        """

    @abstractmethod
    def heard(self, kind: str, otherwise: Tree) -> Tree:
        """What the hub said last of a kind at the end of a round, ``[1, ...]``; it is told to who comes back.

        Args:
            kind: of the payload, other than weights.
            otherwise: what it is if nothing was said, or there is no hub.
        """

    @abstractmethod
    def weights(self) -> Tree:
        """Weights of those who are about to take a local step; they may be live, so only read them."""

    @abstractmethod
    def minibatch(self, at: Tree) -> Tree:
        """Gradient of each of them on its current batch at weights ``at`` ``[1, ...]``."""

    def shift(self, towards: Tree, at: Tree) -> Tree:
        """``towards`` less each one's gradient at ``at`` on its current batch, scaled (see ``scale``)."""
        found = self.minibatch(at)
        for name, leaf in found.items():
            torch.sub(towards[name], leaf, out=leaf)
        return self.scale(found)

    @abstractmethod
    def scale(self, correction: Tree) -> Tree:
        """Corrections of private gradients ``[stepping, ...]``, scaled as the private loss is in this step.

        Beside knowledge a step descends alpha times the private loss, and so must what corrects it.
        """

    @abstractmethod
    def full(self, at: Tree) -> Tree:
        """Gradient of all who take part, each over its private samples, at ``at`` ``[1, ...]``.

        Read in batches of nearly equal size, each counted by its size, in training mode.
        """

    @abstractmethod
    def distil(
        self,
        x: Tree,
        *,
        steps: int,
        batch_size: int,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        across: bool,
    ) -> Tree:
        """Train ``x`` ``[1, ...]`` on public samples towards what peers predict there.

        Args:
            x: weights of the cluster.
            steps: optimizer steps.
            batch_size: public samples in each.
            optimizer: makes the hub's own, anew every round.
            across: whether the peers of all clusters teach, or those of this one.
        """

    @abstractmethod
    def rates(self) -> list[float]:
        """Learning rates of those who are about to take a local step."""

    @abstractmethod
    def portions(self) -> Float[Tensor, " stepping"]:
        """Which part of what a peer reads in this round its current batch is, float64."""

    @abstractmethod
    def optimizer(self, row: int) -> Optimizer | None:
        """The local optimizer of a peer, for its hyper-parameters; None of one in another process."""
