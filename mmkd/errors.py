"""Errors of the user's making. Nothing is imported here, so that they can be told at once."""

from __future__ import annotations


class ConfigError(ValueError):
    """The user asked for something that has no meaning; the message says what, and what to do."""


class ListedError(ConfigError):
    """Many things are wrong at once; the message has a line for each."""


class SilentError(RuntimeError):
    """Another process has said nothing until the deadline, and the run is not to go on without it."""


class LostError(RuntimeError):
    """A process that did part of the work was killed before it had ended; the same command may go on."""


class DivergedError(RuntimeError):
    """A peer's loss, its weights or its predictions are no longer finite, or its weights have leapt.

    Args:
        reason: what is wrong with the peer; the whole message, if no peer is named.
        peer: who has diverged, and no other.
    """

    def __init__(self, reason: str = "", peer: str | None = None) -> None:
        self.reason, self.peer = reason, peer
        named = f"peer '{peer}' has diverged: {reason}; lower its learning rate or set model.clip"
        super().__init__(reason if peer is None else named)
