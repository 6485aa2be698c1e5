"""The interface of transports, which carry statements and weights between participants."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from mmkd.description import Setting
from mmkd.encoding.messages import sizes
from mmkd.encoding.samples import pack
from mmkd.ledger import copies
from mmkd.transport.facts import Facts
from mmkd.types import Payload, PeerName


class Stack(NamedTuple):
    """Rows that are sent together: a row is what one participant sends, the same to all its receivers.

    A sender never sends to itself. Within a process the stack is handed over whole; a transport that carries
    it to another process takes it apart into ``payloads``.
    """

    senders: Sequence[str]  # of each row
    tensors: Mapping[str, Shaped[Tensor, "rows ..."]]
    receivers: Sequence[str]
    edges: Int[Tensor, "2 edges"] | None = None  # receiver and row of each; every row goes to all, if None
    spoken: Bool[Tensor, "rows samples"] | None = None  # the samples that a row is about; all, if None
    logits: tuple[str, ...] = ()  # names of the statements of which only the softmax matters
    alike: Int[Tensor, "rows samples"] | None = None  # the first sample with the same row, sent once

    def copies(self) -> list[int]:
        """How many receivers get each row."""
        return copies(self.senders, self.receivers, self.edges)

    def sizes(self, kind: str, round: int) -> list[tuple[int, int]]:
        """Bytes of each row's tensors as they are sent, and of what a message adds to them."""
        spoken = self._spoken()
        if spoken is None:
            one = {name: tensor[0] for name, tensor in self.tensors.items()}
            return sizes(Payload("", kind, round, one, self.logits), self.senders)
        counts, found = spoken.sum(1).tolist(), dict[int, tuple[int, int]]()
        if self.alike is not None:
            firsts = spoken & (self.alike == torch.arange(self.alike.shape[1], device=self.alike.device))
            counts = list(zip(counts, firsts.sum(1).tolist(), strict=True))
        for count in set(counts):  # as many samples, as many different rows: as many bytes
            rows = [row for row, own in enumerate(counts) if own == count]
            example = Payload("", kind, round, self._packed(rows[0], spoken), self.logits)
            found |= zip(rows, sizes(example, [self.senders[row] for row in rows]), strict=True)
        return [found[row] for row in range(len(counts))]

    def payloads(self, kind: str, round: int) -> Iterator[Payload]:
        """Payloads of the senders, one for each row, without the samples that a row leaves out."""
        spoken = self._spoken()
        for row, sender in enumerate(self.senders):
            yield Payload(sender, kind, round, self._packed(row, spoken), self.logits)

    def _spoken(self) -> Bool[Tensor, "rows samples"] | None:
        """The samples that rows are about, if some are left out or sent in another's place."""
        if self.spoken is None and self.alike is not None:
            return torch.ones_like(self.alike, dtype=torch.bool)
        return self.spoken

    def _packed(self, row: int, spoken: Tensor | None) -> dict[str, Tensor]:
        """The tensors of a row as they are sent."""
        tensors = {name: tensor[row] for name, tensor in self.tensors.items()}
        if spoken is None:
            return tensors
        return pack(tensors, spoken[row], None if self.alike is None else self.alike[row])


class Message(NamedTuple):
    """What arrives from another process, as ``encode`` made it there; nobody has looked at it yet."""

    encoded: bytes
    receivers: Sequence[str]  # those in this process to whom it is sent
    round: int | None = None  # in which it was sent; that of the mail, if None


class Mail(NamedTuple):
    """All that is sent in one exchange."""

    kind: str  # "logits", "weights", ...
    round: int
    stacks: Sequence[Stack]
    messages: Sequence[Message] = ()  # that arrive from other processes
    about: str = ""  # names the samples or classes that statements are about; weights are about none


class Transport(ABC):
    """Carries all that is sent in an exchange in one call; a peer that is silent is absent from it.

    Every process calls ``join`` once, and then ``deliver`` equally often, with mail of the same kinds and
    rounds in the same order, whether or not any of its own participants sends something.
    """

    hosts: bool = True
    """Whether hubs, which are participants without a student, are in this process."""
    goes_on: bool = False
    """Whether exchanges go on without participants that are silent, even without a hub."""
    asynchronous: bool = False
    """Whether exchanges wait for nobody, so that processes are in different rounds at a time."""
    begins: int = 0
    """The first round in which this process takes part; it sits out those before, which others go through."""

    def join(
        self,
        facts: Mapping[PeerName, Facts],
        awaited: Collection[PeerName] = (),
        settings: Mapping[str, Setting] | None = None,
    ) -> Mapping[PeerName, Facts]:
        """Tell other processes which peers are in this one, once.

        Args:
            facts: of the peers of this process.
            awaited: peers of the same configuration that are in other processes.
            settings: of this process, by name; where another has a setting of that name, it is the same.

        Returns:
            those of all peers, in canonical order (see ``transport.facts.everybody``); ``facts`` itself where
            all are in this process.

        Raises:
            ConfigError: two processes hold the same peer, or settings differ.
        """
        return facts

    def leave(self, *, at_once: bool = False) -> None:  # noqa: B027  # within a process nobody need know
        """Tell other processes that this one has ended: no ``deliver`` follows.

        Args:
            at_once: because of an error; do not wait for what others may still ask.
        """

    @abstractmethod
    def deliver(self, mail: Mail) -> Mail:
        """Hand over what the participants of this process send, and get what is sent to them.

        Args:
            mail: stacks of rows with their senders, who are here, and receivers, who may be anywhere (see
                ``transport.facts.lives_here``).

        Returns:
            stacks of ``mail``, by reference, and messages of senders in other processes to receivers in this
            one, in the order in which each sent them. Who stays silent is absent, or is heard with what it
            said last about the same samples. A transport need not look into messages:
            ``coordination.arrivals`` refuses what is wrong.
        """
