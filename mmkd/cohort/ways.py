"""How each fleet of a cohort trains: side by side, or one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lightning.pytorch import Trainer
from torch import nn

from mmkd.cohort.groups.base import Group
from mmkd.cohort.groups.choice import ROWS, Choice, choose
from mmkd.cohort.groups.sequential import SequentialGroup
from mmkd.cohort.groups.stacked import StackedGroup
from mmkd.data.base import PeerData
from mmkd.data.blocks import PrivateBatches, side_by_side
from mmkd.types import Batches


class Ways:
    """Ways of the fleets that have peers in this process.

    Args:
        fleets: of each group.
        groups: whose entries are replaced where a fleet is to train one after the other.
        modules: the same groups, as a module has them.
        auto: whether each fleet of several peers is looked at before training.
    """

    def __init__(self, fleets: list[str], groups: list[Group], modules: nn.ModuleList, *, auto: bool) -> None:
        self._fleets, self._groups, self._modules, self._auto = fleets, groups, modules, auto
        self.choices: dict[str, Choice] = {}
        """What was chosen for each fleet that was looked at, and why."""

    def choose(
        self, data: PeerData, to_device: Callable[[list[Batches]], list[Batches]], trainer: Trainer
    ) -> None:
        """Look at the first batches of some of each fleet's peers, unless that was done or is not wanted."""
        if not self._auto:
            return
        self.choices = {}
        for fleet, group in zip(self._fleets, self._groups, strict=True):
            if len(group.names) > 1:
                first = {name: PrivateBatches(data, name).read(range(1)) for name in group.names[:ROWS]}
                self.choices[fleet] = choose(group, to_device(side_by_side(first)[0]))
        self._part([fleet for fleet, choice in self.choices.items() if not choice.vectorized], trainer)

    def _part(self, fleets: Collection[str], trainer: Trainer) -> None:
        """Have fleets train one after the other."""
        for number, group in enumerate(self._groups):
            if self._fleets[number] in fleets and isinstance(group, StackedGroup):
                self._modules[number] = self._groups[number] = _one_by_one(group, trainer)

    def state_dict(self) -> dict[str, Any]:
        """How each fleet trains, and what was chosen."""
        stacked = {f: isinstance(g, StackedGroup) for f, g in zip(self._fleets, self._groups, strict=True)}
        return {
            "stacked": stacked,
            "choices": {fleet: tuple(choice) for fleet, choice in self.choices.items()},
        }

    def load_state_dict(self, saved: Mapping[str, Any], trainer: Trainer) -> None:
        """Train each fleet as the saved run did, and choose nothing any more; what is configured stays so."""
        if self._auto:
            self._auto = False
            self.choices = {fleet: Choice(*choice) for fleet, choice in saved["choices"].items()}
            self._part([fleet for fleet, together in saved["stacked"].items() if not together], trainer)


def _one_by_one(group: Group, trainer: Any) -> SequentialGroup:
    """A group of the same students, which train one after the other under that trainer."""
    students = [copy.deepcopy(student) for student in group.visit(range(len(group.names)))]
    for student in students:
        student.trainer = trainer
    return SequentialGroup(group.names, group.ids, students)
