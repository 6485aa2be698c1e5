"""What is sent, carried by the transport and counted by the ledger: no byte does one without the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mmkd.functional.slices import padded
from mmkd.functional.trees import Tree
from mmkd.ledger import Ledger
from mmkd.transport import Mail, Stack, Transport
from mmkd.types import ConfigError

ALIKE = "give every process the same configuration"
"""What to do where one process expects what another does not."""


class Delivery:
    """The one way from a participant to another.

    Args:
        transport: carries what is sent.
        ledger: counts it, for each directed edge.
    """

    def __init__(self, transport: Transport, ledger: Ledger) -> None:
        self._transport, self.ledger = transport, ledger
        self.hosts = transport.hosts
        """Whether hubs are in this process."""

    def deliver(self, kind: str, round: int, stacks: Sequence[Stack]) -> list[Stack]:
        """Send stacks, and get those that arrive; rows that nobody gets are neither sent nor counted.

        Rows are counted where they are sent, so ledgers of several processes add up to that of one.
        """
        mail = Mail(kind, round, [stack for stack in stacks if len(stack.senders) and len(stack.receivers)])
        for stack in mail.stacks:
            self.ledger.count(
                round, kind, stack.senders, stack.receivers, stack.edges, stack.sizes(kind, round)
            )
        return list(self._transport.deliver(mail).stacks)


def rows_by_sender(
    arrived: Sequence[Stack],
    names: Sequence[str],
    heard: Sequence[str],
    shapes: Mapping[str, torch.Size],
) -> Tree:
    """What arrives of known senders, a row each in their order, with zeros behind narrower ones.

    Args:
        arrived: stacks of the same tensors, one at least.
        names: each of whom has a row: of zeros, where nothing arrives.
        heard: those of whom something must arrive.
        shapes: of the rows, by the name of a tensor; as they arrive, if not said.

    Raises:
        ConfigError: somebody has sent nothing who is to be heard, or somebody has who is none of them.
    """
    if len(arrived) == 1 and list(arrived[0].senders) == list(names):
        return {n: padded(leaf, shapes.get(n, leaf.shape[1:])) for n, leaf in arrived[0].tensors.items()}
    row, found = {name: i for i, name in enumerate(names)}, set[str]()
    rows: Tree = {}
    for stack in arrived:
        if strange := [sender for sender in stack.senders if sender not in row]:
            raise ConfigError(f"'{strange[0]}' sent weights and is no peer of this cluster; {ALIKE}")
        found |= set(stack.senders)
        places = [row[sender] for sender in stack.senders]
        for n, leaf in stack.tensors.items():
            leaf = padded(leaf, shapes.get(n, leaf.shape[1:]))
            if n not in rows:
                rows[n] = leaf.new_zeros(len(names), *leaf.shape[1:])
            rows[n][places] = leaf
    if silent := [name for name in heard if name not in found]:
        raise ConfigError(f"'{silent[0]}' sent no weights to its cluster; {ALIKE}")
    return rows
