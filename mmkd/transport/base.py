"""What carries payloads between participants."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Set

from mmkd.types import Payload


class Transport(ABC):
    """One collective-style call an exchange: nobody orders sends by hand, and a silent peer is absent."""

    @property
    def at_hand(self) -> bool:
        """Whether payloads arrive as the very tensors that were sent, so that none need to be handed over."""
        return False

    @abstractmethod
    def deliver(self, outbox: Mapping[str, Payload], wanted: Set[str]) -> dict[str, Payload]:
        """Hand over what the participants of this process say, get what they want to hear.

        Args:
            outbox: payload of every participant of this process that speaks.
            wanted: names of the senders that some participant of this process hears.

        Returns:
            payloads by sender; a sender that stays silent is absent.
        """
