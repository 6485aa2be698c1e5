"""Links between devices and those they ask: what a request takes, by its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from math import isfinite
from typing import NamedTuple

from mmkd.errors import ConfigError
from mmkd.names import near
from mmkd.types import PeerName

BITS = 8
"""Of a byte: rates are published in bits a second."""


class Link(NamedTuple):
    """How fast a device sends and receives."""

    up: float  # bytes a second from the device
    down: float  # bytes a second to the device
    trip: float  # seconds until an answer comes to a question that takes no time to send

    def seconds(self, sent: float, received: float) -> float:
        """What a question and its answer take: trip + sent / up + received / down.

        Args:
            sent: bytes of the question.
            received: bytes of the answer.
        """
        return self.trip + sent / self.up + received / self.down


LINKS = {
    # LoRa Alliance, RP002-1.0.4, EU868: data rate 5 is 5,470 bit/s, and RECEIVE_DELAY1 1 s. That a frame has
    # at most 222 bytes, and its duty cycle of 1 %, are not counted.
    "lora": Link(5_470 / BITS, 5_470 / BITS, 1.0),
    # 3GPP release 13, category NB1: at most 62 kbit/s up and 26 down; 1.6 s is the least of its 1.6 to 10.
    "nb-iot": Link(62_000 / BITS, 26_000 / BITS, 1.6),
    # 3GPP release 13, category M1, half duplex: at most 375 kbit/s up and 300 down; 15 ms of its 10 to 15.
    "lte-m": Link(375_000 / BITS, 300_000 / BITS, 0.015),
    # Ofcom, Measuring mobile broadband performance in the UK, April 2015: means of 13.6 Mbit/s up, 14.7 down
    # and 53.1 ms.
    "4g": Link(13_600_000 / BITS, 14_700_000 / BITS, 0.0531),
    # IEEE 802.11n, one stream of 20 MHz: 65 Mbit/s; 20 ms, which 90 % of packets stay below (Sui et al.,
    # Characterizing and Improving WiFi Latency in Large-Scale Operational Networks, MobiSys 2016).
    "wifi": Link(65_000_000 / BITS, 65_000_000 / BITS, 0.02),
}
"""Links by name, with published rates: of a standard its greatest, of a measurement its mean."""


def link(text: str) -> Link:
    """A link by its name, or by its numbers: ``UP,DOWN,TRIP`` in bytes a second and seconds.

    Raises:
        ConfigError: it is neither.
    """
    if text in LINKS:
        return LINKS[text]
    parts = text.split(",")
    try:
        up, down, trip = map(float, parts)
    except ValueError:
        raise ConfigError(
            f"there is no link '{text}'{near(text, LINKS)}; there are {', '.join(LINKS)}, or UP,DOWN,TRIP in"
            " bytes a second and seconds, such as 1000,1000,0.1"
        ) from None
    if not (up > 0 and down > 0 and trip >= 0 and all(map(isfinite, (up, down, trip)))):
        raise ConfigError(f"link '{text}': bytes a second are above 0, and seconds at least 0")
    return Link(up, down, trip)


def links(given: Sequence[str], devices: Iterable[PeerName]) -> dict[PeerName, Link]:
    """The link of each device.

    Args:
        given: ``LINK`` for all devices, ``PATTERN=LINK`` for those whose names match; later ones count.
        devices: that ask.

    Raises:
        ConfigError: a link is none, a pattern matches no device, or a device has no link.
    """
    found: dict[PeerName, Link] = {}
    devices = list(devices)
    for text in given:
        pattern, _, name = text.rpartition("=")
        those = [device for device in devices if fnmatchcase(device, pattern or "*")]
        if not those:
            raise ConfigError(f"--link {text}: no device is called '{pattern}'{near(pattern, devices)}")
        found |= dict.fromkeys(those, link(name))
    if lacking := [device for device in devices if device not in found]:
        raise ConfigError(f"'{lacking[0]}' has no link: give one for all first, such as --link wifi")
    return found
