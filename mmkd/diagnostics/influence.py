"""The influence of each teacher on the validation loss of each listener."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmkd.cohort.groups.sequential import Call, predictions_of
from mmkd.cohort.peers import Peers
from mmkd.coordination.lessons import Lessons
from mmkd.coordination.public_set import PIECE, some
from mmkd.data.samples import view_of
from mmkd.evaluation.accuracy import Head
from mmkd.functional.classification import cross_entropy
from mmkd.knowledge.base import Heard, Knowledge
from mmkd.students.base import Student
from mmkd.types import Batch, Classes, PeerName, Public, Target


def tested(predictions: Classes, head: Head) -> Float[Tensor, "*peers samples classes"]:
    """Logits of the head that the cohort tests."""
    last = head == "last" and predictions.auxiliary.shape[-3] > 0
    return predictions.auxiliary[..., -1, :, :] if last else predictions.logits


def influence(
    peers: Peers, lessons: Lessons, public: Public, probes: Mapping[PeerName, Batch], head: Head, tick: int
) -> tuple[Float[Tensor, "listeners teachers"], Bool[Tensor, "listeners teachers"]]:
    """Influence of each teacher on the probe loss of each listener, and whom each listener hears.

    influence[k, j] = <g_probe, g_all - g_without_j>, where g_probe is the gradient of k's loss on its probe
    samples, g_all that of its distillation loss on the whole public set, and g_without_j the same if j were
    silent. A step of rate eta along g_all lowers the probe loss by eta * influence[k, j] more than one along
    g_without_j, to first order. Zero where k does not hear j.

    Distillation gradients are J^T d, with J the Jacobian of k's public predictions and d the gradient of the
    loss with respect to these. So <g_probe, J^T d> = <J g_probe, d>: one Jacobian-vector product a listener
    serves all teachers, without a backward pass for each of them.

    A listener hears all speakers that the graph allows, whatever ``knowledge.teachers`` would draw, and
    nothing from a pool.

    Args:
        peers: of the cohort, in evaluation mode.
        lessons: what they teach.
        public: the public set.
        probes: labelled samples of each peer; the row of a peer without any is nan.
        head: the head whose probe loss is differentiated.
        tick: that of the next step.
    """
    heard, hears, own = lessons.overhear(tick)
    knowledge, names = lessons.knowledge, peers.names
    assert isinstance(knowledge, Knowledge)
    influences = torch.zeros(len(names), len(names), dtype=torch.float64)
    for number, group in enumerate(peers.groups):
        places = torch.tensor([names.index(name) for name in group.names], device=hears.device)
        places = places[hears[places].any(1)]  # other peers hear nobody who could be left out
        unprobed = torch.tensor([names[place] not in probes for place in places.tolist()], dtype=torch.bool)
        influences[places[unprobed].cpu()] = torch.nan
        places = places[~unprobed]
        if not len(places):
            continue
        # Values of samples that a peer does not see are arbitrary, and nothing is learned from them.
        seen = view_of(public, peers.modality(number))[1]
        here = {n: Heard(values[:, seen], spoke[:, seen]) for n, (values, spoke) in heard.items()}
        pieces = [some(public, ids) for ids in seen.nonzero()[:, 0].split(PIECE)]
        views = [view_of(piece, peers.modality(number))[0] for piece in pieces]
        listeners = [names[place] for place in places.tolist()]
        along = [_along(peers.student(n), probes[n], views, head) for n in listeners]
        said, moved = (_stacked([one[i] for one in along]) for i in (0, 1))
        whole = _slope(knowledge, said, knowledge.listen(here, hears[places], own[places]))
        for j in hears[places].any(0).nonzero()[:, 0].tolist():
            rows = hears[places, j].nonzero()[:, 0]
            without = hears[places[rows]]
            without[:, j] = False
            targets = knowledge.listen(here, without, own[places[rows]])
            slope = _slope(knowledge, Classes(*(t[rows] for t in said)), targets)
            products = [
                (u[rows] * (a[rows] - b)).flatten(1).sum(1)
                for u, a, b in zip(moved, whole, slope, strict=True)
            ]
            influences[places[rows].cpu(), j] = torch.stack(products).sum(0).cpu().to(influences.dtype)
    return influences, hears.cpu()


def _along(student: Student, probe: Batch, views: Sequence[Any], head: Head) -> tuple[Classes, Classes]:
    """Public predictions, and their derivative along the gradient of the probe loss."""
    call = Call(student)
    weights = {n: p.detach() for n, p in call.named_parameters() if p.requires_grad}

    def predict(weights: dict[str, Tensor], x: Any) -> Classes:
        return cast(Classes, functional_call(call, weights, (predictions_of, x)))

    def loss(weights: dict[str, Tensor]) -> Tensor:
        assert probe.y is not None
        return cross_entropy(tested(predict(weights, probe.x), head), probe.y)

    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward derivative
        # Torch 2.13 writes some of its own forward derivatives in TorchScript, which it deprecates.
        warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)
        slope = grad(loss)(weights)
        parts = [jvp(lambda w, x=x: predict(w, x), (weights,), (slope,)) for x in views]
    said, moved = (
        Classes(*(torch.cat(t, -2) for t in zip(*(part[i] for part in parts), strict=True))) for i in (0, 1)
    )
    return said, moved


def _stacked(predictions: Sequence[Classes]) -> Classes:
    """Predictions of several peers with a leading peer axis."""
    return Classes(*(torch.stack(parts) for parts in zip(*predictions, strict=True)))


def _slope(knowledge: Knowledge, predictions: Classes, targets: Mapping[str, Target]) -> Classes:
    """Gradient of each listener's distillation loss with respect to what it predicts."""
    slope: Classes = grad(lambda p: knowledge.weight * knowledge.loss(p, targets).sum())(predictions)
    return slope
