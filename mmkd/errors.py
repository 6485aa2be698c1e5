"""Errors of the user's making. Nothing is imported here, so that they can be told at once."""

from __future__ import annotations


class ConfigError(ValueError):
    """The user asked for something that has no meaning; the message says what, and what to do."""


class DivergedError(RuntimeError):
    """A peer's loss, its weights or its predictions are no longer finite; the message names the peer."""
