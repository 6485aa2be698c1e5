"""What a process tells the others of itself before it trains with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, NamedTuple

from mmkd.description import Setting
from mmkd.encoding.messages import decode, encode
from mmkd.transport.facts import Facts
from mmkd.types import PeerName

LONGEST = 2**26
"""Bytes of the longest introduction that is read."""


class Introduction(NamedTuple):
    """Who a process is, whom it holds, and how far it is."""

    process: str  # its first peer
    instance: str  # drawn when it starts
    hosts: bool  # whether hubs are in it
    version: str  # of mmkd
    peers: tuple[PeerName, ...]
    saved: tuple[int, ...] = ()  # rounds after which it has checkpoints
    round: int = -1  # that it is in; -1 while it waits for others
    sent: Mapping[str, int] = MappingProxyType({})  # bytes of messages to other processes, by kind

    def encode(self) -> bytes:
        """The introduction as JSON."""
        return json.dumps([*self[:-1], dict(self.sent)], separators=(",", ":")).encode()

    @classmethod
    def decode(cls, sent: bytes) -> Introduction:
        """An introduction from what ``encode`` has made.

        Raises:
            ValueError: it is none.
        """
        read = _list(sent, len(cls._fields))
        process, instance, hosts, version, peers, saved, round_, spent = read
        if not isinstance(peers, list) or not isinstance(saved, list) or not isinstance(hosts, bool):
            raise ValueError("no introduction")
        if not all(isinstance(text, str) and text for text in (process, instance, version, *peers)):
            raise ValueError("an introduction of nobody")
        if not isinstance(spent, dict):
            raise ValueError("no introduction")
        if not all(
            type(number) is int and -1 <= number < 2**53 for number in (round_, *saved, *spent.values())
        ):
            raise ValueError("an introduction with no rounds")
        if process not in peers or len(set(peers)) != len(peers):
            raise ValueError("an introduction of nobody")
        return cls(process, instance, hosts, version, tuple(peers), tuple(saved), round_, spent)


class Particulars(NamedTuple):
    """What the peers of a process are, and what it has been configured to do."""

    settings: Mapping[str, str]  # a hash of each
    facts: Mapping[PeerName, Facts]

    def encode(self) -> bytes:
        """The settings as JSON, and a message for each peer behind them."""
        parts = [json.dumps([dict(self.settings)], separators=(",", ":")).encode()]
        parts += [encode(own.payload(name)) for name, own in self.facts.items()]
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)

    @classmethod
    def decode(cls, sent: bytes) -> Particulars:
        """Particulars from what ``encode`` has made.

        Raises:
            ValueError: they are none.
        """
        first, *messages = _parts(sent)
        [settings] = _list(first, 1)
        if not isinstance(settings, dict) or not all(isinstance(text, str) for text in settings.values()):
            raise ValueError("no particulars")
        payloads = [decode(message) for message in messages]
        facts = {payload.sender: Facts.of(payload) for payload in payloads}
        if len(facts) != len(payloads):
            raise ValueError("particulars of a peer twice")
        return cls(settings, facts)


def _list(sent: bytes, length: int) -> list[Any]:
    if len(sent) > LONGEST:
        raise ValueError("an introduction of that length is none")
    read = json.loads(sent)
    if not isinstance(read, list) or len(read) != length:
        raise ValueError("no introduction")
    return read


def hashed(settings: Mapping[str, Setting]) -> dict[str, str]:
    """A short hash of each setting: enough to see that two differ, and not what they are."""
    return {
        name: blake2b(repr(value).encode(), digest_size=8).hexdigest() for name, value in settings.items()
    }


def different(own: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Names of settings that two processes have in common and that differ."""
    return [name for name in own if name in other and own[name] != other[name]]


def _parts(sent: bytes) -> Sequence[bytes]:
    if len(sent) > LONGEST:
        raise ValueError("an introduction of that length is none")
    at, parts = 0, []
    while at < len(sent):
        size = int.from_bytes(sent[at : at + 4], "little")
        parts.append(sent[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(sent) or not parts:
        raise ValueError("no introduction")
    return parts
