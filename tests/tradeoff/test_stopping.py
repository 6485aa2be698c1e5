"""A command that is stopped says how to go on."""

from __future__ import annotations

import os
import signal

import pytest

from mmkd.tradeoff.stopping import stoppable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("made_of_it", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_a_signal_is_one_line_and_a_status(
    number: signal.Signals, made_of_it: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the libraries in between make of the interrupt; handlers are those of before."""
    before = signal.getsignal(number)

    def work() -> int:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as error:
            raise made_of_it from error
        raise AssertionError("the signal came too late")

    assert stoppable(work) == 128 + number
    assert capsys.readouterr().err == "mmkd: stopped; run the same command again to go on\n"
    assert signal.getsignal(number) == before


def test_without_a_signal_nothing_changes() -> None:
    assert stoppable(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        stoppable(lambda: 1 // 0)
