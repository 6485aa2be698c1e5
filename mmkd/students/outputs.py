"""Students with one linear head whose outputs are no classes: taggers and regressors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mmkd.bounds import Size, bounded
from mmkd.functional.partly_known import squared_error, tagging
from mmkd.students.base import Student
from mmkd.types import Batch, ConfigError, Tags, Values, Views


@bounded
class OneHead(Student, ABC):
    """A student with one linear head on an embedding. Subclasses write ``embed``.

    Args:
        outputs: how many numbers the head gives; in a cohort, the data's ``num_classes``.
        dim: size of the embedding.
        kwargs: arguments of ``Student``.
    """

    def __init__(self, outputs: Size, *, dim: Size, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = outputs
        self.main = nn.Linear(dim, outputs)

    @abstractmethod
    def embed(self, x: Views) -> Float[Tensor, "batch dim"]:
        """Embed samples."""

    def forward(self, x: Views) -> Float[Tensor, "batch outputs"]:
        """Outputs of the head."""
        outputs: Tensor = self.main(self.embed(x))
        return outputs

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss of a student that trains alone."""
        self.log("val/loss", self.private_loss(batch), batch_size=len(batch.ids), prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss of a student that trains alone."""
        self.log("test/loss", self.private_loss(batch), batch_size=len(batch.ids))

    def _labels(self, batch: Batch) -> Float[Tensor, "batch outputs"]:
        """Labels in the shape of the outputs.

        Raises:
            ConfigError: they are others.
        """
        assert batch.y is not None
        y, size = batch.y, len(batch.ids)
        if y.shape == (size,) and self.num_classes == 1:
            return y[:, None]
        if y.shape != (size, self.num_classes):
            raise ConfigError(
                f"{type(self).__name__} gives {self.num_classes} numbers a sample, and labels have the shape"
                f" {list(y.shape[1:])}: set num_classes of the data to how many there are"
            )
        return y


class Tagger(OneHead):
    """Says of each tag whether it fits a sample, of which any number may (multi-label classification).

    Labels are ``[batch, tags]``: 1 where a tag fits and 0 where it does not, or a probability between;
    ``NO_LABEL`` or NaN where nobody knows. The loss is the mean binary cross-entropy.
    """

    gives = Tags

    def predict(self, x: Views) -> Tags:
        """Log-odds of each tag."""
        return Tags(self(x))

    def private_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean binary cross-entropy; see ``mmkd.functional.partly_known.tagging``."""
        return tagging(self(batch.x), self._labels(batch))


class Regressor(OneHead):
    """Predicts values of a sample (regression).

    Labels are ``[batch, values]``, or ``[batch]`` of one value; NaN where a value is unknown. The loss is
    the mean squared error. Scale values to about 1, as any regression with a default learning rate wants.
    """

    gives = Values

    def predict(self, x: Views) -> Values:
        """The values."""
        return Values(self(x))

    def private_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean squared error; see ``mmkd.functional.partly_known.squared_error``."""
        values = self(batch.x)
        return squared_error(values, self._labels(batch).to(values.dtype))
