"""Draws of splits: every class has its share, and no group is in two parts."""

from __future__ import annotations

import pytest
import torch

from mmkd.data.splitting import dealt, stratified
from mmkd.functional.random import generator


@pytest.mark.parametrize("counts", [[100, 40, 60], [10, 10], [7, 3, 90], [1, 50]])
@pytest.mark.parametrize("shares", [[0.1, 0.2], [0.5], [0.0, 0.3], []])
def test_every_class_has_its_share_in_every_part(counts: list[int], shares: list[float]) -> None:
    """Up to the one sample that a cut through a class may cost on either side."""
    y = torch.cat([torch.full((count,), c) for c, count in enumerate(counts)])
    y = y[torch.randperm(len(y), generator=generator("mixed"))]
    parts = stratified(y, None, shares, generator("draw"))
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(y)))
    for part, share in zip(parts, [*shares, 1 - sum(shares)], strict=True):
        assert torch.equal(part, part.sort().values)
        assert abs(len(part) - share * len(y)) <= 1
        for c, count in enumerate(counts):
            assert abs(int((y[part] == c).sum()) - share * count) <= 1.5


@pytest.mark.parametrize("shares", [[0.2, 0.2], [0.1]])
def test_no_group_is_in_two_parts_and_groups_are_spread_by_their_class(shares: list[float]) -> None:
    """Sixty persons with one to five samples, mostly of one class each."""
    sizes = torch.arange(60) % 5 + 1
    group = torch.repeat_interleave(torch.arange(60), sizes)
    own = torch.arange(60) % 3
    y = own[group].clone()
    y[sizes.cumsum(0)[sizes == 5] - 1] = 0  # one of five is of another class
    parts = stratified(y, group, shares, generator("draw"))
    where = [set(group[part].tolist()) for part in parts]
    assert sum(map(len, where)) == len(set.union(*where)) == 60
    for persons, part, share in zip(where, parts, [*shares, 1 - sum(shares)], strict=True):
        assert abs(len(part) - share * len(y)) <= 5
        for c in range(3):
            assert abs(sum(int(own[person]) == c for person in persons) - share * 20) <= 2


def test_groups_of_one_are_samples() -> None:
    y = torch.arange(40) % 3
    alone = stratified(y, torch.arange(40), [0.3, 0.2], generator("draw"))
    for one, other in zip(alone, stratified(y, None, [0.3, 0.2], generator("draw")), strict=True):
        assert torch.equal(one, other)


def test_of_no_samples_there_are_no_parts() -> None:
    nothing = torch.empty(0, dtype=torch.long)
    assert [len(part) for part in stratified(nothing, None, [0.2], generator("draw"))] == [0, 0]


def test_groups_are_dealt_whole_and_evenly() -> None:
    group = torch.repeat_interleave(torch.arange(9), torch.tensor([9, 1, 1, 1, 2, 4, 4, 4, 4]))
    parts = dealt(group, 3, generator("deal"))
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(30))
    owners = [set(group[part].tolist()) for part in parts]
    assert sum(map(len, owners)) == 9
    assert max(map(len, parts)) - min(map(len, parts)) <= 2
    with pytest.raises(ValueError, match="9 groups cannot be dealt to 10 peers"):
        dealt(group, 10, generator("deal"))
