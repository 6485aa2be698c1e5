"""The assertion of all checks, which fails with one line that says what does not hold."""

from __future__ import annotations


def require(holds: bool, message: str) -> None:
    """Fail unless ``holds``, also where Python skips assertions.

    Raises:
        AssertionError: it does not hold.
    """
    if not holds:
        raise AssertionError(message)
