"""A pyramid has the maps of timm's backbone, and no layer that no map needs."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor

from mmkd.students.detectors.pyramid import Pyramid

CASES = {
    "mobilenetv3_small_050": [(8,), (8, 16), (8, 16, 32)],
    "efficientnet_lite0": [(4, 8)],
    "test_resnet": [(8, 16)],
}


@pytest.mark.parametrize(("backbone", "strides"), [(b, s) for b, several in CASES.items() for s in several])
def test_all_that_is_kept_is_needed_and_all_that_is_needed_is_kept(
    backbone: str, strides: tuple[int, ...]
) -> None:
    """timm leaves out what is deeper than the last map in some of its families, and keeps it in others."""
    reductions = timm.create_model(backbone, features_only=True).feature_info.reduction()
    at = [reductions.index(stride) for stride in strides]
    whole = timm.create_model(backbone, features_only=True, out_indices=at).eval()
    pyramid = Pyramid(backbone, 8, strides)
    assert all(module.training for module in pyramid.modules())
    assert not whole.load_state_dict(pyramid.body.state_dict(), strict=False).unexpected_keys
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(pyramid.body.eval()(x), whole(x), strict=True):
        assert torch.equal(ours, theirs)
    reached = torch.autograd.grad(summed(pyramid(x)), list(pyramid.parameters()), allow_unused=True)
    assert all(gradient is not None for gradient in reached)
    parameters = list(whole.parameters())
    needed = torch.autograd.grad(sum(map(torch.sum, whole(x))), parameters, allow_unused=True)
    kept = sum(p.numel() for p, gradient in zip(parameters, needed, strict=True) if gradient is not None)
    assert sum(p.numel() for p in pyramid.body.parameters()) == kept
    assert (kept < sum(p.numel() for p in parameters)) == (backbone != "test_resnet" and 32 not in strides)


def summed(maps: dict[str, Tensor]) -> Tensor:
    return torch.stack([features.sum() for features in maps.values()]).sum()
