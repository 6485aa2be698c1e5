"""Multi-Headed Distillation (Zhmoginov et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.bounds import AtLeastZero, Positive, bounded
from mmkd.functional.consensus import heard_sum
from mmkd.functional.distillation import embedding as distance
from mmkd.knowledge.base import Heard, Knowledge, Statement
from mmkd.knowledge.consensus import Confidence, Consensus, EveryTeacher, MostConfident, surest
from mmkd.knowledge.losses import DistillationLoss, KullbackLeibler
from mmkd.types import Classes, ConfigError, PeerName, Target


@bounded
class MultiHeadDistillation(Knowledge):
    """A chain of heads: auxiliary head h learns from the neighbours' heads h - 1, head 0 being the main one.

    ``L_k = private + nu_emb * L_emb + nu_aux * sum_h L_h``, expectations over public samples of losses from
    {phi_j | j in e_t(k)}. The main head learns from private samples alone. Embeddings are normalised and
    learn from neighbours of equal embedding size.

    A speaker says its main and all but its last auxiliary head. A listener's head h hears those that
    have a head h - 1 to speak with; a head that nobody can teach is refused.

    Args:
        nu_emb: weight of the embeddings; with 0 they are neither sent nor taught.
        nu_aux: weight of the auxiliary heads.
        teacher: ``MostConfident`` is the paper's, ``EveryTeacher`` the sum over all neighbours heard,
            ``MeanProbability`` their mean. Embeddings learn from the sum with ``EveryTeacher``, else from
            the mean.
        loss: of the heads. The paper's cross-entropy has the gradient of the default, which is zero for
            a perfect student.
        temperature: T, of teachers and students alike.
        self_target: whether the student's own head h - 1 is a candidate, too.
        level: ``below`` is the chain; ``same`` teaches auxiliary head h from the neighbours' heads h (an
            ablation: nothing but the shared encoder then ties them to any label).
        ignore_poor: skip samples on which the student's own teaching head is surer than all it hears.
        confidence: how sure a head is, for ``ignore_poor``.
        kwargs: arguments of ``Statements``.
    """

    kind: ClassVar[str] = "logits"

    def __init__(
        self,
        *,
        nu_emb: AtLeastZero = 0.0,
        nu_aux: AtLeastZero = 1.0,
        teacher: Consensus | None = None,
        loss: DistillationLoss | None = None,
        temperature: Positive = 1.0,
        self_target: bool = False,
        level: Literal["below", "same"] = "below",
        ignore_poor: bool = False,
        confidence: Confidence = "max_probability",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if nu_emb < 0 or nu_aux < 0 or nu_emb + nu_aux == 0:
            raise ConfigError(
                f"knowledge.nu_emb is {nu_emb} and nu_aux {nu_aux}; give no negative weight, and one above 0"
            )
        self.nu_emb, self.nu_aux = nu_emb, nu_aux
        self.teacher, self.distance = teacher or MostConfident(), loss or KullbackLeibler()
        self.temperature, self.self_target, self.level = temperature, self_target, level
        self.ignore_poor, self.confidence = ignore_poor, confidence

    @property
    def personal(self) -> bool:
        """Whether listeners who hear the same would make different things of it."""
        return super().personal or not self.self_target or self.ignore_poor or self.nu_emb > 0

    def speak(self, predictions: Classes) -> dict[str, Statement]:
        """Heads that somebody may learn from, and embeddings."""
        statements = {}
        if self.nu_aux:
            heads = [predictions.logits, *predictions.auxiliary.unbind(1)]
            statements = {f"head{h}": Statement(logits, logits=True) for h, logits in enumerate(heads)}
            statements.pop("head0" if self.level == "same" else f"head{max(len(heads) - 1, 1)}", None)
        if self.nu_emb:
            # The length of an embedding is not taught, so it is not sent.
            embedding = F.normalize(predictions.embedding, dim=-1)
            statements[f"embedding{embedding.shape[-1]}"] = Statement(embedding)
        return statements

    def listen(
        self,
        heard: Mapping[str, Heard],
        hears: Bool[Tensor, "listeners speakers"],
        own: Bool[Tensor, "listeners speakers"],
    ) -> dict[str, Target]:
        """Targets of each head, by its number, and of the embedding."""
        targets = {
            name: self._embedding(said, hears) for name, said in heard.items() if name.startswith("embedding")
        }
        levels = [name for name in heard if name.startswith("head")]
        if levels:
            # Every sample is combined by itself, so the heads can be combined as further samples.
            said = Heard(*(torch.cat([heard[name][i] for name in levels], 1) for i in (0, 1)))
            target = self._head(said, hears, own)
            size = heard[levels[0]].spoke.shape[1]
            parts = zip(target.values.split(size, 1), target.weight.split(size, 1), strict=True)
            for name, part in zip(levels, parts, strict=True):
                taught = int(name.removeprefix("head")) + (self.level == "below")
                targets[f"head{taught}"] = Target(*part, probabilities=True)
        return targets

    def _head(self, said: Heard, hears: Tensor, own: Tensor) -> Target:
        candidates = hears | own if self.self_target else hears
        target = self.teacher.combine(said, candidates, self.temperature)
        if not self.ignore_poor:
            return target
        poor = surest(said, own, self.confidence) >= surest(said, hears, self.confidence)
        return target._replace(weight=target.weight.masked_fill(poor, 0.0))

    def _embedding(self, said: Heard, hears: Tensor) -> Target:
        """A direction and a weight with the gradient of the sum or mean of squared distances.

        Of unit vectors, sum_j |e - e_j|^2 = 2 n - 2 e . sum_j e_j, so the sum of the e_j is all that matters.
        """
        total, count = heard_sum(said.values, hears, said.spoke)
        if not isinstance(self.teacher, EveryTeacher):
            total = total / count.clamp(min=1.0)[..., None]
        length = total.norm(dim=-1)
        direction = total / length.clamp(min=1e-12)[..., None]
        return Target(direction.to(said.values.dtype), length.to(said.values.dtype))

    def loss(self, predictions: Classes, targets: Mapping[str, Target]) -> Float[Tensor, " peers"]:
        """``nu_emb * L_emb + nu_aux * sum_h L_h`` of each peer."""
        total = predictions.logits.new_zeros(len(predictions.logits))
        heads = [h for h in range(predictions.auxiliary.shape[1]) if f"head{h + 1}" in targets]
        if heads:
            # One call for all heads, as if each were a peer.
            taught = [targets[f"head{h + 1}"] for h in heads]
            values = torch.stack([target.values for target in taught], 1)
            weight = torch.stack([target.weight for target in taught], 1)
            whole = len(heads) == predictions.auxiliary.shape[1]
            logits = predictions.auxiliary if whole else predictions.auxiliary[:, heads]
            losses = self.distance(
                logits.flatten(0, 1), values.flatten(0, 1), self.temperature, weight.flatten(0, 1)
            )
            total = total + self.nu_aux * losses.view(len(total), -1).sum(1)
        name = f"embedding{predictions.embedding.shape[-1]}"
        if name in targets:
            total = total + self.nu_emb * distance(
                predictions.embedding, targets[name].values, seen=targets[name].weight
            )
        return total

    def check(self, shapes: Mapping[PeerName, Any]) -> None:
        """Refuse heads and embeddings that nobody can teach.

        Raises:
            ConfigError: no student has auxiliary heads, one has more than anybody could teach, or no two
                have embeddings of one size.
        """
        sizes = [predictions.embedding.shape[-1] for predictions in shapes.values()]
        if self.nu_emb and len(sizes) > 1 and len(set(sizes)) == len(sizes):
            raise ConfigError(
                "no two students have embeddings of one size, so nobody can teach them: set nu_emb: 0, or"
                " give students of one size"
            )
        heads = {peer: predictions.auxiliary.shape[1] for peer, predictions in shapes.items()}
        if self.nu_aux and not any(heads.values()):
            raise ConfigError(
                "MultiHeadDistillation teaches auxiliary heads, and no student has any; set heads: 3 (or"
                " another number) in the students' init_args, or nu_aux: 0 to distil embeddings alone"
            )
        for peer, count in heads.items():
            others = [other for name, other in heads.items() if name != peer]
            highest = max([int(self.level == "below"), *others])
            if self.nu_aux and others and count > highest:
                raise ConfigError(
                    f"'{peer}' has {count} auxiliary heads, but nobody else could teach more than {highest};"
                    " lower its heads or raise those of others"
                )
