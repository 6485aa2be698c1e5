"""Stacks that have arrived, as statements of all speakers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmkd.encoding import Wire
from mmkd.knowledge.base import Heard
from mmkd.transport import Stack
from mmkd.types import ConfigError


def decoded(stack: Stack, wire: Wire, classes: int) -> dict[str, Tensor]:
    """Statements of the rows of a stack, decoded by the wire from its tensors.

    Args:
        stack: that has arrived.
        wire: that has encoded it.
        classes: width of logits.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for full, tensor in stack.tensors.items():
        name, dot, part = full.partition(".")
        parts.setdefault(name, {})[dot + part] = tensor
    return {
        name: wire.decode(
            own,
            classes if name in stack.logits else own.get("", next(iter(own.values()))).shape[-1],
            logits=name in stack.logits,
        )
        for name, own in parts.items()
    }


def assembled(
    where: Mapping[str, int], said: Sequence[tuple[Stack, Mapping[str, Tensor]]]
) -> dict[str, Heard]:
    """Statements of all speakers; who has not made a statement is silent in it.

    Args:
        where: place of each speaker.
        said: stacks, and the statements in them.

    Raises:
        ConfigError: two say something of the same name in different widths.
    """
    heard: dict[str, Heard] = {}
    for stack, statements in said:
        places = [where[name] for name in stack.senders]
        for name, values in statements.items():
            spoken = stack.spoken
            if spoken is None:
                spoken = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
            if places == list(range(len(where))):
                heard[name] = Heard(values, spoken)
                continue
            if name not in heard:
                shape = (len(where), *values.shape[1:])
                blank = torch.zeros(shape[:2], dtype=torch.bool, device=values.device)
                heard[name] = Heard(values.new_zeros(shape), blank)
            if heard[name].values.shape[1:] != values.shape[1:]:
                raise ConfigError(
                    f"'{stack.senders[0]}' says '{name}' as {list(values.shape[1:])}, others as"
                    f" {list(heard[name].values.shape[1:])}; give every process the same configuration"
                )
            heard[name].values[places], heard[name].spoke[places] = values, spoken
    return heard


def whose_answers(stack: Stack, *, personal: bool) -> list[str]:
    """Whose statements the rows of a hub's answers are: its own, or its own to one listener each."""
    if not personal:
        return list(stack.senders)
    receivers = [stack.receivers[0]] * len(stack.senders)
    if stack.edges is not None:
        for receiver, row in stack.edges.T.tolist():
            receivers[row] = stack.receivers[receiver]
    return [f"{sender} to {receiver}" for sender, receiver in zip(stack.senders, receivers, strict=True)]
