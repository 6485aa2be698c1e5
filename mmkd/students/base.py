"""The interface of students: LightningModules that train alone or in a cohort."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from mmkd.bounds import AtLeastZero, BelowOne, Size, SizeOrZero, bounded
from mmkd.functional.classification import (
    balanced,
    cross_entropy,
    log_softmax,
    one_hot,
    soft_cross_entropy,
)
from mmkd.functional.random import keyed
from mmkd.students.labels import AsGiven, ClassLabels, Labels
from mmkd.types import NO_LABEL, Batch, Classes, ConfigError, Predictions, Target, Views


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 0.002, the default optimizer of students."""
    return torch.optim.Adam(parameters, lr=2e-3)


class Student(LightningModule, ABC):
    """The model of a peer. It trains alone under a ``Trainer``, or side by side with others in a cohort.

    Args:
        optimizer: makes the peer's own optimizer from its parameters.
        scheduler: makes its learning-rate schedule, which counts local steps.
    """

    modalities: tuple[str, ...]
    """Modalities of the views that the student reads."""
    gives: ClassVar[type[Predictions]] = Classes
    """Kind of the predictions that the student makes."""
    personal: frozenset[str] = frozenset()
    """Names of parameters and buffers that never leave the peer, whatever is exchanged."""
    still: tuple[str, ...] = ()
    """Names of modules that stay in evaluation while the student trains, such as a frozen encoder.

    Their buffers do not leave the peer.
    """

    def __init__(
        self, *, optimizer: OptimizerCallable = adam, scheduler: LRSchedulerCallable | None = None
    ) -> None:
        super().__init__()
        self._optimizer = optimizer
        self._scheduler = scheduler

    def train(self, mode: bool = True) -> Student:
        """Train or evaluate; what is ``still`` evaluates."""
        super().train(mode)
        for name in self.still:
            self.get_submodule(name).eval()
        return self

    @abstractmethod
    def predict(self, x: Views) -> Predictions:
        """Predict all that the student can teach about samples ``x``."""

    @abstractmethod
    def private_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean loss on a batch of the peer's own samples."""

    def learns_from(self) -> Labels:
        """Kind of the labels that ``private_loss`` reads. Others are refused before anything trains.

        A student of an objective of its own gets its targets as they are given, floats as floats.
        """
        return AsGiven()

    def terms(self, batch: Batch) -> Float[Tensor, ""]:
        """How many terms ``private_loss`` is the mean of: samples.

        Override it where the loss is divided by another number, such as that of boxes or of labels that count
        (and by 1 if that is less): where a batch is cut into parts (``model.accumulate``), each is weighed
        by its terms, so that all make the step of the whole. It reads no weight, and draws what the loss
        draws first.
        """
        return torch.tensor(float(len(batch.ids)), device=batch.ids.device)

    def looks(self) -> bool:
        """Whether the student is to ``look`` at its own training samples before it trains."""
        return False

    def look(self, samples: Callable[[], Iterable[Views]]) -> None:
        """Look at the peer's training samples, as they are, once before it trains: statistics, say.

        What it keeps of them is ``personal``. It is only asked to if ``looks`` says so.

        Args:
            samples: gives them, some at a time, as often as it is called.
        """

    def setup(self, stage: str) -> None:
        """A student that trains alone on ``datamodule.only(peer)`` looks at its samples there."""
        views = getattr(getattr(self.trainer, "datamodule", None), "views", None)
        if views is not None and self.looks():
            self.look(views)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """One local step of a student that trains alone; in a cohort, the cohort takes the steps."""
        with keyed(batch.key, self.device):
            loss = self.private_loss(batch)
        self.log("train/loss", loss)
        return loss

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Log a value of a student that trains alone.

        Raises:
            ConfigError: it is in a cohort, which logs its peers' losses and metrics itself.
        """
        self._check_alone(name)
        super().log(name, *args, **kwargs)

    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        """Log values of a student that trains alone.

        Raises:
            ConfigError: as for ``log``.
        """
        self._check_alone(", ".join(dictionary))
        super().log_dict(dictionary, *args, **kwargs)

    def _check_alone(self, name: str) -> None:
        if self._trainer is not None and self._trainer.lightning_module is not self:
            raise ConfigError(
                f"{type(self).__name__} logs '{name}' inside a cohort, where one step is that of many peers:"
                " log it in training_step, which a student takes alone, or in a callback, to which"
                " cohort.student(name) gives each peer's"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The peer's own optimizer, and its schedule in units of local steps."""
        optimizer = self._optimizer(self.parameters())
        if self._scheduler is None:
            return optimizer
        scheduler: Any = self._scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Teachable(Student, ABC):
    """A student that learns targets as it learns labels, with a loss of its own.

    An oracle teaches it on its private samples, and peers on public ones that only its own loss can read.
    """

    @abstractmethod
    def taught_loss(self, x: Views, target: Target) -> Float[Tensor, ""]:
        """Mean loss of samples ``x`` against what others teach of them."""

    def taught_terms(self, x: Views, target: Target) -> Float[Tensor, ""]:
        """How many terms ``taught_loss`` is the mean of, as ``terms`` says it: weights of samples."""
        return target.weight.sum()

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""] | None, Float[Tensor, ""]]:
        """The losses of the labels, if there are any, and of the target; a cohort weighs them.

        A subclass may override it to read the samples once for both.
        """
        assert batch.target is not None
        labels = self.private_loss(batch) if batch.y is not None else None
        return labels, self.taught_loss(batch.x, batch.target)


@bounded
class Classifier(Teachable):
    """A student whose main head predicts one of ``num_classes`` classes.

    Subclasses write ``embed``; the heads are linear layers on the embedding. Labels are ``[batch]`` classes,
    ``NO_LABEL`` where there is none; or soft labels ``[batch, classes]``, probabilities of classes, a row
    with NaN where there is none.

    Args:
        num_classes: number of classes, the same for every peer of a cohort.
        dim: size of the embedding.
        heads: number of auxiliary heads, which learn from peers only.
        prior_correction: strength of logit adjustment (Menon et al. 2021, eq. 10). The private loss
            reads ``logits + prior_correction * log prior``, with the peer's own label frequencies as
            the prior, so the bare logits are free of the peer's label skew. 0 switches it off.
        label_smoothing: how much of each label is spread over all classes alike, from 0 to below 1.
        class_weights: factor of the private loss of each class; ``balanced`` takes factors in inverse
            proportion to the peer's own label counts, whose mean over its samples is 1.
        kwargs: arguments of ``Student``.

    Raises:
        ConfigError: weights are not one a class.
    """

    personal = frozenset({"log_prior"})
    log_prior: Float[Tensor, " classes"]
    class_weight: Float[Tensor, " classes"] | None

    def __init__(
        self,
        num_classes: Size,
        *,
        dim: Size,
        heads: SizeOrZero = 0,
        prior_correction: AtLeastZero = 0.0,
        label_smoothing: BelowOne = 0.0,
        class_weights: list[AtLeastZero] | Literal["balanced"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.prior_correction = prior_correction
        self.main = nn.Linear(dim, num_classes)
        self.aux = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(heads))
        self.register_buffer("log_prior", torch.zeros(num_classes))
        self.label_smoothing, self.class_weights = label_smoothing, class_weights
        weight = None if class_weights is None else _weights(class_weights, num_classes)
        self.register_buffer("class_weight", weight)
        if weight is not None:
            self.personal = self.personal | {"class_weight"}

    @abstractmethod
    def embed(self, x: Views) -> Float[Tensor, "batch dim"]:
        """Embed samples."""

    def forward(self, x: Views) -> Float[Tensor, "batch classes"]:
        """Logits of the main head, free of the label prior when ``prior_correction`` is on."""
        logits: Tensor = self.main(self.embed(x))
        return logits

    def heads(self, x: Views) -> Classes:
        """Embeddings, main logits and auxiliary logits of samples."""
        embedding = self.embed(x)
        logits = self.main(embedding)
        if not self.aux:
            return Classes(logits, logits.new_empty(0, *logits.shape), embedding)
        # One product for all auxiliary heads; the main head has its own, since either may be all that learns.
        weight = torch.cat([head.weight for head in self.aux])  # type: ignore[misc]  # Linears
        bias = torch.cat([head.bias for head in self.aux])  # type: ignore[misc]
        auxiliary = F.linear(embedding, weight, bias).unflatten(-1, (len(self.aux), -1)).movedim(-2, 0)
        return Classes(logits, auxiliary, embedding)

    def predict(self, x: Views) -> Classes:
        """Predict all that a classifier can teach: embeddings, main and auxiliary logits."""
        return self.heads(x)

    def learns_from(self) -> Labels:
        """One class a sample, or probabilities of classes; ``NO_LABEL`` or NaN where there is none."""
        return ClassLabels(self.num_classes)

    def terms(self, batch: Batch) -> Float[Tensor, ""]:
        """Samples that have a label."""
        return super().terms(batch) if batch.labelled is None else batch.labelled.sum().float()

    def private_logits(self, logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
        """Logits under the peer's own label prior, from those of the main head."""
        return logits + self.prior_correction * self.log_prior

    def private_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy of the main head to the peer's labels, under the peer's own label prior.

        Samples without a label are left out; a batch of such alone has loss 0.
        """
        return self._labels_loss(self(batch.x), batch)

    def taught_loss(self, x: Views, target: Target) -> Float[Tensor, ""]:
        """Mean cross-entropy of the main head against taught probabilities, which are free of any prior."""
        return _taught_loss(self(x), target)

    def losses(self, batch: Batch) -> tuple[Float[Tensor, ""] | None, Float[Tensor, ""]]:
        """Both losses from one forward pass: statistics count the samples once, and random layers draw once.

        Only a subclass with its own ``private_loss`` reads the samples once for each loss.
        """
        if batch.y is None or type(self).private_loss is not Classifier.private_loss:
            return super().losses(batch)
        assert batch.target is not None
        logits = self(batch.x)
        return self._labels_loss(logits, batch), _taught_loss(logits, batch.target)

    def _labels_loss(self, logits: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""]:
        assert batch.y is not None
        logits, y, hard = self.private_logits(logits), batch.y, batch.y.dim() == 1
        if y.is_floating_point() if hard else y.shape != logits.shape:
            kind = f"labels of shape {list(y.shape[1:])} and type {str(y.dtype).removeprefix('torch.')}"
            raise ConfigError(
                f"{type(self).__name__} learns classes, and there are {kind}: give whole numbers, or"
                f" {self.num_classes} probabilities a sample"
            )
        if hard and self.class_weight is None and self.label_smoothing == 0:
            return cross_entropy(logits, y, batch.labelled)
        share = one_hot(y, logits) if hard else y.to(logits.dtype)
        return soft_cross_entropy(logits, share, self.class_weight, smoothing=self.label_smoothing)

    def observe(self, counts: Shaped[Tensor, " classes"]) -> None:
        """Take the peer's label counts as its prior, with one added to each class.

        The added one keeps the logarithm finite for classes that the peer never saw. Balanced class weights
        follow from the counts, too.
        """
        frequency = (counts + 1.0) / (counts.sum() + counts.numel())
        self.log_prior.copy_(frequency.log())
        if self.class_weight is not None and self.class_weights == "balanced":
            self.class_weight.copy_(balanced(counts))

    def setup(self, stage: str) -> None:
        """A student that trains alone on ``datamodule.only(peer)`` takes its label prior from there, too."""
        super().setup(stage)
        counts = getattr(getattr(self.trainer, "datamodule", None), "label_counts", None)
        if counts is not None:
            self.observe(counts())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the accuracy of a student that trains alone."""
        self.log("val/accuracy", self._accuracy(batch), batch_size=len(batch.ids), prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the accuracy of a student that trains alone."""
        self.log("test/accuracy", self._accuracy(batch), batch_size=len(batch.ids))

    def _accuracy(self, batch: Batch) -> Float[Tensor, ""]:
        assert batch.y is not None
        y = batch.y
        if y.dim() == 2:
            y = y.argmax(1).masked_fill(y.isnan().any(1), NO_LABEL)
        return multiclass_accuracy(
            self(batch.x), y, num_classes=self.num_classes, average="micro", ignore_index=NO_LABEL
        )


def _taught_loss(logits: Float[Tensor, "batch classes"], target: Target) -> Float[Tensor, ""]:
    wrong = -(target.values * log_softmax(logits)).sum(-1)
    return (wrong * target.weight).sum() / target.weight.sum().clamp(min=1)


def _weights(given: list[float] | str, num_classes: int) -> Float[Tensor, " classes"]:
    """Weights of classes, ones where they follow from counts that are not yet known."""
    if given == "balanced":
        return torch.ones(num_classes)
    if len(given) != num_classes:
        raise ConfigError(
            f"class_weights are {len(given)} numbers, and there are {num_classes} classes; give one each, or"
            " balanced"
        )
    return torch.tensor(given, dtype=torch.get_default_dtype())
