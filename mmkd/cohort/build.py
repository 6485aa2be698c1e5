"""The groups of a cohort, built from the fleets of a configuration."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from mmkd.cohort.fleet import Fleet, Member, canonical, check_student
from mmkd.cohort.groups.base import Group
from mmkd.cohort.groups.sequential import SequentialGroup
from mmkd.cohort.groups.stacked import StackedGroup
from mmkd.cohort.hooks import warn_of_hooks
from mmkd.functional.random import key
from mmkd.names import near
from mmkd.students.base import Student
from mmkd.types import ConfigError, Modality, PeerName

Vectorize = Literal["auto", "always", "never"]
"""How students of a fleet train: side by side where that is faster, always, or never."""


class Built(NamedTuple):
    """Groups and their peers, one group for each fleet that has peers in this process."""

    everybody: list[Member]  # in canonical order
    members: list[Member]  # those of this process, in the same order
    fleets: list[str]  # of each group
    groups: list[Group]
    scales: list[list[float]]  # of the learning rates of each group's peers
    modalities: dict[PeerName, Modality]  # of everybody
    starts: dict[PeerName, int]  # keys of the random streams of first weights

    @property
    def roster(self) -> tuple[dict[PeerName, Modality], dict[PeerName, str]]:
        """Modality and id of every peer, those in other processes among them."""
        everybody = self.everybody
        return {m.name: self.modalities[m.name] for m in everybody}, {m.name: m.id for m in everybody}


def build_groups(
    fleets: Mapping[str, Fleet],
    num_classes: int,
    *,
    shared: bool,
    vectorize: Vectorize,
    park: str | Path | None,
    seed: int,
    own: Collection[PeerName] | None = None,
) -> Built:
    """Build the students of every fleet, and the groups that hold them.

    Args:
        fleets: by name.
        num_classes: of the data.
        shared: whether the peers of a fleet begin with one draw of weights, and not with one each.
        vectorize: whether they train vectorised; with ``auto`` fleets of more than one peer do, until the
            other way is found to be faster.
        park: folder for the tensors of peers that sit out; they stay in memory, if None.
        seed: keys the draws.
        own: peers that are built; of a fleet of others one student, which says what they read. All, if None.

    Raises:
        ConfigError: a fleet or a student has no meaning, ``park`` is no folder, students predict different
            kinds of things, or ``own`` names nobody, or somebody who is in no fleet.
    """
    folder = None if park is None else Path(park)
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"model.park is '{park}', which is no folder; make it first")
    everybody = canonical(fleets)
    rows = everybody if own is None else _own(everybody, own)
    built = Built(everybody, rows, list(dict.fromkeys(row.fleet for row in rows)), [], [], {}, {})
    gives: set[str] = set()
    for fleet in dict.fromkeys(row.fleet for row in everybody):
        whole = [row for row in everybody if row.fleet == fleet]
        members = [row for row in rows if row.fleet == fleet]
        draws = ["shared" if shared else row.id for row in members]
        together = len(members) > 1 if vectorize == "auto" else vectorize == "always"
        # Rows that begin with equal weights are made from one student.
        draws = list(dict.fromkeys(draws)) if together else draws
        students = _students(fleets[fleet], members or whole[:1], draws or ["shared"], num_classes, seed)
        first = next(students)
        gives.add(first.gives.__name__)
        built.modalities.update(dict.fromkeys((row.name for row in whole), "+".join(first.modalities)))
        if not members:
            continue
        if folder is None:
            _check_memory(first, fleet, len(members))
        warn_of_hooks(first, fleet)
        kind = type(first).__qualname__
        for row in members:
            built.starts[row.name] = key(seed, "init", "shared" if shared else row.id, kind)
        everyone = itertools.chain([first], students)
        names, ids = [row.name for row in members], [row.id for row in members]
        if together:
            built.groups.append(StackedGroup(names, ids, everyone, folder))
        else:
            built.groups.append(SequentialGroup(names, ids, everyone))
        built.scales.append([row.scale for row in members])
    if len(gives) > 1:
        raise ConfigError(
            f"students that give {' and '.join(sorted(gives))} share no cohort; train them in two"
        )
    return built


def _check_memory(student: Student, fleet: str, count: int) -> None:
    """Refuse a fleet whose weights alone are more than this machine holds: it would take minutes to fail."""
    tensors = [*student.parameters(), *student.buffers()]
    needed = count * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ConfigError(
            f"the weights of fleet '{fleet}' of {count:,} peers take {needed / 2**30:.0f} GiB, and this"
            f" machine has {there / 2**30:.0f}: lower its count, or set model.park"
        )


def _own(everybody: Sequence[Member], own: Collection[PeerName]) -> list[Member]:
    names = [row.name for row in everybody]
    for name in own:
        if name not in names:
            raise ConfigError(f"model.own names '{name}', which is no peer{near(name, names)}")
    if not own:
        raise ConfigError("model.own names nobody; a process holds at least one peer")
    return [row for row in everybody if row.name in own]


def _students(
    fleet: Fleet, members: Sequence[Member], draws: Sequence[str], num_classes: int, seed: int
) -> Iterator[Student]:
    """A student for each draw, made when it is asked for."""
    for member, draw in zip(members, draws, strict=False):
        student = fleet.build(num_classes, seed, draw)
        check_student(student, member.name, num_classes)
        yield student
