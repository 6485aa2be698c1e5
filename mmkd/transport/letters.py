"""What a process writes beside a message to another: which exchange it is of, and to whom it goes."""

from __future__ import annotations

import json
from typing import NamedTuple

ROOT = "mmkd"
"""First part of every key."""
TO = "/to/"
"""Before the process that a letter goes to, in its key."""
LONGEST = 2**16
"""Bytes of the longest slip that is read."""
MOST = 2**20
"""The most messages that a process sends another in one exchange."""


class Exchange(NamedTuple):
    """One of the exchanges of a run; processes that go through the same ones call each by the same name."""

    kind: str
    round: int
    number: int  # how many of the same kind came before it in its round


class Address(NamedTuple):
    """A key, taken apart."""

    round: int
    sender: str  # a participant; the process itself, if it has nothing to say
    kind: str
    process: str  # that the letter goes to


class Slip(NamedTuple):
    """What is written beside a message."""

    instance: str  # of the process that sends it, drawn when it starts
    number: int  # of the exchange
    place: int  # of the message among those of this exchange to this process
    of: int  # how many these are; none, if the process has nothing to say
    receivers: tuple[str, ...]  # participants of the process that the message goes to
    about: str = ""  # names what statements are about; see ``Mail.about``

    def encode(self) -> bytes:
        """The slip as JSON."""
        return json.dumps(list(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, sent: bytes) -> Slip:
        """A slip from what ``encode`` has made.

        Raises:
            ValueError: it is none.
        """
        if len(sent) > LONGEST:
            raise ValueError("a slip of that length is none")
        read = json.loads(sent)
        if not isinstance(read, list) or len(read) != len(cls._fields):
            raise ValueError("no slip")
        instance, number, place, of, receivers, about = read
        counts = all(type(count) is int and 0 <= count <= MOST for count in (number, place, of))
        if not counts or place >= max(of, 1):
            raise ValueError("a slip counts wrongly")
        names = [instance, *receivers] if isinstance(receivers, list) else [None]
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError("a slip names nobody")
        if not isinstance(about, str) or len(about) > 64:
            raise ValueError("a slip is about nothing")
        return cls(instance, number, place, of, tuple(receivers), about)


def key(study: str, address: Address) -> str:
    """The key of a letter: ``mmkd/<study>/<round>/<sender>/<kind>/to/<process>``."""
    round_, sender, kind, process = address
    return f"{ROOT}/{study}/{round_}/{sender}/{kind}{TO}{process}"


def address(study: str, text: str) -> Address:
    """The parts of a key of that study.

    Raises:
        ValueError: it is no key of a letter.
    """
    start, front = f"{ROOT}/{study}/", ""
    round_, _, rest = text.removeprefix(start).partition("/")
    front, to, process = rest.partition(TO)
    sender, _, kind = front.rpartition("/")
    number = round_ if text.startswith(start) and round_.isascii() and round_.isdigit() else ""
    if not (number and len(number) < 19 and to and process and sender and kind):
        raise ValueError(f"'{text[:80]}' is no key of a letter")
    return Address(int(number), sender, kind, process)
