"""Who may do what on a network with certificates: rules of Zenoh's access control, from who holds whom."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkd.transport.letters import ROOT, TO
from mmkd.types import ConfigError

FILE = "access.json"
"""File beside a certificate that says whom each process of the network holds."""
TELLS = ("who", "what", "again", "alive", "left", "ask")
"""What a process tells of itself."""


def read(folder: Path) -> dict[str, list[str]]:
    """The participants of each process.

    Raises:
        ConfigError: the file is missing or broken.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text())
        return {str(process): [str(name) for name in names] for process, names in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise ConfigError(
            f"{path} is missing or broken; mmkd network keys writes it with the certificates"
        ) from None


def rules(access: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Access control by which the certificate of a process binds what it may say and hear.

    It sends letters of its own participants and of hubs that speak for a cluster of its peers, hears those
    that are addressed to it, and tells what only it can know. All else is dropped.

    Args:
        access: the participants of each process, by the name in its certificate.
    """
    found: list[dict[str, Any]] = []
    policies = []
    for process, names in access.items():
        sent = [f"{ROOT}/*/*/{sender}/**" for name in names for sender in (name, f"*/{name}")]
        allowed = {
            "send": (["put"], sent),
            "hear": (["declare_subscriber"], [f"{ROOT}/*/*/**{TO}{process}"]),
            "tell": (
                ["declare_queryable", "reply", "liveliness_token"],
                [f"{ROOT}/*/{what}/{process}/**" for what in TELLS],
            ),
        }
        for what, (messages, keys) in allowed.items():
            found.append(_rule(f"{what} {process}", "ingress", messages, keys))
        own = [f"{what} {process}" for what in allowed]
        policies.append({"rules": [*own, "ask", "out"], "subjects": [process]})
    asks = ["query", "declare_liveliness_subscriber", "liveliness_query"]
    found.append(_rule("ask", "ingress", asks, [f"{ROOT}/*/{what}/**" for what in TELLS]))
    everything = ["put", "declare_subscriber", "declare_queryable", "reply", "liveliness_token", *asks]
    found.append(_rule("out", "egress", everything, [f"{ROOT}/**"]))
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": found,
        "subjects": [{"id": process, "cert_common_names": [process]} for process in access],
        "policies": policies,
    }


def _rule(name: str, flow: str, messages: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    return {
        "id": name,
        "permission": "allow",
        "flows": [flow],
        "messages": [*messages],
        "key_exprs": [*keys],
    }
