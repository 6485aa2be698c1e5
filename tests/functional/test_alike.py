"""Which samples stand for which: a plain loop agrees, and no statement is farther off than asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmkd.functional.alike import BLOCK, first_alike


def plain(chances: Tensor, numbers: Tensor, of: Tensor, near: float) -> list[int]:
    """For one speaker, sample by sample."""
    first = list(range(len(of)))
    for i in range(len(of)):
        for j in range(i):
            apart = (numbers[i] - numbers[j]).abs().max() <= near * numbers[j].abs().max()
            if of[i] and of[j] and first[j] == j and (chances[i] - chances[j]).abs().max() <= near and apart:
                first[i] = j
                break
    return first


@pytest.mark.parametrize("samples", [1, 5, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
@pytest.mark.parametrize("near", [0.0, 0.25, 1.0])
def test_a_plain_loop_agrees(samples: int, near: float) -> None:
    """Of two statements of three speakers, in eighths, so that some are exactly as far apart as they may be."""
    stream = torch.Generator().manual_seed(samples)
    chances = torch.randint(0, 9, (3, samples, 2), generator=stream) / 8
    numbers = torch.randint(-2, 5, (3, samples, 1), generator=stream).double()
    of = torch.rand(3, samples, generator=stream) < 0.8
    first = first_alike([(chances, False), (numbers, True)], of, near)
    assert first.tolist() == [plain(chances[k], numbers[k], of[k], near) for k in range(3)]
    assert torch.equal(first.gather(1, first), first)


def test_those_that_stand_for_others_are_the_first_and_nobody_is_handed_on() -> None:
    """Of 0, 2, 4 and 5 the third is near to the second, which stands for nobody."""
    said = torch.tensor([[[0.0], [2.0], [4.0], [5.0]]])
    everything = torch.ones(1, 4, dtype=torch.bool)
    assert first_alike([(said, False)], everything, 2.0).tolist() == [[0, 0, 2, 2]]
    silent = torch.tensor([[False, True, True, True]])
    assert first_alike([(said, False)], silent, 2.0).tolist() == [[0, 1, 1, 3]]
