"""What a device has to know of the samples that a student reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from mmkd.edge.graph import Graph
from mmkd.students.base import Student
from mmkd.types import SHOWN

TOKENIZER = "tokenizer.json"
"""File of a tokenizer, in the format of the library of that name."""


class Input(NamedTuple):
    """A tensor that a graph reads, and what of a device's becomes it."""

    name: str
    kind: str  # image, sound, text, array, or shown: whether a sample has that view
    shape: list[int]  # of one sample
    dtype: str
    rate: int | None = None  # of a sound, in samples per second
    tokenizer: str | None = None  # of a text: characters, or a file


def inputs_of(graph: Graph, arguments: tuple[Tensor, ...], tokenizer: str | None) -> list[Input]:
    """What a graph reads.

    Args:
        graph: of a student.
        arguments: tensors of some samples.
        tokenizer: of texts, as JSON; characters, if None.
    """
    found = []
    for name, tensor in zip(graph.inputs, arguments, strict=True):
        shape, dtype = list(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch.")
        rate = _rate(graph.student, name)
        if name.startswith(SHOWN):
            found.append(Input(name, "shown", shape, dtype))
        elif name == "image" and len(shape) == 3:
            found.append(Input(name, "image", shape, dtype))
        elif name == "audio" and len(shape) == 1 and rate is not None:
            found.append(Input(name, "sound", shape, dtype, rate=rate))
        elif name == "text" and (tokenizer is not None or _characters(tensor)):
            kind = "characters" if tokenizer is None else TOKENIZER
            found.append(Input(name, "text", shape, dtype, tokenizer=kind))
        else:
            found.append(Input(name, "array", shape, dtype))
    return found


def _characters(tokens: Tensor) -> bool:
    """Whether tokens are codes of characters that can be printed, and 0 behind a text."""
    kept = tokens[tokens != 0]
    return not tokens.is_floating_point() and bool(((kept >= ord(" ")) & (kept <= ord("~"))).all())


def _rate(student: Student, modality: str) -> int | None:
    """Samples per second of the sounds that a student reads, or the encoder of one that reads more."""
    encoders: Any = getattr(student, "encoders", None)
    reader: Any = student if encoders is None or modality not in encoders else encoders[modality]
    settings: Mapping[str, Any] = reader.hparams
    return settings.get("sample_rate")
