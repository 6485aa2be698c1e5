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
    """A cluster's settings, from which an aggregation tells before training whether it has a meaning."""

    peers: Sequence[PeerName]
    optimizers: Mapping[PeerName, Optimizer]  # of those in this process
    steps: Sequence[int]  # local steps a round
    clipped: bool
    hub: bool
    agree: bool  # everybody hears everybody, through a hub or not
    fixed: bool  # the same graph in every round
    undirected: bool  # who is heard by a peer hears it, too, in round 0
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
    for each peer of the cluster, or one for all. Rows of peers in other processes are zeros unless something
    has arrived from them, and results computed from zeros are not read. Where the hub is in another process,
    its values are those that it answers; what this process computes in their place is not read either.
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
    """Shapes of each peer's own tensors; rows of trees have the greatest size along each axis."""
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
    def counted(self) -> Float[Tensor, " present"]:
        """Weights p of those who take part; 0 for one of whom nothing that can be used has arrived."""
        return self.p[self.rows]

    @property
    def share(self) -> Float[Tensor, "1 present"]:
        """These weights renormalised over those who take part: a mixing matrix of one row."""
        present = self.counted
        return (present / present.sum())[None]

    @property
    @abstractmethod
    def graph(self) -> Graph:
        """Who hears whom among those who take part."""

    @property
    @abstractmethod
    def hub(self) -> Tree:
        """The hub's weights, ``[1, ...]``; before its first answer known only where peers hold slices."""

    @abstractmethod
    def send(self, kind: str, tree: Tree, compression: Compression | None = None) -> Tree:
        """Send what everybody present says to everybody, and return it as it arrives, ``[present, ...]``.

        The row of a peer of whom nothing arrives that can be used is zero; ``counted`` and ``share`` give its
        weight to the others, in this exchange and in those that follow at the same tick.

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
        """Send what everybody present says to those that hear it, each of whom adds it up.

        Args:
            kind: of the payload.
            tree: what each says, ``[present, ...]``.
            mixing: how much each weighs whom; one row where all hear the same.
            compression: of what is said.
            memory: replicas of all that was sent so far, ``[present, ...]``; what is sent is added to
                them, in place, and they are mixed in its place.

        Returns:
            ``[receivers, ...]``; through a hub, what it answers.

        Raises:
            ConfigError: somebody weighs one that it does not hear.
        """

    @abstractmethod
    def reduce(self, kind: str, tree: Tree, rule: Rule) -> Tree:
        """Send what everybody present says, and combine what each listener hears by ``rule``.

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
        """Send one answer of the hub, ``[1, ...]``, to all who listen; without a hub nothing is sent.

        Args:
            kind: of the payload.
            tree: what listeners are to know.
            compression: of what is sent.
            told: what they know already, so that only the difference is sent; all is sent, if None.
            rows: who listens, if not those who are present next.

        Returns:
            what listeners know then.
        """

    @abstractmethod
    def heard(self, kind: str, otherwise: Tree) -> Tree:
        """What the hub sent last of a kind at the end of a round, ``[1, ...]``; peers that come back get it.

        Args:
            kind: of the payload, other than weights.
            otherwise: is returned if nothing was sent, or there is no hub.
        """

    @abstractmethod
    def weights(self) -> Tree:
        """Weights of the peers that are about to take a local step, to be read only."""

    @abstractmethod
    def minibatch(self, at: Tree) -> Tree:
        """Gradients of those about to step, on their current batches at weights ``at`` ``[1, ...]``."""

    def shift(self, towards: Tree, at: Tree) -> Tree:
        """``towards`` minus ``minibatch(at)``, scaled (see ``scale``)."""
        gradients = self.minibatch(at)
        for name, leaf in gradients.items():
            torch.sub(towards[name], leaf, out=leaf)
        return self.scale(gradients)

    @abstractmethod
    def scale(self, correction: Tree) -> Tree:
        """Corrections of private gradients ``[stepping, ...]``, scaled as the private loss is in this step.

        Where knowledge weighs the private loss by alpha, it weighs the corrections, too.
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
        """Learning rates of the peers that are about to take a local step."""

    @abstractmethod
    def portions(self) -> Float[Tensor, " stepping"]:
        """Samples of a peer's current batch divided by all that it reads in this round, float64."""

    @abstractmethod
    def optimizer(self, row: int) -> Optimizer | None:
        """The local optimizer of a peer, for its hyper-parameters; None of one in another process."""
