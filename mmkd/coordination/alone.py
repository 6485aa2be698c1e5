"""Peers whose hub is silent, who keep the weights that they have until it is heard again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOG = logging.getLogger(__name__)
"""Where it is said that a hub is silent, once."""


class UnheardError(Exception):
    """The hub has sent nothing, and peers are to go on without it."""


class Alone:
    """Whether the peers of a cluster go on alone in the round under way.

    Args:
        usual: whether that is as it should be, where processes wait for nobody.
    """

    def __init__(self, *, usual: bool) -> None:
        self._now, self._told, self._usual = False, False, usual

    def __bool__(self) -> bool:
        """Whether their hub was silent in this round."""
        return self._now

    def begin(self) -> None:
        """Begin a round, in which the hub may be heard again."""
        self._told = self._told and self._now
        self._now = False

    @contextmanager
    def unless_heard(self) -> Iterator[None]:
        """Take part in a round, but for what follows the hub's silence."""
        try:
            yield
        except UnheardError as silence:
            self._now = True
            if not self._told and not self._usual:
                LOG.warning("%s; peers keep their own weights until it is heard again", silence)
            self._told = True
