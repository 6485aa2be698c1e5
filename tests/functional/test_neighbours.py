"""Lists of a graph."""

from __future__ import annotations

import pytest
import torch

from mmkd.functional.graph import neighbours


@pytest.mark.parametrize("chance", [0.0, 0.05, 0.5, 1.0])
def test_lists_name_those_who_are_heard_in_their_order(chance: float) -> None:
    hears = torch.rand(7, 11, generator=torch.Generator().manual_seed(0)) < chance
    place, there = neighbours(hears)
    assert place.shape == there.shape == (7, max(1, int(hears.sum(1).max())))
    for listener in range(7):
        expected = [speaker for speaker in range(11) if hears[listener, speaker]]
        assert place[listener][there[listener]].tolist() == expected
        assert there[listener].tolist() == sorted(there[listener].tolist(), reverse=True)  # empty slots last


def test_nobody_listens() -> None:
    place, there = neighbours(torch.zeros(0, 5, dtype=torch.bool))
    assert place.shape == there.shape == (0, 1)
