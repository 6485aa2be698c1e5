"""How a check fails: with one line that says what does not hold."""

from __future__ import annotations


def require(holds: bool, message: str) -> None:
    """Fail, unless it holds; also where Python leaves out assertions.

    Raises:
        AssertionError: it does not hold.
    """
    if not holds:
        raise AssertionError(message)
