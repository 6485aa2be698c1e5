"""A student as one function of named tensors, which is what other runtimes run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmkd.students.base import Classifier, Student
from mmkd.types import SHOWN, Classes, ConfigError, Detections, Padded, Predictions, Tags, Values, Views


class Graph(nn.Module):
    """What a student predicts: from tensors in the order of ``inputs`` to others in that of ``outputs``.

    Whatever the student does to samples is part of it: resizing, normalisation, spectrograms, non-maximum
    suppression. A student of several modalities also reads which of its views are there.

    Args:
        student: is evaluated, and not copied.
        temperature: by which logits are divided before they become ``probabilities``.
    """

    def __init__(self, student: Student, temperature: float = 1.0) -> None:
        super().__init__()
        self.student = student.eval()
        self.temperature = temperature
        modalities = list(student.modalities)
        self.several = len(modalities) > 1
        self.inputs = [*modalities, *(SHOWN + m for m in modalities)] if self.several else modalities
        """Names of the tensors that are read."""
        self.outputs = {
            Classes: ["logits", "probabilities"],
            Tags: ["logits", "probabilities"],
            Values: ["values"],
            Detections: ["detections"],
        }[student.gives]
        """Names of the tensors that are given."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """All outputs of a batch."""
        found: Predictions = self.student.predict(self._views(tensors))
        if isinstance(found, Classes):
            return found.logits, (found.logits / self.temperature).softmax(-1)
        if isinstance(found, Tags):
            return found.logits, (found.logits / self.temperature).sigmoid()
        return (found.values,) if isinstance(found, Values) else (found.boxes,)

    def _views(self, tensors: Sequence[Tensor]) -> Any:
        return dict(zip(self.inputs, tensors, strict=True)) if self.several else tensors[0]

    @torch.no_grad()
    def embedding(self, tensors: Sequence[Tensor]) -> Float[Tensor, "batch dim"]:
        """Embeddings of a batch, by a student that has some.

        Raises:
            ConfigError: it has none.
        """
        if not isinstance(self.student, Classifier):
            raise ConfigError(f"a {type(self.student).__name__} embeds nothing: remember nothing")
        return self.student.embed(self._views(tensors))

    def arguments(self, views: Views) -> tuple[Tensor, ...]:
        """The tensors of a batch of samples, as data hand them out.

        Raises:
            ConfigError: samples are of unequal length, or of another kind than the student reads.
        """
        given: Mapping[str, Any] = views if isinstance(views, Mapping) else {self.inputs[0]: views}
        found = []
        for name in self.inputs:
            tensor = given.get(name)
            if tensor is None and name.startswith(SHOWN):
                view = given[name.removeprefix(SHOWN)]
                tensor = torch.ones(len(view), dtype=torch.bool)
            if isinstance(tensor, Padded):
                raise ConfigError(
                    f"samples of '{name}' are of unequal length, and a graph reads one: cut or pad them"
                )
            if not isinstance(tensor, Tensor):
                raise ConfigError(f"the student reads '{name}', of which these samples have nothing")
            found.append(tensor)
        return tuple(found)
