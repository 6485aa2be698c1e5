"""Questions of devices and answers to them, as bytes, and what is refused of either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mmkd.encoding.messages import decode, encode
from mmkd.transport.letters import ROOT
from mmkd.types import ConfigError, Payload, PeerName

ASK = "ask"
"""What a process tells under this word: answers of its peers."""
ANYBODY = "open"
"""Process of a service without certificates."""
PATIENCE = "patience"
"""Tensor of a question: for how many seconds the device waits."""
CHANCES = "probabilities"
"""Tensor of an answer."""


class Question(NamedTuple):
    """What a device asks about one sample."""

    device: PeerName
    number: int
    arguments: tuple[Tensor, ...]  # of a graph, [1, ...]
    patience: float


def place(study: str, process: str, peer: PeerName) -> str:
    """The key at which a process answers for a peer; ``*`` stands for any process.

    Raises:
        ConfigError: study or peer have letters that mean something in keys.
    """
    for name in (study, peer):
        if any(letter in name for letter in "*$?#") or not all(name.split("/")):
            raise ConfigError(f"{name!r} is no name on a network: leave * $ ? # and empty parts out of it")
    return f"{ROOT}/{study}/{ASK}/{process}/{peer}"


def question(asked: Question, names: Sequence[str]) -> bytes:
    """A question as bytes.

    Args:
        asked: about a sample.
        names: of the arguments.
    """
    tensors = {**dict(zip(names, asked.arguments, strict=True)), PATIENCE: torch.tensor(asked.patience)}
    return encode(Payload(asked.device, "question", asked.number, tensors))


def read_question(message: bytes, expected: Mapping[str, Tensor]) -> Question:
    """A question from its bytes.

    Args:
        message: from anybody.
        expected: a sample ``[1, ...]`` of each argument.

    Raises:
        ValueError: it is no question, or one about something else.
    """
    found = decode(message)
    if found.kind != "question" or found.tensors.keys() != {*expected, PATIENCE}:
        raise ValueError(f"a question about {', '.join(expected)} is expected")
    patience, arguments = found.tensors[PATIENCE], []
    for name, example in expected.items():
        tensor = found.tensors[name]
        if tensor.shape != example.shape or tensor.dtype != example.dtype:
            raise ValueError(
                f"'{name}' is {list(tensor.shape)} of {tensor.dtype}, and {list(example.shape)} of"
                f" {example.dtype} is read"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"'{name}' holds numbers that are not finite")
        arguments.append(tensor)
    if patience.shape != () or not patience.is_floating_point() or not 0 < float(patience) < 1e6:
        raise ValueError("it does not say how long it waits")
    return Question(found.sender, found.round, tuple(arguments), float(patience))


def answer(peer: PeerName, number: int, chances: Float[Tensor, " classes"]) -> bytes:
    """An answer as bytes: probabilities of classes."""
    return encode(Payload(peer, "answer", number, {CHANCES: chances}))


def read_answer(message: bytes, peer: PeerName, number: int, classes: int) -> Float[Tensor, " classes"]:
    """Probabilities from the bytes of an answer.

    Args:
        message: from anybody.
        peer: who was asked.
        number: of the question.
        classes: of which probabilities are expected.

    Raises:
        ValueError: it is no answer to that question.
    """
    found = decode(message)
    if (found.sender, found.kind, found.round) != (peer, "answer", number) or [*found.tensors] != [CHANCES]:
        raise ValueError(f"it does not answer question {number} to '{peer}'")
    chances = found.tensors[CHANCES]
    if chances.shape != (classes,) or chances.dtype != torch.float32:
        raise ValueError(f"an answer is {classes} probabilities")
    if not bool((chances >= 0).all()) or not abs(float(chances.sum()) - 1) < 1e-3:  # NaN is neither
        raise ValueError("its numbers are no probabilities")
    return chances
