"""Losses of tags and values: torch's where all is known, and of entries that are not known nothing at all."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from mmkd.functional.partly_known import squared_error, tagging
from mmkd.types import NO_LABEL

TORCHS = {tagging: F.binary_cross_entropy_with_logits, squared_error: F.mse_loss}


def drawn() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(4, 3, generator=stream, dtype=torch.float64)
    return z, torch.rand(4, 3, generator=stream, dtype=torch.float64)


@pytest.mark.parametrize("loss", TORCHS)
def test_where_all_is_known_it_is_torchs(loss) -> None:
    z, y = drawn()
    torch.testing.assert_close(loss(z, y), TORCHS[loss](z, y))
    peers = torch.stack([z, -z]), torch.stack([y, y])
    torch.testing.assert_close(vmap(grad(loss))(*peers), vmap(grad(TORCHS[loss]))(*peers))


@pytest.mark.parametrize(
    ("loss", "hole"), [(tagging, NO_LABEL), (tagging, torch.nan), (squared_error, torch.nan)]
)
def test_an_unknown_entry_adds_nothing_and_the_others_count_as_before(loss, hole: float) -> None:
    """A twelfth of the loss of each known entry, so that the mean of two halves is the whole."""
    z, y = drawn()
    each = torch.stack([loss(z[i, j].view(1, 1), y[i, j].view(1, 1)) for i in range(4) for j in range(3)])
    holes = y.clone().view(-1)
    holes[[1, 4, 5]] = hole
    known = torch.tensor([i not in (1, 4, 5) for i in range(12)])
    z.requires_grad_()
    found = loss(z, holes.view(4, 3))
    torch.testing.assert_close(found.detach(), each[known].sum() / 12)
    torch.testing.assert_close(
        found, (loss(z[:2], holes[:6].view(2, 3)) + loss(z[2:], holes[6:].view(2, 3))) / 2
    )
    slope = torch.autograd.grad(found, z)[0].view(-1)
    assert torch.equal(slope != 0, known)
    assert loss(z, torch.full_like(z, hole)).item() == 0


def test_tags_may_be_whole_numbers() -> None:
    z, _ = drawn()
    y = torch.tensor([[1, 0, NO_LABEL]]).expand(4, 3)
    torch.testing.assert_close(
        tagging(z, y), tagging(z, torch.tensor([1.0, 0.0, torch.nan]).expand(4, 3).double())
    )
