"""What is expected of messages from other processes: statements about public samples, or trees of weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from mmkd.coordination.arrivals import Expected, Form, RefusedError, Rows, check_finite, check_forms
from mmkd.encoding import Compression, Wire
from mmkd.encoding.samples import ALIKE, SPOKEN, numbers, unpack
from mmkd.functional.trees import Tree
from mmkd.knowledge.base import Heard, Statements
from mmkd.types import Payload

WEIGHT = ".weight"
"""Suffix of the tensor of weights in a hub's answer, sent where samples count unequally."""


class ExpectedStatements(Expected):
    """Statements: each in the tensors that the wire makes, about all samples or those that its bits name.

    Samples may share rows, which are in the order of the first of them.

    What the wire reads from them must be floating, of the right width and finite. In logits, of which only
    the softmax matters, classes may be ruled out by -inf, but not all of a sample's.

    Args:
        senders: who may send something.
        device: where it is read.
        wire: reads it.
        says: width of each statement, and whether it is logits. Students differ: where ``head1`` or
            ``embedding64`` is known, ``head3`` and ``embedding32`` may come, and the latter has 32 numbers.
        classes: the width of logits.
        samples: about how many samples statements are.
        answers: whether these are answers of a hub, which weigh samples and may differ by receiver.
    """

    def __init__(
        self,
        senders: Collection[str],
        device: torch.device,
        wire: Wire,
        says: Mapping[str, tuple[int, bool]],
        classes: int,
        samples: int,
        *,
        answers: bool = False,
    ) -> None:
        super().__init__(senders, device, apart=answers)
        self._wire, self._says, self._classes, self._samples = wire, says, classes, samples
        self._kinds = {name.rstrip("0123456789"): logits for name, (_, logits) in says.items()}

    def _width(self, name: str) -> tuple[int, bool]:
        """Width of a statement, and whether it is logits."""
        if name in self._says:
            return self._says[name]
        stem = name.rstrip("0123456789")
        number = name[len(stem) :]
        if stem not in self._kinds or not 0 < len(number) < 7 or not number.isascii():
            raise RefusedError("names", f"nobody here knows of '{name[:40]}'")
        logits = self._kinds[stem]
        return (self._classes if logits else int(number)), logits

    def rows(self, payload: Payload, receivers: Sequence[str]) -> Rows:
        """The tensors that the wire made of each statement, and which samples they are about."""
        tensors = dict(payload.tensors)
        bits, alike = tensors.pop(SPOKEN, None), tensors.pop(ALIKE, None)
        size = self._samples if bits is None else _counted(bits, self._samples)
        if alike is not None:
            size = _different(alike, size)
        weights = {n: t for n, t in tensors.items() if self.apart and n.endswith(WEIGHT)}
        names = list(dict.fromkeys(n.partition(".")[0] for n in tensors))
        says = {name: self._width(name) for name in names}
        if not names:
            raise RefusedError("names", "it says nothing")
        if set(payload.logits) != {name for name, (_, logits) in says.items() if logits}:
            raise RefusedError("names", "other statements are logits")
        forms: dict[str, Form] = {n: (torch.Size([size]), torch.float16) for n in weights}
        for name, (width, logits) in says.items():
            for part, (shape, dtype) in self._wire.forms(width, logits=logits).items():
                forms[name + part] = torch.Size([size, *shape]), dtype
        check_forms(tensors, forms)
        for name, (width, logits) in says.items():
            own = {n[len(name) :]: t[None] for n, t in tensors.items() if n.partition(".")[0] == name}
            own.pop(WEIGHT, None)
            self._check_read(name, own, (1, size, width), logits=logits)
        check_finite(weights)
        if any(bool((weight < 0).any()) for weight in weights.values()):
            raise RefusedError("values", "samples have negative weights")
        if bits is None and alike is None:
            return Rows(tensors)
        return Rows(*unpack(payload.tensors, self._samples))

    def _check_read(
        self, name: str, parts: Mapping[str, Tensor], shape: tuple[int, ...], *, logits: bool
    ) -> None:
        """Refuse tensors from which the wire cannot read statements that mean something."""
        try:
            values = self._wire.decode(parts, shape[-1], logits=logits)
        except (RuntimeError, LookupError, ValueError, TypeError) as error:
            raise RefusedError("values", f"'{name}' cannot be read") from error
        if values.shape != shape or not values.is_floating_point():
            raise RefusedError("values", f"'{name}' cannot be read")
        if not logits:
            check_finite({name: values})
        elif values.numel() and not bool(values.amax(-1).isfinite().all()):
            raise RefusedError("values", f"'{name}' holds logits without a softmax")


def says_of_targets(
    knowledge: Statements, says: Mapping[str, tuple[int, bool]], samples: int, device: torch.device
) -> dict[str, tuple[int, bool]]:
    """Width of each target that listeners make of statements, and whether it is sent as logits.

    Args:
        knowledge: whose listeners they are.
        says: width of each statement, and whether it is logits.
        samples: about how many samples statements are.
        device: of statements.
    """
    if not says:
        return {}
    one = torch.ones(1, 1, dtype=torch.bool, device=device)
    heard = {
        n: Heard(torch.zeros(1, samples, width, device=device), one.expand(1, samples))
        for n, (width, _) in says.items()
    }
    made = knowledge.listen(heard, one, ~one)
    return {n: (target.values.shape[-1], target.probabilities) for n, target in made.items()}


def _counted(bits: Tensor, samples: int) -> int:
    """How many samples the bits of a message name."""
    if bits.dtype != torch.uint8:
        raise RefusedError("dtype", f"'{SPOKEN}' is {bits.dtype} and not {torch.uint8}")
    if bits.shape != (-(-samples // 8),):
        raise RefusedError("shape", f"'{SPOKEN}' is {list(bits.shape)}, for {samples} samples")
    each = (bits[:, None] >> torch.arange(8) & 1).flatten()
    count = int(each.sum())
    if bool(each[samples:].any()) or count == samples:
        raise RefusedError("values", f"'{SPOKEN}' names samples that are not there, or all")
    return count


def _different(alike: Tensor, spoken: int) -> int:
    """How many rows the numbers of a message name."""
    if alike.shape != (spoken,) or spoken == 0:
        raise RefusedError("shape", f"'{ALIKE}' is {list(alike.shape)}, for {spoken} samples")
    if alike.is_floating_point() or alike.dtype == torch.bool:
        raise RefusedError("dtype", f"'{ALIKE}' is {alike.dtype}, and no whole numbers")
    row = alike.long()
    count = int(row.max()) + 1
    before = torch.cat([row.new_full((1,), -1), row.cummax(0).values[:-1]])
    if bool((row < 0).any()) or bool((row > before + 1).any()) or count == spoken:
        raise RefusedError("values", f"'{ALIKE}' names rows that are not there, or each once")
    if alike.dtype != numbers(count):
        raise RefusedError("dtype", f"'{ALIKE}' is {alike.dtype} and not {numbers(count)}")
    return count


class ExpectedTree(Expected):
    """Trees of weights, as they are or as a compression has encoded them; finite, in any case.

    Args:
        senders: who may send something.
        device: where it is read.
        forms: shapes and types of what a sender sends to some receivers.
        compression: which has encoded it, if any.
        like: a tree shaped as what is read from encoded rows.
        apart: whether a sender may send different messages to different receivers.
    """

    def __init__(
        self,
        senders: Collection[str],
        device: torch.device,
        forms: Callable[[str, Sequence[str]], Mapping[str, Form]],
        compression: Compression | None = None,
        like: Tree | None = None,
        *,
        apart: bool = False,
    ) -> None:
        super().__init__(senders, device, apart=apart)
        self._forms, self._compression = forms, compression
        self._like = {n: leaf[:1].cpu() for n, leaf in (like or {}).items()}

    def rows(self, payload: Payload, receivers: Sequence[str]) -> Rows:
        """The tensors of a tree."""
        tensors = payload.tensors
        if payload.logits:
            raise RefusedError("names", "weights are no logits")
        check_forms(tensors, self._forms(payload.sender, receivers))
        check_finite(tensors)
        if self._compression is not None:
            try:
                tree = self._compression.decode({n: leaf[None] for n, leaf in tensors.items()}, self._like)
            except (RuntimeError, LookupError, ValueError, TypeError) as error:
                raise RefusedError("values", "its compressed weights cannot be read") from error
            check_finite(tree)
            if any(
                leaf.shape != self._like[n].shape or not leaf.is_floating_point() for n, leaf in tree.items()
            ):
                raise RefusedError("values", "its compressed weights cannot be read")
        return Rows(tensors)
