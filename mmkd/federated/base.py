"""The interface of aggregations: how weights are combined, apart from who hears whom and when."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmkd.bounds import AtLeastZero, bounded
from mmkd.encoding import Compression
from mmkd.federated.round import Round, Setting
from mmkd.functional.trees import Tree, add, pick, put, subtract, zeros
from mmkd.types import ConfigError, Modality, PeerName


@bounded
class Aggregation(ABC):
    """Combines the weights of peers in clusters; peers of different clusters never mix.

    A subclass writes ``finish`` and ``average``, or ``combine`` of a ``Combination``.

    Each cluster has an aggregation of its own. A round calls ``begin`` before the first local step,
    ``correct`` at every local step, between backward and clipping, so that momentum contains the
    correction, and ``finish`` after the last one. Buffers of students go through ``average`` alone.

    Args:
        among: the clusters: peers of one ``modality``, of one ``fleet``, ``all``, or named lists.
        weights: p_k of each peer: its ``samples``, ``uniform``, or a number for each peer.
        buffers: ``average`` floating-point buffers such as normalisation statistics with the weights,
            or leave them ``local``. Integer counters are never averaged.
        optimizer_state: ``reset`` the local optimizers when weights have been combined, or ``keep``.
    """

    kind = "weights"
    distils: ClassVar[bool] = False
    """Whether the hub reads public samples."""
    corrects: ClassVar[bool] = False
    """Whether ``correct`` changes or reads local gradients."""
    slices: ClassVar[bool] = False
    """Whether peers may hold leading slices of the widest student's weights, instead of equal shapes."""

    def __init__(
        self,
        *,
        among: Literal["modality", "fleet", "all"] | dict[str, list[PeerName]] = "modality",
        weights: Literal["samples", "uniform"] | dict[PeerName, AtLeastZero] = "samples",
        buffers: Literal["average", "local"] = "average",
        optimizer_state: Literal["reset", "keep"] = "reset",
    ) -> None:
        self.among, self.weights, self.buffers = among, weights, buffers
        self.optimizer_state = optimizer_state
        self.state: dict[str, Tree] = {}
        """All that the aggregation remembers from one tick to the next, saved in checkpoints."""

    @property
    def agrees(self) -> bool:
        """Whether all who take part in a round begin with equal weights x."""
        return False

    @property
    def in_step(self) -> bool:
        """Whether all who send something have to be in the same round."""
        return True

    def check(self, setting: Setting) -> None:
        """Refuse settings in which this aggregation has no meaning.

        Raises:
            ConfigError: says which, and what to do.
        """
        name = type(self).__name__
        if self.agrees and not setting.agree:
            raise ConfigError(f"{name} needs everybody to hear everybody: choose topology Star or Complete")
        if self.agrees and setting.sampled and not setting.hub:
            raise ConfigError(f"{name} needs a hub where peers sit out: choose topology Star")
        if self.agrees and not setting.common:
            raise ConfigError(f"{name} starts from weights that all have in common: set model.init to shared")

    def begin(self, x: Tree, round: Round) -> None:
        """Prepare a round of peers with weights ``x`` ``[present, ...]``, which local steps may overwrite."""
        return

    def correct(self, g: Tree, rows: Int[Tensor, " stepping"], round: Round) -> Tree:
        """Gradients that the local optimizers of the peers in ``rows`` get in place of ``g``.

        ``g`` has the leaves that a loss has reached; it may be changed in place.
        """
        return g

    @abstractmethod
    def finish(self, y: Tree, round: Round) -> Tree:
        """Weights of the next round, from the weights after local work.

        Args:
            y: weights after local work, ``[present, ...]``, which may be the students' own tensors.
            round: who takes part, and how peers send to each other.

        Returns:
            weights ``[1, ...]`` if all become the same, else ``[present, ...]``.
        """

    @abstractmethod
    def average(self, statistics: Tree, round: Round) -> Tree:
        """Statistics of normalisation ``[present, ...]``, combined as weights are.

        Returns:
            as ``finish``.
        """

    def say(self, kind: str, tree: Tree, round: Round, compression: Compression | None) -> Tree:
        """Send a tree, compressed if wanted; what compression leaves out is sent in later rounds."""
        if compression is None:
            return round.send(kind, tree)
        if not compression.error_feedback:
            return round.send(kind, tree, compression)
        kept = self.state.setdefault(f"{kind} unsaid", zeros(tree, round.size))
        carried = add(tree, pick(kept, round.rows))
        heard = round.send(kind, carried, compression)
        put(kept, round.rows, subtract(carried, heard))
        return heard

    def clusters(self, modalities: Mapping[PeerName, Modality]) -> list[list[PeerName]]:
        """The clusters, each in the order of ``modalities``; lone peers have nothing to combine.

        Raises:
            ConfigError: a cluster or a weight names an unknown peer, or a peer is in two clusters.
        """
        for peer in self.weights if isinstance(self.weights, dict) else ():
            if peer not in modalities:
                raise ConfigError(f"aggregation.weights names '{peer}', which is no peer")
        if isinstance(self.among, dict):
            listed = [peer for peers in self.among.values() for peer in peers]
            for peer in listed:
                if peer not in modalities:
                    raise ConfigError(f"aggregation.among names '{peer}', which is no peer")
                if listed.count(peer) > 1:
                    raise ConfigError(f"aggregation.among names '{peer}' twice")
            keys = {peer: name for name, peers in self.among.items() for peer in peers}
        else:
            keys = {peer: self._key(peer, modality) for peer, modality in modalities.items()}
        groups: dict[str, list[PeerName]] = {}
        for peer in modalities:
            if peer in keys:
                groups.setdefault(keys[peer], []).append(peer)
        return [peers for peers in groups.values() if len(peers) > 1]

    def _key(self, peer: PeerName, modality: Modality) -> str:
        return {"modality": modality, "fleet": peer.rsplit("/", 1)[0]}.get(str(self.among), "all")

    def proportions(self, samples: Mapping[PeerName, float]) -> Tensor:
        """Weights p of the peers of a cluster, from how many samples each owns; they sum to 1, in float64.

        Raises:
            ConfigError: given weights miss a peer, are negative, or sum to nothing.
        """
        if isinstance(self.weights, dict):
            missing = [peer for peer in samples if peer not in self.weights]
            if missing:
                raise ConfigError(f"aggregation.weights says nothing about {', '.join(missing)}")
            given = [float(self.weights[peer]) for peer in samples]
        else:
            given = [1.0 if self.weights == "uniform" else float(n) for n in samples.values()]
        p = torch.tensor(given, dtype=torch.float64)
        if bool((p < 0).any()) or not 0 < float(p.sum()) < float("inf"):
            raise ConfigError("aggregation.weights must be at least 0, finite, and not all 0")
        return p / p.sum()


class Combination(Aggregation):
    """The base of rules by which a peer combines its own weights with those that it hears.

    The same rule works through a hub, on a complete graph and on any other. A rule sees only what a peer
    hears.
    """

    @abstractmethod
    def combine(self, heard: Tree, weights: Float[Tensor, "listeners heard"]) -> Tree:
        """New weights of listeners, ``[listeners, ...]``.

        Args:
            heard: weights of themselves and of those that they hear, ``[listeners, heard, ...]``; the
                listeners of one call hear equally many.
            weights: p of those heard, which sum to 1 for each listener.
        """

    def finish(self, y: Tree, round: Round) -> Tree:
        """Weights of the next round: each peer's combination."""
        return round.reduce(self.kind, y, self.combine)

    def average(self, statistics: Tree, round: Round) -> Tree:
        """Statistics, combined by the same rule as weights."""
        return round.reduce(self.kind, statistics, self.combine)


def of_those_there(x: Tree, began: Tree, round: Round) -> Tree:
    """The rows of the peers that are still there; some may have left since the round began."""
    return pick(x, torch.isin(began[""].to(round.rows), round.rows).nonzero().flatten())


def counted_once(setting: Setting) -> None:
    """Refuse weights of which those present may have none, and draws that count sizes of data twice.

    Raises:
        ConfigError: a peer that may be alone weighs nothing, or both the draw and the weights differ.
    """
    if setting.sampled:
        if bool((setting.p == 0).any()):
            raise ConfigError(
                "a peer of weight 0 may be the only one of a round; leave it out of aggregation.among"
            )
        if setting.p.unique().numel() > 1 and setting.q.unique().numel() > 1:
            raise ConfigError(
                "participation and aggregation.weights both count sizes: set weights to uniform"
            )


def linear_optimizers(setting: Setting, name: str, *, momentum: bool) -> None:
    """Refuse local optimizers whose steps are not linear in the gradient.

    Raises:
        ConfigError: an optimizer is not SGD, decays weights, or has momentum where none may be.
    """
    for peer, optimizer in setting.optimizers.items():
        options = optimizer.param_groups[0]
        if type(optimizer) is not torch.optim.SGD:
            raise ConfigError(
                f"{name} needs SGD as local optimizer, and '{peer}' has {type(optimizer).__name__}"
            )
        if len(optimizer.param_groups) > 1:
            raise ConfigError(f"{name} needs one parameter group, and the optimizer of '{peer}' has more")
        if options["weight_decay"] != 0:
            raise ConfigError(
                f"{name} has no meaning with weight decay, which '{peer}' has; add it to the loss"
            )
        if not momentum and options["momentum"] != 0:
            raise ConfigError(f"{name} needs SGD without momentum, and '{peer}' has {options['momentum']}")
