"""Payloads as bytes: safetensors, because no pickle may cross a boundary that a stranger can reach."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

import torch
from safetensors.torch import load, save

from mmkd.types import Payload


def encode(payload: Payload) -> bytes:
    """The payload as one safetensors message; sender, kind, round and which are logits are in its header."""
    envelope = {"sender": payload.sender, "kind": payload.kind, "round": str(payload.round)}
    if payload.logits:
        envelope["logits"] = json.dumps(payload.logits)
    return save({name: t.detach().cpu().contiguous() for name, t in payload.tensors.items()}, envelope)


def decode(message: bytes) -> Payload:
    """The payload that ``encode`` was given, on the CPU.

    Raises:
        ValueError: the message is no payload.
    """
    try:
        tensors = load(message)
        header = json.loads(message[8 : 8 + int.from_bytes(message[:8], "little")])
        envelope = header["__metadata__"]
        logits = tuple(map(str, json.loads(envelope.get("logits", "[]"))))
        return Payload(envelope["sender"], envelope["kind"], int(envelope["round"]), tensors, logits)
    except Exception as error:
        raise ValueError(f"not a payload: {error}") from error


def size(payload: Payload) -> tuple[int, int]:
    """Bytes of the tensors, and those that ``encode`` adds to them: header and envelope.

    Both depend on names, types, shapes and the length of the envelope alone, so equal payloads of
    another round need not be serialised to be counted.
    """
    return sizes(payload, [payload.sender])[0]


def sizes(payload: Payload, senders: Sequence[str]) -> list[tuple[int, int]]:
    """What ``size`` gives for payloads of other senders that have the same names, types and shapes."""
    shapes = tuple((name, t.dtype, t.shape) for name, t in payload.tensors.items())
    round_, widths = 10 ** len(str(payload.round)) - 1, list(map(_width, senders))
    # Only the length of a sender's name matters, so many peers share one measurement.
    of_width = {
        width: _size(shapes, "x" * width, payload.kind, round_, payload.logits) for width in set(widths)
    }
    return [of_width[width] for width in widths]


@lru_cache(maxsize=65536)
def _width(sender: str) -> int:
    """Bytes of a name in a header."""
    return len(json.dumps(sender, ensure_ascii=False).encode()) - 2


@lru_cache(maxsize=4096)
def _size(
    shapes: tuple[tuple[str, torch.dtype, torch.Size], ...],
    sender: str,
    kind: str,
    round: int,
    logits: tuple[str, ...],
) -> tuple[int, int]:
    tensors = {name: torch.empty(shape, dtype=dtype) for name, dtype, shape in shapes}
    payload = Payload(sender, kind, round, tensors, logits)
    return payload.nbytes, len(encode(payload)) - payload.nbytes
