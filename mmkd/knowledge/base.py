"""The interface of knowledge: what peers teach, apart from whom they teach and when."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.bounds import Count, Share, Whole, bounded
from mmkd.caching import KnowledgeCache
from mmkd.encoding.statements import Floats, Wire
from mmkd.types import Classes, ConfigError, PeerName, Predictions, Target


class Heard(NamedTuple):
    """One statement of all speakers."""

    values: Float[Tensor, "speakers samples ..."]
    spoke: Bool[Tensor, "speakers samples"]


class Statement(NamedTuple):
    """One tensor of what peers teach about samples."""

    values: Float[Tensor, "peers samples ..."]
    logits: bool = False  # whether only the softmax of a row matters, so that it may be shifted on its way


@bounded
class Statements(ABC):
    """The base of what peers teach: makes statements, and targets of those that a listener hears.

    A peer makes *statements*, each a tensor ``[samples, ...]`` with a name: the logits of a head, an
    embedding. A step descends ``keep`` times the private loss plus ``weight`` times the loss of what is
    taught, and the private loss alone while a peer has heard nothing. A subclass is a ``Knowledge``, whose
    loss is one of predictions, or a ``PseudoLabels``, which a student learns as it learns labels.

    Args:
        samples: ``batch`` speaks about the public batch of the step, in the step, and its targets
            serve that step; ``all`` speaks about the whole public set, and its targets serve public
            batches until the next exchange.
        speak: ``train`` reuses the training forward; ``eval`` runs another in evaluation mode. The
            whole public set is always read in evaluation mode.
        wire: how statements become the tensors that are sent; single precision if left out.
        teachers: a listener hears at most this many of those that it could, drawn anew at every
            exchange; all of them if left out.
        pool: how many exchanges a listener remembers, of each what it heard then, the last included. On a
            fixed public set this equals a pool of the speakers' checkpoints, without sending weights.
        recall: entries of the pool that a listener draws anew at every step; all of them, if left out.
        confident: a peer speaks only about samples on which the greatest class probability of its
            main head is at least this.
        digest: number of ticks after an exchange in which students learn from peers alone; until the next
            exchange they learn from private samples alone. If left out, they learn from both in every step.
        cache: what listeners know already, which is not said again; all is said, if left out.
        pretrain: number of ticks in which students learn from the labels of public samples before anything
            else. Nothing but this setting reads those labels.
    """

    kind: ClassVar[str]
    """Kind of its payloads in the ledger."""
    about: ClassVar[Literal["public", "classes"]] = "public"
    """What the samples of a statement are: public samples, or the classes themselves."""
    reads: ClassVar[type[Predictions]] = Classes
    """Kind of the predictions that it is made of (``Student.gives``)."""

    keep: float = 1.0
    """Weight of the private loss."""
    weight: float = 1.0
    """Weight of the distillation loss."""

    def __init__(
        self,
        *,
        samples: Literal["batch", "all"] = "batch",
        speak: Literal["train", "eval"] = "train",
        wire: Wire | None = None,
        teachers: Count | None = None,
        pool: Count = 1,
        recall: Count | None = None,
        confident: Share = 0.0,
        digest: Count | None = None,
        pretrain: Whole = 0,
        cache: KnowledgeCache | None = None,
    ) -> None:
        if pool > 1 and samples == "batch":
            raise ConfigError(
                "knowledge.pool needs samples: all; what is said about one batch serves one step only"
            )
        if recall is not None and pool == 1:
            raise ConfigError("knowledge.recall draws from a pool: set knowledge.pool above 1")
        if digest is not None and samples == "batch":
            raise ConfigError(
                "knowledge.digest needs samples: all; what is said about one batch serves one step only"
            )
        self.samples, self.speaks_in, self.wire = samples, speak, wire or Floats()
        self.teachers, self.pool, self.recall, self.confident = teachers, pool, recall, confident
        if cache is not None and confident > 0:
            raise ConfigError(
                "knowledge.confident takes back what is no longer sure, which knowledge.cache keeps: leave"
                " one out"
            )
        self.digest, self.pretrain, self.cache = digest, pretrain, cache

    @abstractmethod
    def speak(self, predictions: Any) -> dict[str, Statement]:
        """The statements that peers make, from what they predict (of the kind that it ``reads``).

        A row is about its own sample alone where ``samples`` is ``all`` or not every peer sees every sample.
        """

    @abstractmethod
    def listen(
        self,
        heard: Mapping[str, Heard],
        hears: Bool[Tensor, "listeners speakers"],
        own: Bool[Tensor, "listeners speakers"],
    ) -> dict[str, Target]:
        """Targets of each listener from what it hears; through a hub, those that the hub makes for it.

        Args:
            heard: statements by name; a peer that does not make one counts as silent in it.
            hears: whom each listener hears, itself not among them.
            own: which speaker each listener is.
        """

    @property
    def personal(self) -> bool:
        """Whether listeners who hear the same would make different things of it."""
        return self.teachers is not None

    def check(self, shapes: Mapping[PeerName, Predictions]) -> None:
        """Refuse students that this knowledge cannot teach.

        Args:
            shapes: what a peer of each fleet predicts on one sample, ``[1, 1, ...]``.

        Raises:
            ConfigError: such a student.
        """
        return


class Knowledge(Statements):
    """Statements whose targets are learned by a loss on a student's predictions."""

    @abstractmethod
    def loss(self, predictions: Any, targets: Mapping[str, Target]) -> Float[Tensor, " peers"]:
        """Distillation loss of each peer, a mean over the samples that it sees and has heard about."""
