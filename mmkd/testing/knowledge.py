"""The contract of knowledge, checked on random predictions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmkd.encoding import EightBits, Floats, Wire
from mmkd.functional.random import generator
from mmkd.knowledge import Heard, Knowledge, Statement, Statements
from mmkd.testing.listening import SPEAKERS, check_hearing
from mmkd.testing.require import require
from mmkd.types import Classes, Detections, Predictions, Tags, Target, Values

SAMPLES = 4
"""Number of samples that are spoken about."""
CLASSES = 3
"""Number of classes of the predictions."""
HEADS = 2
"""Number of auxiliary heads."""
DIM = 6
"""Size of an embedding."""
SLOTS = 5
"""Number of boxes of a detector."""
PLACES = 7
"""Number of places of a detector's maps."""
HALF = 2.0**-10
"""Greatest relative error of rounding to half precision."""
BYTE = 1 / 255
"""Step of eight-bit codes, as a share of the range of a row."""


def check_knowledge(knowledge: Statements) -> None:
    """Check statements, how they are sent, the targets that listeners make of them, and the loss.

    Statements are tensors of numbers with a row for each sample, by names without a dot; a constant added to
    a row of logits changes no target; a listener makes targets of what it hears alone; a loss is one number
    a peer, of that peer's own predictions, and 0 where nothing was heard; with ``samples: all`` what is said
    of a sample does not depend on the other samples.

    Raises:
        AssertionError: one of these does not hold; the message says which.
    """
    name, predictions = type(knowledge).__name__, example(knowledge)
    knowledge.check({"one": _row(predictions, 0), "two": _row(predictions, 1)})
    said = knowledge.speak(predictions)
    for statement, (values, _) in said.items():
        require("." not in statement, f"{name}: a statement is called '{statement}'; leave the dot out")
        shape = values.is_floating_point() and values.shape[0] == SPEAKERS
        require(shape, f"{name}: '{statement}' is no tensor of numbers with a leading peer axis")
    _check_rows(knowledge, predictions, said)
    for wire in (Floats("float32"), Floats("float16"), EightBits()):
        _check_travel(name, said, wire)
    heard = {n: Heard(s.values, torch.ones(s.values.shape[:2], dtype=torch.bool)) for n, s in said.items()}

    def listen(heard: Any, hears: Tensor, own: Tensor) -> list[Tensor]:
        targets = knowledge.listen(heard, hears, own)
        return [t for _, target in sorted(targets.items()) for t in target[:2]]

    check_hearing(listen, heard, name)
    _check_shift(knowledge, said, heard)
    if isinstance(knowledge, Knowledge):
        _check_loss(knowledge, predictions, heard)


def example(knowledge: Statements) -> Predictions:
    """Predictions of five peers, of the kind that a knowledge reads."""
    stream = generator("knowledge")

    def draw(*shape: int) -> Tensor:
        return torch.randn(SPEAKERS, *shape, generator=stream)

    samples = SAMPLES if knowledge.about == "public" else CLASSES
    if knowledge.reads is Tags or knowledge.reads is Values:
        return knowledge.reads(draw(samples, CLASSES))
    if knowledge.reads is Detections:
        corner = 20 * torch.rand(SPEAKERS, samples, SLOTS, 2, generator=stream)
        score = torch.rand(SPEAKERS, samples, SLOTS, 1, generator=stream)
        boxes = torch.cat([corner, corner + 8, score, torch.zeros_like(score)], -1)
        return Detections(
            boxes, draw(samples, PLACES, CLASSES + 4) if knowledge.kind == "maps" else boxes[..., :0]
        )
    return Classes(draw(samples, CLASSES), draw(HEADS, samples, CLASSES), draw(samples, DIM))


def _row(predictions: Predictions, row: int) -> Any:
    kind: Any = type(predictions)
    return kind(*(t[row : row + 1] for t in predictions))


def _check_rows(knowledge: Statements, predictions: Predictions, said: dict[str, Statement]) -> None:
    """Check that statements of ``samples: all`` about a sample do not depend on the other samples."""
    if knowledge.samples == "batch" or knowledge.about != "public":
        return
    kind: Any = type(predictions)
    axes = [2 if field == "auxiliary" else 1 for field in predictions._fields]
    first = knowledge.speak(kind(*(t.narrow(axis, 0, 1) for t, axis in zip(predictions, axes, strict=True))))
    for name, (values, _) in said.items():
        same = name in first and first[name].values.shape == values[:, :1].shape
        require(
            same and torch.allclose(first[name].values, values[:, :1], atol=1e-6),
            f"{type(knowledge).__name__}: what '{name}' says of a sample depends on the samples beside it,"
            " which has no meaning with samples: all",
        )


def _check_travel(name: str, said: dict[str, Statement], wire: Wire) -> None:
    """Check that a statement, or the softmax of logits, arrives within the wire's rounding."""
    for statement, (values, logits) in said.items():
        flat = values.flatten(2).float()
        parts = wire.encode(flat, logits=logits)
        back = wire.decode(parts, flat.shape[-1], logits=logits)
        before, after = (t.softmax(-1) if logits else t for t in (flat, back))
        span = flat.amax(-1, keepdim=True) - flat.amin(-1, keepdim=True)
        room = {Floats: HALF * flat.abs(), EightBits: BYTE * span + 2 * HALF * flat.abs()}[type(wire)]
        worst = float(((after - before).abs() - (span * BYTE if logits else room)).max())
        require(
            worst < 1e-3,
            f"{name}: '{statement}' loses more in {type(wire).__name__} than its rounding; is it called"
            " logits and is none?",
        )


def _check_shift(knowledge: Statements, said: dict[str, Statement], heard: dict[str, Heard]) -> None:
    """Check that adding a number to a row of logits changes no target."""
    everybody = torch.ones(1, SPEAKERS, dtype=torch.bool)
    before = knowledge.listen(heard, everybody, ~everybody)
    for name, (values, logits) in said.items():
        if logits:
            moved = knowledge.listen(
                {**heard, name: heard[name]._replace(values=values + 5)}, everybody, ~everybody
            )
            same = all(torch.allclose(moved[n].values, before[n].values, atol=1e-4) for n in before)
            require(
                same, f"{type(knowledge).__name__}: '{name}' is called logits, but a shift of a row matters"
            )


def _check_loss(knowledge: Knowledge, predictions: Predictions, heard: dict[str, Heard]) -> None:
    name, one = type(knowledge).__name__, torch.eye(SPEAKERS, dtype=torch.bool)
    targets = knowledge.listen(heard, ~one, one)
    if knowledge.about == "classes":  # targets are looked up by the labels of private samples
        targets = dict(targets)
    kind: Any = type(predictions)
    leaves = kind(*(t.clone().requires_grad_() for t in predictions))
    losses = knowledge.loss(leaves, targets)
    require(losses.shape == (SPEAKERS,), f"{name}.loss gives {list(losses.shape)} and not one number a peer")
    require(bool(losses.isfinite().all()), f"{name}.loss is not finite")
    require(losses.requires_grad, f"{name}.loss has no gradient")
    slopes = torch.autograd.grad(losses[0], [t for t in leaves if t.numel()], allow_unused=True)
    others = [slope[1:] for slope in slopes if slope is not None]
    require(
        not any(bool(slope.any()) for slope in others),
        f"{name}.loss of a peer reads another peer's predictions",
    )
    silent = {n: Target(t.values, torch.zeros_like(t.weight), t.probabilities) for n, t in targets.items()}
    nothing = knowledge.loss(leaves, silent)
    require(
        not bool(nothing.any()), f"{name}.loss is {nothing[0]:.3g} where nothing was heard and should be 0"
    )
