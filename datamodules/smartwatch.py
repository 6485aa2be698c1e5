"""Exercises of the shoulder as a smartwatch feels them (Burns et al. 2018, arXiv 1802.01489).

The recordings come with seglearn, which is under the BSD licence and names none of their own::

    pip install 'mmkd[sets]'
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from mmkd.bounds import Size, bounded
from mmkd.data.catalogue import PARTS, Catalogue, Held
from mmkd.data.catalogued import CatalogueData
from mmkd.functional.random import generator
from mmkd.types import ConfigError

CLASSES = (
    "pendulum",
    "abduction",
    "forward elevation",
    "internal rotation",
    "external rotation",
    "trapezius extension",
    "upright row",
)
"""Names of the exercises, by their numbers."""
CHANNELS = 6
"""Acceleration along three axes in units of gravity, and rotation about them in radians per second."""
RATE = 50
"""Moments per second at which all channels are measured."""
Whole = Literal["arm", "person"]
"""What belongs to one peer as a whole: all that an arm has done, or all that a person has."""


@bounded
class SmartWatch(CatalogueData):
    """140 recordings of seven exercises, each by ten people with either arm, cut into windows.

    A sample is a window of one recording, "motion" ``[6, window]`` float: acceleration along three axes in
    units of gravity and rotation about them in radians per second, 50 times a second. Each person has done
    every exercise once with either arm, so there are 20 recordings of each class; they last 19 to 52 s.
    With the windows that are cut if nothing is said there are 2,229 samples: 234, 369, 376, 343, 346, 274 and
    287 of the exercises in the order of ``CLASSES``.

    Parts are whole persons: nobody has windows in two of train, val, test and public. Peers are arms, as the
    watch of each would be: everything that an arm has done goes to one peer.

    Args:
        window: moments in a window.
        step: moments from the beginning of one window to that of the next; half a window, if left out. A rest
            that fills no window is left out.
        whole: what is dealt to peers as a whole, ``arm`` or ``person``, if no partition is given.
        val: share of people whose windows are for validation.
        test: share of people whose windows are for tests.
        public: share of people whose windows are public.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: an argument is out of range; or, when the data are first read, seglearn is not installed,
            a window is longer than a recording, or a share is less than a person.
    """

    num_classes = len(CLASSES)
    modalities = ("motion",)

    def __init__(
        self, *, window: Size = 200, step: Size | None = None, whole: Whole = "arm", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if whole not in get_args(Whole):
            raise ConfigError(f"whole is {' or '.join(get_args(Whole))}, not '{whole}'")
        self.window, self.step, self.whole = window, step or max(1, window // 2), whole

    def catalogue(self) -> Catalogue:
        """All windows, in the order of the recordings, and the part of each.

        Raises:
            ConfigError: seglearn is not installed or gives something else, or a part has no person.
        """
        found = _recordings()
        cut = [_windows(series, self.window, self.step) for series in found.series]
        if not all(map(len, cut)):
            shortest = min(map(len, found.series))
            raise ConfigError(
                f"a window of {self.window} moments is longer than a recording of {shortest}; lower window"
            )
        size = torch.tensor([len(windows) for windows in cut])
        y, person, side = (
            torch.as_tensor(values).repeat_interleave(size) for values in (found.y, found.person, found.side)
        )
        return Catalogue(
            classes=CLASSES,
            y=y,
            views={"motion": Held(torch.cat(cut))},
            shown={"motion": torch.ones(len(y), dtype=torch.bool)},
            part=self._parts(person),
            group=person if self.whole == "person" else 2 * person + side,
        )

    def _parts(self, person: Int[Tensor, " samples"]) -> Int[Tensor, " samples"]:
        """The part of each window, which is that of its person.

        ``CatalogueData`` would draw public windows one by one, and those of a recording overlap.
        """
        part = torch.full_like(person, PARTS.index("train"))
        there = person.unique()
        left = there[torch.randperm(len(there), generator=generator(self.seed, "persons"))]
        for name, share in self.shares.items():
            size = round(share * len(there))
            if share > 0 and size == 0:
                raise ConfigError(
                    f"{name} of {share:g} is no person of {len(there)}: raise it, or set it to 0"
                )
            part[torch.isin(person, left[:size])] = PARTS.index(name)
            left = left[size:]
        return part


class _Recordings(NamedTuple):
    """Recordings, the exercise of each, and whose they are."""

    series: list[Float[ndarray, "time channels"]]
    y: Int[ndarray, " recordings"]
    person: Int[ndarray, " recordings"]  # from 0 on
    side: Int[ndarray, " recordings"]  # 0 is the left arm, 1 the right one


def _recordings() -> _Recordings:
    """What seglearn ships, if it is that."""
    try:
        from seglearn.datasets import load_watch
    except ImportError as error:
        raise ConfigError(
            "SmartWatch needs seglearn, which is not installed: pip install 'mmkd[sets]'"
        ) from error
    try:
        found: Mapping[str, Any] = load_watch()
        names = [str(name) for name in found["y_labels"]]
        series = [np.asarray(one, dtype=np.float32) for one in found["X"]]
        y, person, side = (np.asarray(found[key]).astype(np.int64) for key in ("y", "subject", "side"))
    except (OSError, EOFError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as error:
        raise _broken(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    if names != ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]:
        raise _broken(f"its exercises are {', '.join(names)}")
    if not len(series) == len(y) == len(person) == len(side) > 0:
        raise _broken(
            f"{len(series)} recordings have {len(y)} labels, {len(person)} people, {len(side)} arms"
        )
    for i, one in enumerate(series):
        if one.ndim != 2 or one.shape[1] != CHANNELS or not np.isfinite(one).all():
            raise _broken(f"recording {i} is not {CHANNELS} columns of finite numbers")
        if not 0 <= y[i] < len(CLASSES) or side[i] not in (0, 1):
            raise _broken(f"recording {i} is of exercise {y[i]} with arm {side[i]}")
    return _Recordings(series, y, np.unique(person, return_inverse=True)[1], side)


def _broken(what: str) -> ConfigError:
    return ConfigError(
        f"seglearn's watch_dataset.npy is not what it was ({what}): pip install --force-reinstall seglearn"
    )


def _windows(series: ndarray, window: int, step: int) -> Float[Tensor, "windows channels time"]:
    """The windows of a recording, none if it is shorter than one."""
    moving = torch.from_numpy(series).T
    if moving.shape[1] < window:
        return torch.empty(0, CHANNELS, window)
    return moving.unfold(1, window, step).transpose(0, 1).contiguous()
