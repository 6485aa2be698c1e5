"""Stores give what was put, or nothing: whatever happens to the file, a miss is the worst."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmkd.caching import KnowledgeCache
from mmkd.caching.disk import Disk
from mmkd.caching.store import Memory, Store
from mmkd.errors import ConfigError
from mmkd.functional.random import generator

STORES: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: Memory(),
    "disk": lambda folder: Disk(folder / "cache", "run"),
}
IDS = torch.tensor([4, 0, 9])


def statements(seed: int, speakers: int = 2, samples: int = 3) -> dict[str, Tensor]:
    """Of every type that a wire sends, with and without a width."""
    drawn = torch.randint(0, 255, (speakers, samples, 5), generator=generator(seed, "statements"))
    return {
        "main": drawn.half() / 7,
        "main.classes": drawn.to(torch.uint8),
        "embedding8": drawn[..., None].expand(-1, -1, -1, 2).float().log1p(),
        "main.weight": drawn[..., 0].int(),
    }


def equal(one: dict[str, Tensor], two: dict[str, Tensor], where: Tensor) -> bool:
    return all(torch.equal(one[name][where], two[name][where]) for name in one)


@pytest.mark.parametrize("kind", list(STORES))
def test_what_was_put_is_found_and_nothing_else(tmp_path: Path, kind: str) -> None:
    store = STORES[kind](tmp_path)
    first, second = statements(0), statements(1)
    all_ = torch.ones(2, 3, dtype=torch.bool)
    marks = store.put(["a", "b"], IDS, first, all_)
    assert marks is not None
    assert (marks >= 0).all()
    wanted = torch.tensor([[True, False, True], [True, True, False]])
    found, there = store.get(["a", "b"], IDS, first, marks.masked_fill(~wanted, -1))
    assert torch.equal(there, wanted)
    assert equal(found, first, wanted)
    assert all(not bool(tensor[~wanted].any()) for tensor in found.values())
    # In another order, and one of them anew.
    said = torch.tensor([[False, True, False], [False, False, False]])
    again = store.put(["a", "b"], IDS, second, said)
    assert again is not None
    both = torch.where(said, again, marks).flip(0).flip(1)
    expected = {n: torch.where(said.view(2, 3, *[1] * (t.dim() - 2)), second[n], t) for n, t in first.items()}
    found, there = store.get(["b", "a"], IDS.flip(0), first, both)
    assert there.all()
    assert equal(found, {n: t.flip(0).flip(1) for n, t in expected.items()}, there)
    # Of other speakers, samples and forms there is nothing.
    assert not store.get(["c"], IDS, {n: t[:1] for n, t in first.items()}, -torch.ones(1, 3).long())[1].any()
    wide = {"main": torch.zeros(2, 3, 6, dtype=torch.half)}
    assert not store.get(["a", "b"], IDS, wide, marks)[1].any()
    # Memory goes into a checkpoint, and a disk stays.
    other = STORES[kind](tmp_path)
    other.load_state_dict(store.state_dict())
    found, there = other.get(["a", "b"], IDS, first, torch.where(said, again, marks))
    assert there.all()
    assert equal(found, expected, there)


def test_what_another_has_written_over_is_a_miss(tmp_path: Path) -> None:
    """Two processes of a run share entries; where they differ, each finds its own or nothing."""
    one, two, other = (Disk(tmp_path, run) for run in ("run", "run", "another"))
    first, second = statements(0), statements(1)
    all_ = torch.ones(2, 3, dtype=torch.bool)
    marks = one.put(["a", "b"], IDS, first, all_)
    assert marks is not None
    assert other.put(["a", "b"], IDS, second, all_) is not None
    assert two.get(["a", "b"], IDS, first, marks)[1].all()
    assert two.put(["a", "b"], IDS, second, all_ & (IDS == 0)) is not None
    assert torch.equal(one.get(["a", "b"], IDS, first, marks)[1], (IDS != 0).expand(2, 3))
    one.drop(["a", "b"], torch.zeros(2, 10, dtype=torch.bool).index_fill(1, torch.tensor([4]), value=True))
    assert torch.equal(one.get(["a", "b"], IDS, first, marks)[1], (IDS == 9).expand(2, 3))


# --- what happens to files -------------------------------------------------------------------------

MANY = torch.arange(60)


def filled(folder: Path, seed: int = 0) -> Tensor:
    """A file of some pages; returns the marks of what is in it."""
    marks = Disk(folder, "run").put(
        ["a", "b"], MANY, statements(seed, 2, 60), torch.ones(2, 60, dtype=torch.bool)
    )
    assert marks is not None
    return marks


def assert_never_wrong(folder: Path, marks: Tensor) -> int:
    """Whatever is found is what was put; returns how much that is. What is put now is found, or is a miss."""
    store = Disk(folder, "run")
    found, there = store.get(["a", "b"], MANY, statements(0, 2, 60), marks)
    assert equal(found, statements(0, 2, 60), there)
    again = filled(folder, 1)
    found, now = store.get(["a", "b"], MANY, statements(1, 2, 60), again)
    assert equal(found, statements(1, 2, 60), now)
    assert now.sum() > 100
    return int(there.sum())


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_is_begun_anew(
    tmp_path: Path, part: float, caplog: pytest.LogCaptureFixture
) -> None:
    marks = filled(tmp_path)
    size = (tmp_path / "data.mdb").stat().st_size
    os.truncate(tmp_path / "data.mdb", int(part * size))
    assert assert_never_wrong(tmp_path, marks) == 0
    assert "is damaged" in caplog.text


def test_a_file_that_is_cut_while_it_is_used_is_a_miss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that read beyond its end would die."""
    marks, store = filled(tmp_path), Disk(tmp_path, "run")
    os.truncate(tmp_path / "data.mdb", 8192)
    for _ in range(2):
        assert not store.get(["a", "b"], MANY, statements(0, 2, 60), marks)[1].any()
    assert caplog.text.count("keeps nothing") == 1
    assert Disk(tmp_path, "run").put(["a"], MANY, statements(0, 1, 60), MANY[None] >= 0) is not None


def damage(folder: Path, chance: random.Random) -> int:
    """One bit of a file is another; returns how much of it is found."""
    marks = filled(folder)
    path = folder / "data.mdb"
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))
    return assert_never_wrong(folder, marks)


def test_a_bit_that_flips_is_a_miss(tmp_path: Path) -> None:
    chance = random.Random(0)
    found = [damage(tmp_path / str(i), chance) for i in range(6)]
    assert max(found) >= 119


@pytest.mark.long
def test_many_bits_that_flip_are_misses(tmp_path: Path) -> None:
    chance = random.Random(1)
    found = [damage(tmp_path / str(i), chance) for i in range(300)]
    assert 0 < min(f for f in found if f) < 120


def write_for_ever(folder: Path) -> None:
    store = Disk(folder, "run")
    for seed in range(10**6):
        store.put(["a", "b"], MANY, statements(seed % 2, 2, 60), torch.ones(2, 60, dtype=torch.bool))


def test_a_process_that_is_killed_as_it_writes_leaves_all_or_nothing(tmp_path: Path) -> None:
    """After each kill all entries are those of one of the two things that it wrote in turn."""
    marks = [filled(tmp_path / "other", seed) for seed in (0, 1)]
    seen = set()
    for turn in range(6):
        child = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(tmp_path / "it",))
        child.start()
        time.sleep(0.1 + 0.013 * turn)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        store = Disk(tmp_path / "it", "run")
        there = [store.get(["a", "b"], MANY, statements(s, 2, 60), marks[s])[1] for s in (0, 1)]
        whole = [bool(t.all()) for t in there]
        assert (
            sum(whole) == 1 or not (tmp_path / "it" / "data.mdb").exists() or not any(t.any() for t in there)
        )
        seen.add(tuple(whole))
        child = multiprocessing.get_context("fork").Process(target=filled, args=(tmp_path / "it",))
        child.start()  # another process is not kept waiting by the dead one's lock
        child.join(20)
        assert child.exitcode == 0
    assert any(any(whole) for whole in seen)


def on_a_full_disk(folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
    store, many = Disk(folder, "run"), torch.arange(2000)
    said = torch.ones(2, 2000, dtype=torch.bool)
    assert store.put(["a", "b"], many, statements(0, 2, 2000), said) is None
    assert not store.get(["a", "b"], many, statements(0, 2, 2000), torch.zeros(2, 2000).long())[1].any()


def test_a_full_disk_keeps_nothing(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=on_a_full_disk, args=(tmp_path,))
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot hold a cache"):
        KnowledgeCache(stale=1, folder=tmp_path / "file" / "cache").opened("run")
