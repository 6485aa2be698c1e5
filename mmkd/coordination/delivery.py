"""Delivery: the transport carries what is sent, and the ledger counts every byte of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mmkd.functional.slices import padded
from mmkd.functional.trees import Tree
from mmkd.ledger import Ledger
from mmkd.transport import Mail, Stack, Transport
from mmkd.types import ConfigError


class Delivery:
    """The only way by which anything is sent from one participant to another.

    Args:
        transport: carries what is sent.
        ledger: counts it, for each directed edge.
    """

    def __init__(self, transport: Transport, ledger: Ledger) -> None:
        self._transport, self.ledger = transport, ledger

    def deliver(self, kind: str, round: int, stacks: Sequence[Stack]) -> list[Stack]:
        """Send stacks, and get those that arrive; rows that nobody gets are neither sent nor counted."""
        mail = Mail(kind, round, [stack for stack in stacks if len(stack.senders) and len(stack.receivers)])
        for stack in mail.stacks:
            self.ledger.count(
                round, kind, stack.senders, stack.receivers, stack.edges, stack.sizes(kind, round)
            )
        return list(self._transport.deliver(mail).stacks)


def rows_by_sender(
    arrived: Sequence[Stack], senders: Sequence[str], shapes: Mapping[str, torch.Size]
) -> Tree:
    """What arrives from known senders, a row each in their order, smaller ones padded with zeros.

    Args:
        arrived: stacks of the same tensors.
        senders: each of whom has sent a row.
        shapes: of the rows, by the name of a tensor.

    Raises:
        ConfigError: a sender has sent nothing, or somebody else has sent something.
    """
    if len(arrived) == 1 and list(arrived[0].senders) == list(senders):
        return {name: padded(leaf, shapes[name]) for name, leaf in arrived[0].tensors.items()}
    arrived_from = [sender for stack in arrived for sender in stack.senders]
    if strange := sorted(set(arrived_from) ^ set(senders)):
        what = "sent weights and is no peer" if strange[0] in arrived_from else "sent no weights"
        raise ConfigError(f"'{strange[0]}' {what} of this cluster; give every process the same configuration")
    order = [arrived_from.index(sender) for sender in senders]
    return {
        name: torch.cat([padded(stack.tensors[name], shape) for stack in arrived])[order]
        for name, shape in shapes.items()
    }
