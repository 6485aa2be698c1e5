"""Certificates of a network of one's own: a private authority, and for each process what it signs."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mmkd.transport.access import FILE
from mmkd.transport.session import FILES
from mmkd.types import ConfigError, PeerName

AUTHORITY = "authority-key.pem"
"""The private key of the authority, which stays where the keys are made."""
LEEWAY = timedelta(days=1)
"""How much earlier it begins, for clocks that are behind."""


def make(
    folder: Path, processes: Sequence[Sequence[PeerName]], hub: str | None, hosts: Sequence[str], days: int
) -> list[Path]:
    """Write a folder of keys for each process, which bind it to its peers.

    Args:
        folder: of the network. The authority's own key is in it, and in no process's folder.
        processes: peers of each.
        hub: name of a hub, which is in the first process, if there is one.
        hosts: names or addresses at which processes are reached.
        days: that certificates last.

    Returns:
        the folder of each process.

    Raises:
        ConfigError: the package cryptography is missing, the folder is not empty, or somebody is not named.
    """
    try:
        from cryptography import x509
    except ImportError:
        raise ConfigError("keys need the package cryptography: install mmkd[network]") from None
    if not hosts or not all(processes):
        raise ConfigError("name the peers of each process, and hosts at which they are reached")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"{folder} is not empty; keys of a network are made together, in a folder of their own"
        )
    access = {peers[0]: [*peers] for peers in processes}
    if hub is not None:
        access[processes[0][0]].append(hub)
    made = [folder / process.replace("/", "-") for process in access]
    authority, key = _authority(folder, days)
    for name, path in zip(access, made, strict=True):
        own = _key()
        certificate = (
            _builder(name, authority.subject, own, days)
            .add_extension(x509.SubjectAlternativeName([_place(host) for host in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_OID().SERVER_AUTH, _OID().CLIENT_AUTH]), critical=False)
            .sign(key, _hash())
        )
        path.mkdir(parents=True)
        contents = (_pem(authority), _pem(certificate), _secret(own))
        for file, content in zip(FILES, contents, strict=True):
            _write(path / file, content)
        _write(path / FILE, json.dumps(access, indent=1).encode())
    return made


def _authority(folder: Path, days: int) -> tuple[Any, Any]:
    """Certificate and key of the authority."""
    from cryptography import x509

    folder.mkdir(parents=True, exist_ok=True)
    key = _key()
    name = _name(f"mmkd {folder.name}")
    certificate = (
        _builder(name, name, key, 10 * days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, _hash())
    )
    _write(folder / AUTHORITY, _secret(key))
    _write(folder / FILES[0], _pem(certificate))
    return certificate, key


def _builder(name: Any, issuer: Any, key: Any, days: int) -> Any:
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name) if isinstance(name, str) else name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LEEWAY)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(text: str) -> Any:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _place(host: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _hash() -> Any:
    from cryptography.hazmat.primitives.hashes import SHA256

    return SHA256()


def _OID() -> Any:  # noqa: N802  # as its module is called
    from cryptography.x509.oid import ExtendedKeyUsageOID

    return ExtendedKeyUsageOID


def _pem(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    pem: bytes = certificate.public_bytes(Encoding.PEM)
    return pem


def _secret(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def _write(path: Path, content: bytes) -> None:
    """Write a file that nobody else on this machine can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
