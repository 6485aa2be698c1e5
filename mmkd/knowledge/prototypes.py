"""Knowledge about classes instead of samples: what a peer predicts on average for each label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.bounds import Positive, bounded
from mmkd.functional.classification import softmax
from mmkd.functional.consensus import heard_mean
from mmkd.functional.distillation import kd, prototype
from mmkd.knowledge.base import Heard, Knowledge, Statement
from mmkd.types import Classes, ConfigError, Target


@bounded
class Prototypes(Knowledge):
    """Peers say, for each class that they own, the mean of what they predict on its private samples.

    A private sample is then taught the mean prototype of its label. No public sample is needed. The
    total loss is ``private + gamma * distillation``.

    - ``probabilities`` is federated distillation (FD, Jeong et al. 2018): mean softmax outputs, a
      listener's own left out, Kullback-Leibler loss; classes x classes numbers.
    - ``embedding`` is FedProto (Tan et al. 2022): mean embeddings, a listener's own among them, mean
      squared distance; classes x dim numbers, among peers of equal embedding size.

    Args:
        of: what is averaged.
        gamma: weight of the distillation loss.
        kwargs: arguments of ``Statements``; those about public samples have no meaning here.

    Raises:
        ConfigError: a setting about public samples was given.
    """

    kind: ClassVar[str] = "prototypes"
    about: ClassVar[Literal["public", "classes"]] = "classes"

    def __init__(
        self,
        *,
        of: Literal["probabilities", "embedding"] = "probabilities",
        gamma: Positive = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"samples": "all", **kwargs})
        if self.samples != "all" or self.confident or self.digest or self.pretrain or self.recall:
            raise ConfigError(
                "prototypes are about classes: samples, confident, digest, pretrain and recall, which are"
                " about public samples, have no meaning for them; remove them"
            )
        self.of, self.weight = of, gamma

    @property
    def personal(self) -> bool:
        """Whether listeners who hear the same would make different things of it."""
        return super().personal or self.of == "probabilities"

    def speak(self, predictions: Classes) -> dict[str, Statement]:
        """Predictions that are averaged over the samples of each class."""
        if self.of == "probabilities":
            return {"probabilities": Statement(softmax(predictions.logits))}
        return {f"embedding{predictions.embedding.shape[-1]}": Statement(predictions.embedding)}

    def listen(
        self,
        heard: Mapping[str, Heard],
        hears: Bool[Tensor, "listeners speakers"],
        own: Bool[Tensor, "listeners speakers"],
    ) -> dict[str, Target]:
        """The mean prototype of each class, and 1 for a class about which anybody spoke."""
        hears = hears | own if self.of == "embedding" else hears
        targets = {}
        for name, said in heard.items():
            mean, anybody = heard_mean(said.values, hears, said.spoke)
            targets[name] = Target(mean, anybody.to(mean.dtype))
        return targets

    def loss(self, predictions: Classes, targets: Mapping[str, Target]) -> Float[Tensor, " peers"]:
        """Distance of predictions on private samples from the prototypes of their labels."""
        name = (
            "probabilities" if self.of == "probabilities" else f"embedding{predictions.embedding.shape[-1]}"
        )
        if name not in targets:  # no peer of this embedding size has spoken yet
            return predictions.logits.new_zeros(len(predictions.logits))
        target, weight, _ = targets[name]
        if self.of == "embedding":
            return prototype(predictions.embedding, target, seen=weight)
        # Probabilities that were sent in few bits need not add up to one.
        target = target / target.sum(-1, keepdim=True).clamp(min=torch.finfo(target.dtype).tiny)
        return kd(predictions.logits, target, temperature=1.0, seen=weight)
