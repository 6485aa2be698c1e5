"""Who averages with whom, apart from how."""

from __future__ import annotations

from typing import Any

import pytest

from mmkd.federated import FedAvg
from mmkd.types import ConfigError

MODALITIES = {
    "garage/0": "image",
    "garage/1": "image",
    "gate/0": "image",
    "hall/0": "audio",
    "hall/1": "audio",
    "phone": "text",
}
"""Two fleets that see, one that hears, and one peer alone with its modality and its fleet."""


@pytest.mark.parametrize(
    ("among", "clusters"),
    [
        ("modality", [["garage/0", "garage/1", "gate/0"], ["hall/0", "hall/1"]]),
        ("fleet", [["garage/0", "garage/1"], ["hall/0", "hall/1"]]),
        ("all", [list(MODALITIES)]),
        ({"near": ["gate/0", "garage/1"], "lone": ["phone"]}, [["garage/1", "gate/0"]]),
    ],
)
def test_clusters_keep_canonical_order_and_leave_lone_peers_out(
    among: Any, clusters: list[list[str]]
) -> None:
    assert FedAvg(among=among).clusters(MODALITIES) == clusters


@pytest.mark.parametrize(
    ("among", "reason"),
    [
        ({"near": ["gate/0", "gate/1"]}, "names 'gate/1', which is no peer"),
        ({"near": ["gate/0", "phone"], "far": ["hall/0", "phone"]}, "names 'phone' twice"),
        ({"near": ["gate/0", "gate/0"]}, "names 'gate/0' twice"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(among: dict[str, list[str]], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"aggregation.among {reason}"):
        FedAvg(among=among).clusters(MODALITIES)
