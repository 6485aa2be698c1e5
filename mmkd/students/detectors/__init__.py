"""Detectors by name. Their libraries take seconds to import, so each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

ARCHITECTURES = {
    "fcos": ("one_stage", "Fcos"),
    "retinanet": ("one_stage", "Retina"),
    "ssdlite": ("ssdlite", "SsdLite"),
    "faster_rcnn": ("faster_rcnn", "FasterRcnn"),
    "rt_detr": ("transformers", "RTDetr"),
    "d_fine": ("transformers", "DFine"),
    "yolos": ("transformers", "Yolos"),
    "torchvision": ("pretrained", "Torchvision"),
}
"""The module and the class of each detector, by the name that a configuration gives it."""


def architecture(name: str) -> Any:
    """The class of that name.

    Raises:
        KeyError: there is none.
    """
    module, cls = ARCHITECTURES[name]
    return getattr(import_module(f"mmkd.students.detectors.{module}"), cls)
