"""Delivery: the transport carries what is sent, and the ledger counts every byte of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mmkd.functional.slices import padded
from mmkd.functional.trees import Tree
from mmkd.ledger import Ledger
from mmkd.transport import Mail, Stack, Transport
from mmkd.types import ConfigError

ALIKE = "give every process the same configuration"
"""The advice of errors where one process expects a message that another does not send."""


class Delivery:
    """The only way by which anything is sent from one participant to another.

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

        Rows are counted in the process that sends them, so that ledgers of several processes can be added.
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
    """What arrives from known senders, a row each in their order, smaller ones padded with zeros.

    Args:
        arrived: stacks of the same tensors, at least one.
        names: possible senders, each of which gets a row: of zeros, where nothing arrives.
        heard: those from which something must arrive.
        shapes: of the rows, by the name of a tensor; rows of other tensors keep their shapes.

    Raises:
        ConfigError: one of ``heard`` has sent nothing, or somebody has sent something who is no peer.
    """
    if len(arrived) == 1 and list(arrived[0].senders) == list(names):
        return {n: padded(leaf, shapes.get(n, leaf.shape[1:])) for n, leaf in arrived[0].tensors.items()}
    row, senders = {name: i for i, name in enumerate(names)}, set[str]()
    rows: Tree = {}
    for stack in arrived:
        if strange := [sender for sender in stack.senders if sender not in row]:
            raise ConfigError(f"'{strange[0]}' sent weights and is no peer of this cluster; {ALIKE}")
        senders |= set(stack.senders)
        places = [row[sender] for sender in stack.senders]
        for n, leaf in stack.tensors.items():
            leaf = padded(leaf, shapes.get(n, leaf.shape[1:]))
            if n not in rows:
                rows[n] = leaf.new_zeros(len(names), *leaf.shape[1:])
            rows[n][places] = leaf
    if silent := [name for name in heard if name not in senders]:
        raise ConfigError(f"'{silent[0]}' sent no weights to its cluster; {ALIKE}")
    return rows
