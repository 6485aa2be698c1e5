"""Payloads as bytes: safetensors, because no pickle may cross a boundary that a stranger can reach."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from mmkd.types import Payload

LONGEST_HEADER = 2**22
"""Bytes of the longest header that is read, since JSON takes twenty times its length while it is read."""
DIMENSIONS = 8
"""The most dimensions that a tensor of a message may have."""
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of a number of each type that may be sent, by the name of the type in a header."""


def encode(payload: Payload) -> bytes:
    """The payload as one safetensors message; sender, kind, round and which are logits are in its header."""
    envelope = {"sender": payload.sender, "kind": payload.kind, "round": str(payload.round)}
    if payload.logits:
        envelope["logits"] = json.dumps(payload.logits)
    return save({name: t.detach().cpu().contiguous() for name, t in payload.tensors.items()}, envelope)


def decode(message: bytes) -> Payload:
    """The payload that ``encode`` was given, on the CPU.

    Nothing but what ``encode`` makes is read, and memory beyond the message's own length is only taken once
    its header is known to describe exactly the bytes that follow. What a receiver expects of names, shapes
    and values is not known here.

    Raises:
        ValueError: the message is no payload; one line says why.
    """
    try:
        length = int.from_bytes(message[:8], "little")
        _require(len(message) >= 8 and length <= min(len(message) - 8, LONGEST_HEADER), "its header is cut")
        text = message[8 : 8 + length].decode()
        header = json.loads(text, object_pairs_hook=_once)
        _require(isinstance(header, dict), "its header is no table")
        _require(text.rstrip(" ") == _written(header) and length % 8 == 0, "its header is not as we write it")
        _require(len(text) - len(text.rstrip(" ")) < 8, "its header is not as we write it")
        envelope = header.pop("__metadata__", None)
        _require(isinstance(envelope, dict), "it has no envelope")
        _check_tensors(header, len(message) - 8 - length)
        round_, logits = _read(envelope, header)
        tensors = load(message)
        _require(all(map(_has_meaning, tensors.values())), "a truth value is neither 0 nor 1")
        return Payload(envelope["sender"], envelope["kind"], round_, tensors, logits)
    except Exception as error:
        raise ValueError(f"not a payload: {' '.join(str(error).split())[:200]}") from error


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of JSON, in which no key is said twice."""
    table = dict(pairs)
    _require(len(table) == len(pairs), "a key of its header is there twice")
    return table


def _written(header: Mapping[str, Any]) -> str:
    """A header as safetensors writes it, padding apart."""
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _check_tensors(header: Mapping[str, Any], size: int) -> None:
    """Refuse entries that do not describe, one behind the other, all ``size`` bytes behind the header."""
    at = 0
    for name, entry in header.items():
        _require(isinstance(entry, dict) and list(entry) == ["dtype", "shape", "data_offsets"], "no tensor")
        shape, places = entry["shape"], entry["data_offsets"]
        _require(entry["dtype"] in SIZES, f"'{name[:40]}' is of a type that is not sent")
        _require(isinstance(shape, list) and len(shape) <= DIMENSIONS, f"more than {DIMENSIONS} dimensions")
        _require(all(type(n) is int and n >= 0 for n in shape), "a size is no whole number")
        _require(math.prod(n for n in shape if n) < 2**48, "a tensor is too large")
        _require(isinstance(places, list) and all(type(n) is int for n in places), "no offsets")
        end = at + math.prod(shape) * SIZES[entry["dtype"]]
        _require(places == [at, end], "tensors do not lie one behind the other")
        at = end
    _require(at == size, "its tensors are not as long as it is")


def _read(envelope: Mapping[str, Any], names: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """Round and names of logits from an envelope in which nothing is missing, wrong or more than is sent."""
    _require(envelope.keys() - {"logits"} == {"sender", "kind", "round"}, "its envelope has other fields")
    _require(all(isinstance(value, str) for value in envelope.values()), "a field is no text")
    _require(bool(envelope["sender"] and envelope["kind"]), "it names no sender or no kind")
    number = envelope["round"]
    _require(number.isascii() and number.isdigit() and len(number) < 19, "its round is no number")
    _require(str(int(number)) == number, "its round is no number")
    if "logits" not in envelope:
        return int(number), ()
    logits = json.loads(envelope["logits"])
    _require(isinstance(logits, list) and bool(logits) and all(isinstance(n, str) for n in logits), "logits")
    _require(json.dumps(logits) == envelope["logits"] and len(set(logits)) == len(logits), "logits")
    _require({name.partition(".")[0] for name in names}.issuperset(logits), "logits that are not there")
    return int(number), tuple(logits)


def _has_meaning(tensor: Tensor) -> bool:
    """Whether truth values are 0 or 1, as torch takes for granted."""
    return tensor.dtype != torch.bool or not bool((tensor.view(torch.uint8) > 1).any())


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
