"""A detector from the name of its architecture and its settings."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmkd.students.detectors.base import Detector
from mmkd.types import ConfigError


def build(name: str, num_classes: int, settings: Mapping[str, Any]) -> Detector:
    """The detector called ``name``, with random weights.

    Args:
        name: ``fcos`` or ``torchvision``.
        num_classes: number of classes that the network tells apart.
        settings: other arguments of the detector's class; lists stand for tuples, as in YAML.

    Raises:
        ConfigError: there is no such detector, or it has no such setting.
    """
    # torchvision's detection models take seconds to import, so a detector is imported when it is asked for.
    if name == "fcos":
        from mmkd.students.detectors.fcos import Fcos

        make: type[Detector] = Fcos
    elif name == "torchvision":
        from mmkd.students.detectors.pretrained import Torchvision

        make = Torchvision
    else:
        raise ConfigError(f"there is no detector '{name}'; there are fcos, torchvision")
    takes = list(inspect.signature(make).parameters)[1:]
    if odd := sorted(set(settings) - set(takes)):
        raise ConfigError(f"detector '{name}' has no setting '{odd[0]}'; it takes {', '.join(takes)}")
    return make(num_classes, **{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
