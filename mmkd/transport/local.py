"""The transport of participants that all live in this process."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd.encoding.messages import decode, encode
from mmkd.encoding.samples import unpack
from mmkd.transport.base import Mail, Stack, Transport
from mmkd.types import Payload


class LocalTransport(Transport):
    """Hands stacks over by reference.

    Args:
        serialise: encode every row as a message and decode it again, as between processes; the numbers stay
            the same.
    """

    def __init__(self, *, serialise: bool = False) -> None:
        self.serialise = serialise

    def deliver(self, mail: Mail) -> Mail:
        """The mail as it was given, or as messages carry it with ``serialise``."""
        return (
            mail._replace(stacks=[carried(stack, mail) for stack in mail.stacks]) if self.serialise else mail
        )


def carried(stack: Stack, mail: Mail) -> Stack:
    """The stack that arrives where each row is encoded as a message and decoded again."""
    device = next(iter(stack.tensors.values())).device
    arrived = [decode(encode(payload)) for payload in stack.payloads(mail.kind, mail.round)]
    return restacked(stack, arrived, device)


def restacked(stack: Stack, payloads: list[Payload], device: torch.device) -> Stack:
    """The stack that is made of decoded messages again; samples that were left out are zeros."""
    rows: list[dict[str, Tensor]] = [dict(payload.tensors) for payload in payloads]
    spoken, samples = None, stack.alike if stack.spoken is None else stack.spoken
    if samples is not None:
        pairs = [unpack(tensors, samples.shape[1]) for tensors in rows]
        rows, spoken = [pair[0] for pair in pairs], torch.stack([pair[1] for pair in pairs]).to(device)
    tensors = {name: torch.stack([row[name] for row in rows]).to(device) for name in stack.tensors}
    return stack._replace(
        senders=[payload.sender for payload in payloads],
        tensors=tensors,
        spoken=spoken,
        logits=payloads[0].logits,
    )
