"""Delivery: the transport carries what is sent, and the ledger counts every byte of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from mmkd.coordination.arrivals import Expected, RefusedError, opened
from mmkd.ledger import Ledger
from mmkd.transport import Mail, Stack, Transport

ALIKE = "give every process the same configuration"
"""The advice of errors where one process expects a message that another does not send."""
LOG = logging.getLogger(__name__)
"""Where messages that are refused are named, once for each sender and reason."""


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
        self.goes_on = transport.goes_on
        """Whether exchanges go on without participants that are silent."""
        self.asynchronous = transport.asynchronous
        """Whether exchanges wait for nobody."""
        self._named = set[tuple[str, str]]()

    def deliver(
        self,
        kind: str,
        round: int,
        stacks: Sequence[Stack],
        expected: Callable[[], Expected] | None = None,
        about: str = "",
    ) -> list[Stack]:
        """Send stacks, and get those that arrive; rows that nobody gets are neither sent nor counted.

        Rows are counted in the process that sends them, so that ledgers of several processes can be added.
        Messages from other processes that are not what is expected are absent, counted by reason and named
        in the log, once for each sender and reason.

        Args:
            kind: of what is sent.
            round: the round.
            stacks: what participants of this process send.
            expected: makes what may arrive from other processes, asked only if something does; if None,
                nothing may.
            about: names the samples or classes that statements are about, so that nobody takes them for
                statements about others.

        Raises:
            ConfigError: the transport hands over other stacks than it was given.
        """
        said = [stack for stack in stacks if len(stack.senders) and len(stack.receivers)]
        mail = Mail(kind, round, said, (), about)
        for stack in mail.stacks:
            self.ledger.count(
                round, kind, stack.senders, stack.receivers, stack.edges, stack.sizes(kind, round)
            )
        arrived = self._transport.deliver(mail)
        come = expected() if arrived.messages and expected is not None else None
        found, refused = opened(mail, arrived, come)
        for refusal in refused:
            self._note(kind, round, refusal)
        return found

    def _note(self, kind: str, round: int, refusal: RefusedError) -> None:
        """Count a message that was refused, and name it if it is the first of its sender and reason."""
        self.ledger.refuse(refusal.sender, kind, refusal.reason)
        if (refusal.sender, refusal.reason) not in self._named:
            self._named.add((refusal.sender, refusal.reason))
            LOG.warning(
                "a message from %s in the exchange of '%s' in round %d is refused (%s): %s",
                f"'{refusal.sender}'" if refusal.sender else "somebody unknown",
                kind,
                round,
                refusal.reason,
                "".join(letter if letter.isprintable() else "?" for letter in refusal.detail),
            )
