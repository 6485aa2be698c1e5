"""Detectors by name, and settings that no detector has."""

from __future__ import annotations

import pytest

from mmkd.students.detectors.build import build
from mmkd.types import ConfigError


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("yolo", {}, "there is no detector 'yolo'; there are fcos, torchvision"),
        ("fcos", {"chanels": 8}, "detector 'fcos' has no setting 'chanels'; it takes backbone, channels, convs"),
        ("torchvision", {"backbone": "resnet18"}, "detector 'torchvision' has no setting 'backbone'; it takes name"),
        ("torchvision", {"name": "yolo"}, "torchvision has no detector 'yolo'; it has .*ssdlite320_mobilenet_v3"),
        ("fcos", {"backbone": "resnet0"}, "timm has no model 'resnet0'"),
        ("fcos", {"backbone": "test_resnet", "strides": [8, 64]}, "strides 2, 4, 8, 16, 32, none of 64; change the"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused_in_one_line(name: str, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        build(name, 2, settings)
    assert "\n" not in str(error.value)


def test_lists_stand_for_tuples() -> None:
    detector = build("fcos", 2, {"backbone": "test_resnet", "channels": 8, "convs": 1, "strides": [8, 16]})
    assert detector.model.anchor_generator.strides == (8, 16)
