"""A stop from outside, by Ctrl-C or SIGTERM: one line that says how to go on, and the usual status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


def stoppable(do: Callable[[], int]) -> int:
    """The exit status of a command, which a signal may stop.

    Either signal raises ``KeyboardInterrupt`` where the command is; Lightning makes an exit of that.

    Returns:
        what ``do`` returns, or 130 after SIGINT and 143 after SIGTERM.
    """
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        caught.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return do()
    except BaseException:
        if not caught:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print("mmkd: stopped; run the same command again to go on", file=sys.stderr)
    return 128 + caught[0]
