"""Who averages with whom, apart from how."""

from __future__ import annotations

from typing import Any

import pytest
import torch

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


def test_a_peer_takes_the_weighted_mean_of_those_it_hears() -> None:
    # 0 - 1 - 2 with p = 1, 2, 5: whom k hears includes k.
    line = torch.tensor([[True, True, False], [True, True, True], [False, True, True]])
    x = torch.tensor([[8.0], [-4.0], [40.0]], dtype=torch.float64)
    p = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    mixed = FedAvg().combine({"w": x}, line, p)["w"]
    expected = torch.tensor(
        [[0.0], [25.0], [192 / 7]], dtype=torch.float64
    )  # (8-8)/3, (8-8+200)/8, (-8+200)/7
    torch.testing.assert_close(mixed, expected, rtol=1e-14, atol=0)
