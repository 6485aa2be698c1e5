"""The contract of a transport, and a transport that counts what it carries."""

from __future__ import annotations

import torch

from mmkd.testing.require import require
from mmkd.transport import Facts, LocalTransport, Mail, Stack, Transport

IDS = {"d": "0", "b": "1", "a": "2", "c": "3", "e": "4"}
"""Ids of the peers that join, in ascending order."""


class CountingTransport(LocalTransport):
    """Counts what it carries, to every receiver, and asks nobody who writes ledgers.

    Args:
        serialise: as of ``LocalTransport``.
    """

    nbytes = 0
    """Bytes of all tensors that were sent so far, headers and envelopes apart."""

    def deliver(self, mail: Mail) -> Mail:
        """Count, and hand over."""
        for stack in mail.stacks:
            rows = zip(stack.payloads(mail.kind, mail.round), stack.copies(), strict=True)
            self.nbytes += sum(payload.nbytes * copies for payload, copies in rows)
        return super().deliver(mail)


def check_transport(transport: Transport) -> None:
    """Check, in one process, that peers that join are known, and that what is sent arrives whole and alone.

    Facts of peers that join come back unchanged, in canonical order. The stacks differ in types and shapes,
    leave out samples, and go to some receivers or to all. What was sent is unchanged, and a participant that
    stays silent is absent.

    Raises:
        AssertionError: one of these does not hold; the message says which.
    """
    name = type(transport).__name__
    _check_joining(name, transport)
    mail = Mail("check", 7, stacks())
    before = [{n: t.clone() for n, t in stack.tensors.items()} for stack in mail.stacks]
    arrived = transport.deliver(mail)
    require((arrived.kind, arrived.round) == ("check", 7), f"{name} changes the kind or the round of mail")
    found = {sender: (stack, row) for stack in arrived.stacks for row, sender in enumerate(stack.senders)}
    sent = [sender for stack in mail.stacks for sender in stack.senders]
    require(
        set(found) <= set(sent),
        f"{name}: something arrives of {sorted(set(found) - set(sent))}, who are silent",
    )
    for stack, tensors in zip(mail.stacks, before, strict=True):
        for n, tensor in tensors.items():
            require(torch.equal(stack.tensors[n], tensor), f"{name} changes '{n}' of those who sent it")
        for row, sender in enumerate(stack.senders):
            require(sender in found, f"{name}: what '{sender}' sends does not arrive")
            other, place = found[sender]
            require(other.logits == stack.logits, f"{name}: what is called logits does not arrive")
            spoken = None if stack.spoken is None else stack.spoken[row]
            if spoken is not None:
                left_out = other.spoken is not None and torch.equal(other.spoken[place], spoken)
                require(left_out, f"{name}: other samples are left out")
            for n, tensor in stack.tensors.items():
                require(n in other.tensors, f"{name}: '{n}' of '{sender}' does not arrive")
                a, b = tensor[row], other.tensors[n][place]
                require(a.dtype == b.dtype, f"{name}: '{n}' arrives as {b.dtype} and was {a.dtype}")
                said = slice(None) if spoken is None else spoken
                require(torch.equal(a[said], b[said]), f"{name}: '{n}' of '{sender}' arrives changed")


def _check_joining(name: str, transport: Transport) -> None:
    shapes = {"w": torch.Size([2, 3])}
    given = {peer: Facts(id_, "image", 5, 2, 2.5, 7, shapes, (), 1.0, 3.0) for peer, id_ in IDS.items()}
    found = transport.join(given)
    for peer, facts in given.items():
        require(peer in found, f"{name}: '{peer}' joins and is not there")
        require(found[peer] == facts, f"{name} changes what '{peer}' says of itself on joining")
    ids = [facts.id for facts in found.values()]
    require(ids == sorted(ids), f"{name}: those who have joined are not in the order of their ids")


def stacks() -> list[Stack]:
    """Stacks of different types, shapes and receivers."""
    stream = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, generator=stream)
    spoken = torch.tensor([[True, False, True, True], [True] * 4, [False] * 4])
    codes = torch.randint(0, 255, (2, 6), generator=stream).to(torch.uint8)
    ring = torch.tensor([[0, 1, 2], [2, 0, 1]])
    alike = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]])
    shared = torch.gather(logits[:2], 1, alike[..., None].expand(2, 4, 5))
    return [
        Stack(["a", "b", "c"], {"main": logits}, ["a", "b", "c"], ring, spoken, ("main",)),
        Stack(["f", "g"], {"main": shared}, ["a", "b"], None, None, ("main",), alike),
        Stack(["d", "e"], {"main": codes, "main.step": torch.rand(2, 1, generator=stream).half()}, ["hub"]),
        Stack(
            ["hub"], {"w": torch.randn(1, 2, 3, generator=stream).double(), "n": torch.arange(1)}, ["d", "e"]
        ),
    ]
