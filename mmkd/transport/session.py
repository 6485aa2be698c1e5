"""Sessions of Zenoh: who may connect, and how."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

from mmkd.transport.access import read, rules
from mmkd.types import ConfigError

FILES = ("authority.pem", "certificate.pem", "key.pem")
"""Files of a process: the network's authority, and its own certificate and private key."""


def opened(
    listen: Sequence[str], connect: Sequence[str], keys: str | None, largest: int, *, open: bool
) -> Any:
    """A session of Zenoh.

    Nobody is looked for by multicast, and shared memory is off, so that what is sent can be counted.

    Args:
        listen: endpoints on which others reach this process.
        connect: endpoints of others.
        keys: folder of certificates; none, if None.
        largest: bytes of the largest message that is read.
        open: allow to listen without certificates where others than this machine can connect.

    Raises:
        ConfigError: Zenoh is not installed, an endpoint is none or in use, certificates are missing, or
            strangers could connect.
    """
    try:
        import zenoh
    except ImportError:
        raise ConfigError("a network needs Zenoh: install mmkd[network]") from None
    check_endpoints(listen, connect, secured=keys is not None, open=open)
    settings: dict[str, Any] = {
        "mode": "peer",
        "id": _id(listen, connect),
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": True,
        "scouting/gossip/autoconnect_strategy": {"peer": {"to_router": "always", "to_peer": "greater-zid"}},
        "listen/endpoints": list(listen),
        "listen/exit_on_failure": True,
        "connect/endpoints": list(connect),
        "connect/timeout_ms": -1,
        "connect/exit_on_failure": False,
        "connect/retry": {"period_init_ms": 100, "period_max_ms": 2000, "period_increase_factor": 2},
        "transport/shared_memory/enabled": False,
        "transport/link/rx/max_message_size": largest + 2**20,
    }
    if keys is not None:
        authority, certificate, private = (str(path) for path in certificates(Path(keys)))
        settings["transport/link/tls"] = {
            "root_ca_certificate": authority,
            "listen_certificate": certificate,
            "listen_private_key": private,
            "connect_certificate": certificate,
            "connect_private_key": private,
            "enable_mtls": True,
            "verify_name_on_connect": True,
        }
        settings["access_control"] = rules(read(Path(keys)))
    configuration = zenoh.Config()
    for name, value in settings.items():
        configuration.insert_json5(name, json.dumps(value))
    try:
        return zenoh.open(configuration)
    except zenoh.ZError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"no session at {', '.join(listen) or 'no endpoint'}: {reason}") from error


def _id(listen: Sequence[str], connect: Sequence[str]) -> str:
    """A new id of Zenoh's, the greater the more others a process connects to; greatest without an endpoint.

    Of two processes that find one another the one with the greater id connects, so that it is the one that
    connects anyhow. Zenoh (1.10) takes a connection in the other direction for a part of one that it does
    not know to be dead yet, after which neither understands the keys of the other. It compares ids from
    their last byte on.
    """
    rank = min(len(connect), 254) if listen else 255
    return f"1{token_hex(12)}{rank:02x}"


def certificates(folder: Path) -> list[Path]:
    """The files of a folder of certificates.

    Raises:
        ConfigError: one is missing.
    """
    paths = [folder / name for name in FILES]
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"there is no {path}; mmkd network keys makes the certificates of a network")
    return paths


def check_endpoints(listen: Sequence[str], connect: Sequence[str], *, secured: bool, open: bool) -> None:
    """Refuse endpoints of which Zenoh knows no way, and those where strangers could connect.

    Raises:
        ConfigError: there is such a one.
    """
    for endpoint in [*listen, *connect]:
        way, _, place = endpoint.partition("/")
        host, _, port = place.rpartition(":")
        if way not in ("tcp", "tls") or not host or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"'{endpoint}' is no endpoint: write tcp/HOST:PORT, or tls/HOST:PORT with keys")
        if (way == "tls") != secured:
            raise ConfigError(
                f"'{endpoint}' and keys do not fit: certificates are for endpoints that begin with tls/, and"
                " those need keys (mmkd network keys)"
            )
    for endpoint in listen:
        host = endpoint.partition("/")[2].rpartition(":")[0]
        if not secured and not open and not _loopback(host):
            raise ConfigError(
                f"whoever reaches {endpoint} could take part: listen on 127.0.0.1, give keys (mmkd network"
                " keys) and listen on tls/, or set open if the network is closed to strangers"
            )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
