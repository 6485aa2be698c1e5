"""Students that read several modalities of a sample at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mmkd.bounds import BelowOne, Share, Size, bounded
from mmkd.students.base import Classifier, Student, adam
from mmkd.students.recipes import Recipe, recipe_of, student_of
from mmkd.students.settings import settings_of
from mmkd.types import SHOWN, ConfigError, Modality, Views

Encoder = Callable[[int], Classifier]
"""Makes a student from the number of classes; a fusion uses the student's ``embed``."""


@bounded
class FusionStudent(Classifier):
    """A student that reads ``{modality: view}``, where views may be missing (``mmkd.types.Views``).

    Each modality has the encoder of a student that reads this modality alone. The embeddings are projected to
    one size and averaged over the views that a sample has; without any view the embedding is 0. An
    encoder reads zeros in place of a missing view, so the values in the batch at that place have no effect
    (but normalisation over a batch counts these zeros).

    A checkpoint keeps the class and the hyper-parameters of each encoder's student, so
    ``load_from_checkpoint`` needs no ``encoders`` unless a student keeps no hyper-parameters.

    Args:
        num_classes: number of classes, the same for every peer of a cohort.
        encoders: for each modality a function that makes the student whose encoder is taken, or the recipe
            that a checkpoint keeps of it; their order has no effect.
        dim: size of the embedding.
        modality_dropout: probability that a view is dropped in training, for each view of a sample
            independently. A sample keeps one of its views where all would be dropped.
        dropout: share of the embedding that is dropped in training.
        kwargs: arguments of ``Classifier``.

    Raises:
        ConfigError: an encoder is of another modality, or has a setting that would have no effect.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        encoders: dict[str, Encoder] | dict[str, Recipe],
        dim: Size = 64,
        modality_dropout: Share = 0.0,
        dropout: BelowOne = 0.0,
        **kwargs: Any,
    ) -> None:
        settings = settings_of(locals())
        if not encoders:
            raise ConfigError("FusionStudent needs an encoder for each modality that it reads")
        super().__init__(num_classes, dim=dim, **kwargs)
        self.modalities = tuple(sorted(encoders))
        donors = {m: _donor(encoders[m], m, num_classes) for m in self.modalities}
        self.save_hyperparameters({**settings, "encoders": {m: recipe_of(d) for m, d in donors.items()}})
        self.project = nn.ModuleDict({m: nn.Linear(d.main.in_features, dim) for m, d in donors.items()})
        self.encoders = nn.ModuleDict({m: _without_heads(donor) for m, donor in donors.items()})
        self.personal = self.personal.union(
            f"encoders.{m}.{name}" for m, donor in donors.items() for name in donor.personal
        )
        self.modality_dropout = modality_dropout
        self.dropout = nn.Dropout(dropout)

    def looks(self) -> bool:
        """Whether one of the encoders does."""
        return any(cast(Student, encoder).looks() for encoder in self.encoders.values())

    def look(self, samples: Callable[[], Iterable[Views]]) -> None:
        """Have each encoder that wants to look at the views of its modality that are there."""
        for modality, encoder in self.encoders.items():
            student = cast(Student, encoder)
            if student.looks():
                student.look(partial(_views, modality, samples))

    def embed(self, x: Views) -> Float[Tensor, "batch dim"]:
        """Embed samples: the mean over the views that a sample has and that are not dropped."""
        views = x if isinstance(x, Mapping) else dict.fromkeys(self.modalities[:1], x)
        there = [m for m in self.modalities if m in views]
        shown = torch.stack([_shown(views, m) for m in there])
        embeddings = [self._encode(m, views[m], s) for m, s in zip(there, shown, strict=True)]
        read = self._read(shown).unsqueeze(-1)
        total = torch.stack(embeddings).masked_fill(~read, 0).sum(0)
        embedding: Tensor = self.dropout(total / read.sum(0).clamp(min=1))
        return embedding

    def _encode(
        self, modality: Modality, view: Any, shown: Bool[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        def blank(t: Tensor) -> Tensor:
            return t.masked_fill(~shown.view(-1, *[1] * (t.dim() - 1)), 0)

        encoder = cast(Classifier, self.encoders[modality])
        projected: Tensor = self.project[modality](encoder.embed(tree_map(blank, view)))
        return projected

    def _read(self, shown: Bool[Tensor, "modalities batch"]) -> Bool[Tensor, "modalities batch"]:
        """Which views are averaged: those that samples have, without the ones that training drops."""
        if not self.training or self.modality_dropout == 0:
            return shown
        chance = torch.rand(shown.shape, device=shown.device)
        # The view with the greatest random number stays, so that all views are kept equally often.
        last = chance == chance.masked_fill(~shown, -1).amax(0)
        return shown & (last | (chance >= self.modality_dropout))


def _views(modality: Modality, samples: Callable[[], Iterable[Views]]) -> Iterator[Views]:
    """The views of one modality, of those samples that have one."""
    for views in samples():
        if modality in views:
            shown = _shown(views, modality)
            yield tree_map(lambda t, shown=shown: t[shown], views[modality])


def _shown(views: Mapping[str, Any], modality: Modality) -> Bool[Tensor, " batch"]:
    """Which samples have a view of a modality."""
    if SHOWN + modality in views:
        return cast(Tensor, views[SHOWN + modality])
    example: Tensor = tree_leaves(views[modality])[0]
    return torch.ones(len(example), dtype=torch.bool, device=example.device)


def _donor(encoder: Encoder | Recipe, modality: Modality, num_classes: int) -> Classifier:
    """The student whose encoder is taken, made by the user's factory or from the recipe in a checkpoint."""
    if isinstance(encoder, Mapping):
        student = student_of(encoder, f"encoders={{'{modality}': ...}}")
    else:
        student = encoder(num_classes)
    if tuple(student.modalities) != (modality,):
        raise ConfigError(
            f"the encoder of '{modality}' is a {type(student).__name__}, which reads"
            f" {', '.join(student.modalities)}; name it by the one modality that it reads"
        )
    unread = {
        "heads": len(student.aux) > 0,
        "prior_correction": student.prior_correction != 0,
        "label_smoothing": student.label_smoothing != 0,
        "class_weights": student.class_weights is not None,
        "optimizer": student._optimizer is not adam,
        "scheduler": student._scheduler is not None,
    }
    if odd := [name for name, given in unread.items() if given]:
        raise ConfigError(
            f"{', '.join(odd)} would have no effect on the encoder of '{modality}';"
            " give it to the FusionStudent itself"
        )
    return student


def _without_heads(student: Classifier) -> Classifier:
    """The student without its heads, which ``embed`` does not use and exchanges would send for nothing."""
    del student.main, student.aux, student.log_prior
    student.personal = student.personal & student.state_dict().keys()
    return student
