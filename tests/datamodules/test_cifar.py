"""CIFAR's binary versions: what records hold, their parts, and files that are wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.cifar import Cifar10, Cifar100
from datamodules.fetching import Archive
from mmkd.cohort import Fleet
from mmkd.data.partition import IID
from mmkd.students import VisionStudent
from mmkd.types import ConfigError
from tests.datamodules.hybrids import check_a_round
from tests.datamodules.publishers import host, inside, tar, write_cifar10, write_cifar100

PEERS = {f"cameras/{i}": "image" for i in range(3)}


def ten(folder: Path, **kwargs: Any) -> Cifar10:
    return Cifar10(**{"folder": str(folder), "peers": PEERS, "batch_size": 4, "partition": IID(), **kwargs})


def hundred(folder: Path, **kwargs: Any) -> Cifar100:
    return Cifar100(**{"folder": str(folder), "peers": PEERS, "batch_size": 4, "partition": IID(), **kwargs})


def test_samples_are_the_records_and_tests_the_published_ones(tmp_path: Path) -> None:
    records = write_cifar10(tmp_path, each=20)
    data = ten(tmp_path, val=0.1, public=0.2)
    sizes = {part: len(data.rows(part)) for part in ("train", "val", "test", "public")}
    assert sizes == {"train": 72, "val": 10, "test": 20, "public": 18}  # a fifth of the 90 that are left
    assert data.rows("test").tolist() == list(range(100, 120))
    assert data.samples.classes[:3] == ["airplane", "automobile", "bird"]
    owned = []
    for peer in PEERS:
        held: Any = data.private(peer, "train")
        x, y, rows = held.take(torch.arange(len(held)))
        # Red, green and blue lie one behind the other, each row by row.
        wanted = records[rows, 1:].reshape(-1, 3, 32, 32) / np.float32(255)
        torch.testing.assert_close(x, torch.from_numpy(wanted), rtol=0, atol=1e-7)
        assert y.tolist() == records[rows, 0].tolist()
        owned += rows.tolist()
    assert sorted(owned) == data.rows("train").tolist()


@pytest.mark.parametrize(("classes", "count", "byte"), [("fine", 100, 1), ("coarse", 20, 0)])
def test_of_a_hundred_classes_or_of_twenty(classes: Any, count: int, byte: int, tmp_path: Path) -> None:
    records = write_cifar100(tmp_path)
    data = hundred(tmp_path, classes=classes)
    assert data.num_classes == len(data.samples.classes) == count
    assert data.samples.classes[-1] == f"{classes} {count - 1}"
    assert data.samples.y.tolist() == records[:, byte].tolist()
    x: Any = data.samples.views["image"].take(torch.tensor([7]))
    torch.testing.assert_close(
        x.flatten(), torch.from_numpy(records[7, 2:] / np.float32(255)), rtol=0, atol=1e-7
    )
    with pytest.raises(ConfigError, match="classes are fine or coarse, not 'all'"):
        hundred(tmp_path, classes="all")


def test_peers_learn_a_round_of_a_hybrid(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    fleets = {
        "cameras": Fleet(lambda n: VisionStudent(n, width=4, in_chans=3), 2),
        "phones": Fleet(lambda n: VisionStudent(n, width=4, in_chans=3), 1),
    }
    check_a_round(ten(tmp_path, peers=None), fleets)


def set_byte(at: int, value: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + bytes([value]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("data_batch_3.bin", lambda b: b[:-1], f"has {20 * 3073 - 1} bytes, and records have 3073"),
        ("data_batch_3.bin", lambda b: b"", "has 0 bytes"),
        ("test_batch.bin", set_byte(2 * 3073, 10), r"a label 10 \(record 2\), and classes are 0 to 9"),
        ("batches.meta.txt", lambda b: b[:20], "has 2 names of classes, not 10"),
        ("batches.meta.txt", lambda b: b"", "is empty"),
        ("batches.meta.txt", lambda b: b"\xff", "is not written in UTF-8"),
    ],
)
def test_wrong_files_are_named(
    name: str, change: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    write_cifar10(tmp_path, each=20)
    path = tmp_path / "cifar-10-batches-bin" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConfigError, match=said) as error:
        _ = ten(tmp_path).samples
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_fine_label_is_no_coarse_one(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    path = tmp_path / "cifar-100-binary" / "test.bin"
    path.write_bytes(set_byte(0, 20)(path.read_bytes()))
    with pytest.raises(ConfigError, match=r"a label 20 \(record 0\), and classes are 0 to 19"):
        _ = hundred(tmp_path, classes="coarse").samples
    assert len(hundred(tmp_path).samples.y) == 300  # which reads the other byte


def test_a_picture_that_changes_after_it_was_read_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    _ = ten(tmp_path).samples
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    content = path.read_bytes()
    path.write_bytes(set_byte(100, content[100] ^ 1)(content))
    with pytest.raises(ConfigError, match=r"data_batch_2\.bin is another file than before"):
        _ = ten(tmp_path).samples


@pytest.mark.parametrize("name", ["data_batch_5.bin", "batches.meta.txt"])
def test_a_missing_file_says_where_it_comes_from(name: str, tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name} is missing.*https://www.cs.toronto.edu/~kriz/cifar.html"):
        _ = ten(tmp_path).samples


def test_it_is_fetched_if_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    write_cifar100(tmp_path / "there")
    content = tar(inside(tmp_path / "there"))
    with host() as publisher:
        publisher.files["cifar.tar.gz"] = content
        sum_ = hashlib.md5(content, usedforsecurity=False).hexdigest()
        here = Archive(f"{publisher.url}/cifar.tar.gz", "cifar-100-binary", "cifar-100-binary", sum_)
        monkeypatch.setattr(Cifar100, "published", Cifar100.published._replace(archive=here))
        with pytest.raises(ConfigError, match="or set download: true"):
            _ = hundred(tmp_path / "new").samples
        assert publisher.asked == []
        assert len(hundred(tmp_path / "new", download=True).samples.y) == 300
    assert len(hundred(tmp_path / "new", download=True).samples.y) == 300  # and nobody is asked again
