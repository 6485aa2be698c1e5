"""Statements of peers about public samples, from their predictions there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmkd.cohort.divergence import Divergence
from mmkd.cohort.peers import Peers
from mmkd.coordination.exchange import Speech
from mmkd.coordination.public_set import evaluate
from mmkd.data.base import PeerData
from mmkd.data.samples import view_of
from mmkd.functional.confidence import max_probability
from mmkd.knowledge.base import Statement, Statements
from mmkd.types import Classes, Predictions, Public


def speech_of(
    knowledge: Statements,
    peers: Peers,
    number: int,
    rows: Sequence[int],
    predictions: Predictions,
    public: Public,
) -> Speech:
    """The speech of rows of group ``number``, from their predictions on public samples."""
    group, kind = peers.groups[number], type(predictions)
    detached: Any = kind(*(t.detach() for t in predictions))
    spoken = view_of(public, peers.modality(number))[1].to(detached[0].device)
    spoken = spoken.expand(len(rows), -1)
    if knowledge.confident:
        spoken = spoken & sure(knowledge, detached)
    return Speech([group.names[row] for row in rows], knowledge.speak(detached), spoken)


@torch.no_grad()
def statements_of(knowledge: Statements, peers: Peers, data: PeerData) -> dict[str, tuple[int, bool]]:
    """Width of each statement that somebody in this process makes, and whether it is logits."""
    says = {}
    with peers.evaluating():
        for group in peers.groups:
            x = peers.to_device(data.reader(group.names[0], "train").batch(torch.arange(1), 0).x)
            for name, (values, logits) in knowledge.speak(group.predict([0], x)).items():
                says[name] = values.shape[-1], logits
    return says


def sure(knowledge: Statements, predictions: Predictions) -> Bool[Tensor, "rows samples"]:
    """Samples about which a speaker is as sure as ``confident`` asks."""
    if not knowledge.confident:  # detectors are asked for nothing else
        return torch.ones(predictions[0].shape[:2], dtype=torch.bool, device=predictions[0].device)
    assert isinstance(predictions, Classes)
    return max_probability(predictions.logits) >= knowledge.confident


def evaluated_speeches(
    knowledge: Statements, peers: Peers, rows: Mapping[int, list[int]], public: Public, stream: int
) -> list[Speech]:
    """Speeches of rows of groups, predicted in evaluation mode, one for each group."""
    parts: dict[int, list[Speech]] = {}
    for number, some_rows, predictions in evaluate(peers, rows, public, stream):
        speech = speech_of(knowledge, peers, number, some_rows, predictions, public)
        parts.setdefault(number, []).append(speech)
    return [_joined(speeches) for speeches in parts.values()]


def sound(speeches: Sequence[Speech], divergence: Divergence, round: int) -> list[Speech]:
    """Speeches without those of peers that say what is no number.

    Args:
        speeches: of peers, before hubs speak in their place.
        divergence: decides about such a peer.
        round: from which it sits out.

    Raises:
        DivergedError: there is one, and the run is to stop.
    """
    kept = []
    for speech in speeches:
        finite = [finite_rows(said.values, logits=said.logits) for said in speech.statements.values()]
        good = torch.stack(finite).all(0).tolist() if finite else []
        if not all(good):
            bad = [name for name, well in zip(speech.speakers, good, strict=True) if not well]
            divergence.leave(dict.fromkeys(bad, "what it says is not finite"), round)
            rows = [row for row, well in enumerate(good) if well]
            statements = {n: s._replace(values=s.values[rows]) for n, s in speech.statements.items()}
            speech = Speech([speech.speakers[row] for row in rows], statements, speech.spoken[rows])
        if speech.speakers:
            kept.append(speech)
    return kept


def finite_rows(values: Float[Tensor, "rows ..."], *, logits: bool) -> Bool[Tensor, " rows"]:
    """Whether the numbers of each row are finite; a logit of minus infinity rules a class out."""
    return (values.amax(-1) if logits else values).isfinite().flatten(1).all(1)


def _joined(parts: list[Speech]) -> Speech:
    """One speech that joins several of one group."""
    if len(parts) == 1:
        return parts[0]
    statements = {
        name: Statement(torch.cat([part.statements[name].values for part in parts]), logits)
        for name, (_, logits) in parts[0].statements.items()
    }
    speakers = [name for part in parts for name in part.speakers]
    return Speech(speakers, statements, torch.cat([part.spoken for part in parts]))
