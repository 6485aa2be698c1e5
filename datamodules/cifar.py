"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): small pictures in colour.

The sets are Alex Krizhevsky's, Vinod Nair's and Geoffrey Hinton's; their page asks to cite the report and
names no licence: https://www.cs.toronto.edu/~kriz/cifar.html. Their binary versions are read, for those for
Python are pickled, and whoever reads a pickle runs what it says.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from datamodules.fetching import Archive
from datamodules.published import Published
from mmkd.data.catalogue import PARTS, Catalogue, View
from mmkd.data.catalogued import CatalogueData
from mmkd.types import ConfigError

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
"""Where the publisher gives the sets, and the MD5 sums of the archives."""
SIDE = 32
"""Height and width of a picture in pixels."""
PIXELS = 3 * SIDE * SIDE
"""Bytes of a picture: red, then green, then blue, each row by row."""
Level = Literal["fine", "coarse"]
"""Which classes of CIFAR-100: its hundred, or the twenty that they belong to."""


class _Cifar(CatalogueData):
    """What both sets have in common.

    Args:
        folder: in which the folder of the archive lies.
        download: whether the archive is fetched from the publisher, if that is missing.
        **kwargs: arguments of ``CatalogueData``.
    """

    modalities = ("image",)
    published: ClassVar[Published]
    """Where the set comes from."""
    inside: ClassVar[str]
    """The folder of the archive."""
    parts: ClassVar[dict[str, Sequence[str]]]
    """Files of each part."""
    before: ClassVar[int]
    """Bytes before the pixels of a record, each a label."""

    def __init__(self, *, folder: str, download: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder, self.download = Path(folder), download

    @abstractmethod
    def names(self) -> tuple[str, int]:
        """The file of the names of the classes, and which byte of a record is the class."""

    def catalogue(self) -> Catalogue:
        """All pictures: those for training, then those for tests.

        Raises:
            ConfigError: a file is missing or wrong, or cannot be fetched.
        """
        listed, byte = self.names()
        self.published.get(self.folder, f"{self.inside}/{listed}", download=self.download)
        within = self.folder / self.inside
        classes = self.published.lines(within, listed)
        if len(classes) != self.num_classes:
            raise self.published.wrong(
                within, listed, f"has {len(classes)} names of classes, not {self.num_classes}"
            )
        found = {
            name: torch.cat([self._records(within, file, byte) for file in files])
            for name, files in self.parts.items()
        }
        records = torch.cat(list(found.values()))
        return Catalogue(
            classes=classes,
            y=records[:, byte].long(),
            views={"image": Pixels(records[:, self.before :].view(-1, 3, SIDE, SIDE))},
            shown={"image": torch.ones(len(records), dtype=torch.bool)},
            part=torch.cat([torch.full((len(z),), PARTS.index(name)) for name, z in found.items()]),
        )

    def _records(self, within: Path, file: str, byte: int) -> UInt8[Tensor, "samples bytes"]:
        """The records of a file, all of whose classes there are."""
        width = self.before + PIXELS
        content = np.frombuffer(bytearray(self.published.content(within, file)), np.uint8)
        if len(content) == 0 or len(content) % width:
            raise self.published.wrong(
                within,
                file,
                f"has {len(content)} bytes, and records have {width} each: it is cut off or changed",
            )
        records = content.reshape(-1, width)
        if (records[:, byte] >= self.num_classes).any():
            i = int(records[:, byte].argmax())
            raise self.published.wrong(
                within,
                file,
                f"has a label {records[i, byte]} (record {i}), and classes are 0 to {self.num_classes - 1}",
            )
        return torch.from_numpy(records)


class Cifar10(_Cifar):
    """CIFAR-10: 50,000 pictures for training and 10,000 for tests, a tenth of each of ten classes.

    A sample is an image ``[3, 32, 32]`` float in 0 to 1. Tests are the published ones; validation and public
    samples are drawn from the published training samples.

    Args:
        folder: in which ``cifar-10-batches-bin`` lies, with ``data_batch_1.bin`` to ``data_batch_5.bin``,
            ``test_batch.bin`` and ``batches.meta.txt``, from https://www.cs.toronto.edu/~kriz/cifar.html.
        download: whether the archive is fetched from there (162 MB), if that is missing.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: a file is missing or wrong, when the data are first read.
    """

    num_classes = 10
    published = Published(
        "CIFAR-10",
        PAGE,
        "the folder cifar-10-batches-bin of the binary version",
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            top="cifar-10-batches-bin",
            into="cifar-10-batches-bin",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
        ),
    )
    inside = "cifar-10-batches-bin"
    parts: ClassVar[dict[str, Sequence[str]]] = {
        "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
        "test": ["test_batch.bin"],
    }
    before = 1

    def names(self) -> tuple[str, int]:
        """The names of the ten classes, and the only label."""
        return "batches.meta.txt", 0


class Cifar100(_Cifar):
    """CIFAR-100: 50,000 pictures for training and 10,000 for tests, of a hundred classes in twenty kinds.

    A sample is an image ``[3, 32, 32]`` float in 0 to 1. Tests are the published ones; validation and public
    samples are drawn from the published training samples.

    Args:
        folder: in which ``cifar-100-binary`` lies, with ``train.bin``, ``test.bin``, ``fine_label_names.txt``
            and ``coarse_label_names.txt``, from https://www.cs.toronto.edu/~kriz/cifar.html.
        classes: ``fine`` takes the hundred classes, ``coarse`` the twenty kinds.
        download: whether the archive is fetched from there (162 MB), if that is missing.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: there are no such classes; or, when the data are first read, a file is missing or wrong.
    """

    published = Published(
        "CIFAR-100",
        PAGE,
        "the folder cifar-100-binary of the binary version",
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            top="cifar-100-binary",
            into="cifar-100-binary",
            md5="03b5dce01913d631647c71ecec9e9cb8",
        ),
    )
    inside = "cifar-100-binary"
    parts: ClassVar[dict[str, Sequence[str]]] = {"train": ["train.bin"], "test": ["test.bin"]}
    before = 2

    def __init__(self, *, classes: Level = "fine", **kwargs: Any) -> None:
        if classes not in get_args(Level):
            raise ConfigError(f"classes are {' or '.join(get_args(Level))}, not '{classes}'")
        self.classes = classes
        self.num_classes = 100 if classes == "fine" else 20
        super().__init__(**kwargs)

    def names(self) -> tuple[str, int]:
        """The names of the classes that were chosen, and which of both labels is theirs."""
        return f"{self.classes}_label_names.txt", int(self.classes == "fine")


class Pixels(View):
    """Pictures that are kept as bytes, a quarter of the memory, and read between 0 and 1.

    Args:
        pixels: of all samples.
    """

    def __init__(self, pixels: UInt8[Tensor, "samples 3 height width"]) -> None:
        self._pixels = pixels

    def take(self, rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch 3 height width"]:
        """The pictures of those samples."""
        return self._pixels.index_select(0, rows).float() / 255
