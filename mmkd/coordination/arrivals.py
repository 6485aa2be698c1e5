"""Messages from other processes, each checked before anybody reads it: what is wrong is refused, and why."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from mmkd.encoding.messages import decode
from mmkd.transport import Mail, Message, Stack
from mmkd.types import ConfigError, Payload

Reason: TypeAlias = Literal[
    "unreadable", "kind", "round", "sender", "repeated", "names", "shape", "dtype", "values"
]
"""Why a message is refused: it is no payload; its kind or round is another; its sender is not expected, or
has been heard already; its tensors have other names, shapes or types, or hold values that mean nothing."""
Form: TypeAlias = tuple[torch.Size, torch.dtype]
"""Shape and type of a tensor."""


class RefusedError(Exception):
    """A message is not what was expected.

    Args:
        reason: in one word.
        detail: what is wrong, for the log.
        sender: whom the message names, if that is known and expected.
    """

    def __init__(self, reason: Reason, detail: str, sender: str = "") -> None:
        super().__init__(detail)
        self.reason, self.detail, self.sender = reason, detail, sender


class Rows(NamedTuple):
    """What is in a message that is as expected."""

    tensors: Mapping[str, Tensor]  # samples that were left out are zeros
    spoken: Tensor | None = None  # [samples]: those that the message is about; all, if None


class Expected(ABC):
    """What may arrive from other processes in one exchange.

    Args:
        senders: who may send something.
        device: where it is read.
        apart: whether a sender may send different messages to different receivers, as hubs do.
    """

    def __init__(self, senders: Collection[str], device: torch.device, *, apart: bool = False) -> None:
        self.senders, self.device, self.apart = frozenset(senders), device, apart

    @abstractmethod
    def rows(self, payload: Payload, receivers: Sequence[str]) -> Rows:
        """The tensors of a message, if they are what was expected.

        Raises:
            RefusedError: they are not.
        """


def opened(mail: Mail, arrived: Mail, expected: Expected | None) -> tuple[list[Stack], list[RefusedError]]:
    """Stacks of all that arrived and is right, and why messages were refused.

    A message that is refused changes nothing: a right one of the same sender may still arrive after it.

    Args:
        mail: what was given to the transport.
        arrived: what it handed over.
        expected: what may arrive from other processes; nothing, if None.

    Raises:
        ConfigError: the transport hands over other stacks than it was given.
    """
    stacks = list(arrived.stacks)
    given = set(map(id, mail.stacks))
    if any(id(stack) not in given for stack in stacks):
        _check_own(mail, stacks)
    refused: list[RefusedError] = []
    if not arrived.messages:
        return stacks, refused
    heard = {(sender, "") for stack in stacks for sender in stack.senders}
    kinds: dict[tuple[object, ...], list[tuple[Payload, Rows, Sequence[str]]]] = {}
    for message in arrived.messages:
        try:
            payload, rows = _read(message, mail, expected, heard)
        except RefusedError as refusal:
            refused.append(refusal)
            continue
        form = tuple((n, t.dtype, t.shape) for n, t in rows.tensors.items())
        whose = tuple(message.receivers) if expected is not None and expected.apart else ()
        kinds.setdefault((form, rows.spoken is None, payload.logits, whose), []).append(
            (payload, rows, message.receivers)
        )
    assert expected is not None or not kinds
    for alike in kinds.values():
        stacks.append(_stacked(alike, expected.device))  # type: ignore[union-attr]  # see above
    return stacks, refused


def _read(
    message: Message, mail: Mail, expected: Expected | None, heard: set[tuple[str, str]]
) -> tuple[Payload, Rows]:
    """A message that is as expected; notes that its sender has been heard.

    Raises:
        RefusedError: it is not.
    """
    try:
        payload = decode(message.encoded)
    except ValueError as error:
        raise RefusedError("unreadable", str(error)) from error
    sender = payload.sender
    if expected is None or sender not in expected.senders:
        raise RefusedError("sender", f"'{sender[:40]}' is not expected to send anything")
    if payload.kind != mail.kind:
        raise RefusedError("kind", f"it is of kind '{payload.kind[:40]}'", sender)
    round_ = mail.round if message.round is None else message.round
    if payload.round != round_:
        raise RefusedError("round", f"it is of round {payload.round}, and this is round {round_}", sender)
    ways = {(sender, receiver) for receiver in message.receivers} if expected.apart else {(sender, "")}
    if heard & ways:
        raise RefusedError("repeated", "it has sent a message in this exchange already", sender)
    try:
        rows = expected.rows(payload, message.receivers)
    except RefusedError as refusal:
        refusal.sender = sender
        raise
    heard |= ways
    return payload, rows


def _stacked(alike: Sequence[tuple[Payload, Rows, Sequence[str]]], device: torch.device) -> Stack:
    """Messages of the same names, shapes and types as one stack."""
    first = alike[0]
    names = first[1].tensors
    spoken = None
    if first[1].spoken is not None:
        spoken = torch.stack([rows.spoken for _, rows, _ in alike if rows.spoken is not None]).to(device)
    return Stack(
        [payload.sender for payload, _, _ in alike],
        {n: torch.stack([rows.tensors[n] for _, rows, _ in alike]).to(device) for n in names},
        list(dict.fromkeys(receiver for _, _, receivers in alike for receiver in receivers)),
        None,
        spoken,
        first[0].logits,
    )


def _check_own(mail: Mail, stacks: Sequence[Stack]) -> None:
    """Refuse stacks of which the like was not sent in this process.

    Raises:
        ConfigError: somebody else's, or of other names, shapes or types.
    """
    sent: dict[str, list[Stack]] = {}
    for stack in mail.stacks:
        for sender in dict.fromkeys(stack.senders):
            sent.setdefault(sender, []).append(stack)
    for stack in stacks:
        for sender in dict.fromkeys(stack.senders):
            if sender not in sent:
                raise ConfigError(
                    f"the transport hands over '{mail.kind}' of '{sender}', who sends nothing here;"
                    " what comes from another process belongs to the messages of mail"
                )
            if not any(_forms(stack) == _forms(own) for own in sent[sender]):
                raise ConfigError(
                    f"'{mail.kind}' of '{sender}', which is in this process, arrives with other names, shapes"
                    " or types than it was sent: the transport must hand over stacks as they are"
                )


def _forms(stack: Stack) -> dict[str, Form]:
    return {n: (tensor.shape[1:], tensor.dtype) for n, tensor in stack.tensors.items()}


def check_forms(tensors: Mapping[str, Tensor], forms: Mapping[str, Form]) -> None:
    """Refuse tensors of other names, shapes or types.

    Raises:
        RefusedError: there are such.
    """
    if odd := sorted(tensors.keys() ^ forms.keys()):
        there = "there" if odd[0] in tensors else "missing"
        raise RefusedError("names", f"'{odd[0][:40]}' is {there}")
    for name, (shape, dtype) in forms.items():
        given = tensors[name]
        if given.shape != shape:
            raise RefusedError("shape", f"'{name}' is {list(given.shape)} and not {list(shape)}")
        if given.dtype != dtype:
            raise RefusedError("dtype", f"'{name}' is {given.dtype} and not {dtype}")


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse floating-point numbers that are not finite.

    Raises:
        RefusedError: there are such.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or bool(tensor.sum().isfinite()):
            continue
        if not bool(tensor.isfinite().all()):  # a sum of finite numbers may overflow
            raise RefusedError("values", f"'{name}' holds values that are not finite")
