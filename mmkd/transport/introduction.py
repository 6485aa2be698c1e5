"""What a process tells the others of itself before it trains with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from mmkd.description import Setting
from mmkd.encoding.messages import decode, encode
from mmkd.transport.facts import Facts
from mmkd.types import PeerName

LONGEST = 2**26
"""Bytes of the longest introduction that is read."""


class Introduction(NamedTuple):
    """Who a process is, whom it holds, and what it has been configured to do."""

    process: str  # its first peer
    instance: str  # drawn when it starts
    hosts: bool  # whether hubs are in it
    version: str  # of mmkd
    settings: Mapping[str, str]  # a hash of each
    facts: Mapping[PeerName, Facts]

    def encode(self) -> bytes:
        """The introduction as JSON, and a message for each peer behind it."""
        told = [self.process, self.instance, self.hosts, self.version, dict(self.settings)]
        parts = [json.dumps(told, separators=(",", ":")).encode()]
        parts += [encode(own.payload(name)) for name, own in self.facts.items()]
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)

    @classmethod
    def decode(cls, sent: bytes) -> Introduction:
        """An introduction from what ``encode`` has made.

        Raises:
            ValueError: it is none.
        """
        first, *messages = _parts(sent)
        read = json.loads(first)
        if not isinstance(read, list) or len(read) != len(cls._fields) - 1:
            raise ValueError("no introduction")
        process, instance, hosts, version, settings = read
        texts = [process, instance, version, *(settings.values() if isinstance(settings, dict) else [None])]
        if not (all(isinstance(text, str) and text for text in texts) and isinstance(hosts, bool)):
            raise ValueError("no introduction")
        payloads = [decode(message) for message in messages]
        facts = {payload.sender: Facts.of(payload) for payload in payloads}
        if len(facts) != len(payloads) or not facts:
            raise ValueError("no introduction of peers")
        return cls(process, instance, hosts, version, settings, facts)


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
