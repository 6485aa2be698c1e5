"""Statements of peers about public samples, from their predictions there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

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
