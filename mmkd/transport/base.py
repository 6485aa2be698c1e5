"""What carries statements and weights between participants."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxtyping import Bool, Int
from torch import Tensor

from mmkd.encoding.messages import sizes
from mmkd.encoding.samples import pack
from mmkd.ledger import copies
from mmkd.transport.facts import Facts
from mmkd.types import Payload, PeerName


class Stack(NamedTuple):
    """Rows that are sent together: a row is what one participant sends, the same to all who get it.

    A sender never sends to itself. In one process nothing is made for a row or for an edge; whoever carries
    a stack across a border takes it apart (``payloads``).
    """

    senders: Sequence[str]  # of each row
    tensors: Mapping[str, Tensor]  # each [rows, ...]
    receivers: Sequence[str]
    edges: Int[Tensor, "2 edges"] | None = None  # receiver and row of each; every row goes to all, if None
    spoken: Bool[Tensor, "rows samples"] | None = None  # the samples that a row is about; all, if None
    logits: tuple[str, ...] = ()  # names of the statements of which only the softmax matters

    def copies(self) -> list[int]:
        """How many receivers get each row."""
        return copies(self.senders, self.receivers, self.edges)

    def sizes(self, kind: str, round: int) -> list[tuple[int, int]]:
        """Bytes of each row's tensors as they are sent, and of what a message adds to them."""
        if self.spoken is None:
            one = {name: tensor[0] for name, tensor in self.tensors.items()}
            return sizes(Payload("", kind, round, one, self.logits), self.senders)
        counts, found = self.spoken.sum(1).tolist(), dict[int, tuple[int, int]]()
        for count in set(counts):  # rows about equally many samples take equally many bytes
            rows = [row for row, own in enumerate(counts) if own == count]
            first = {name: tensor[rows[0]] for name, tensor in self.tensors.items()}
            example = Payload("", kind, round, pack(first, self.spoken[rows[0]]), self.logits)
            found |= zip(rows, sizes(example, [self.senders[row] for row in rows]), strict=True)
        return [found[row] for row in range(len(counts))]

    def payloads(self, kind: str, round: int) -> Iterator[Payload]:
        """What each sender sends, row by row, without the samples that it leaves out."""
        for row, sender in enumerate(self.senders):
            tensors = {name: tensor[row] for name, tensor in self.tensors.items()}
            packed = tensors if self.spoken is None else pack(tensors, self.spoken[row])
            yield Payload(sender, kind, round, packed, self.logits)


class Mail(NamedTuple):
    """All that is sent in one exchange."""

    kind: str  # "logits", "weights", ...
    round: int
    stacks: Sequence[Stack]


class Transport(ABC):
    """One collective-style call an exchange: nobody orders sends by hand, and a silent peer is absent.

    Every process calls ``join`` once, and then ``deliver`` equally often, with mail of the same kinds and
    rounds in the same order, whether or not any of its own participants says something.
    """

    hosts: bool = True
    """Whether participants without a student, which are hubs, live in this process; in one of all they do."""

    def join(self, facts: Mapping[PeerName, Facts]) -> Mapping[PeerName, Facts]:
        """Say who is here, once.

        Args:
            facts: of the peers of this process.

        Returns:
            those of all peers, in canonical order (see ``transport.facts.everybody``); what was given, where
            all are in this process.

        Raises:
            ConfigError: two processes hold the same peer.
        """
        return facts

    @abstractmethod
    def deliver(self, mail: Mail) -> Mail:
        """Hand over what the participants of this process send, and get what is sent to them.

        Args:
            mail: stacks of rows with their senders, who are here, and receivers, who may be anywhere (see
                ``transport.facts.lives_here``).

        Returns:
            stacks of rows that arrive here: those of ``mail``, by reference, and over a border rows of other
            senders beside them, in the order in which each sent them, with the edges to receivers that are
            here. Who stays silent is absent.
        """
