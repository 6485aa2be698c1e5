"""Our cross-entropy is torch's, values and gradients, one student at a time and vectorised."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from mmkd.functional.classification import cross_entropy


def test_it_is_torchs() -> None:
    z = 40 * torch.randn(
        5, 7, 4, dtype=torch.float64
    )  # confident, where a naive exponential overflows in float32
    y = torch.randint(4, (5, 7))
    for peer in range(5):
        torch.testing.assert_close(cross_entropy(z[peer], y[peer]), F.cross_entropy(z[peer], y[peer]))
    ours, theirs = vmap(grad(cross_entropy))(z, y), vmap(grad(F.cross_entropy))(z, y)
    torch.testing.assert_close(ours, theirs)
    known = torch.rand(5, 7) < 0.6
    known[:, 0], known[4] = True, False  # nobody knows a label of the last
    unknown, none = torch.where(known, y, -100), torch.zeros_like(z[4])

    def torchs(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y, ignore_index=-100)

    ours, theirs = vmap(grad(cross_entropy))(z, unknown, known), vmap(grad(torchs))(z[:4], unknown[:4])
    torch.testing.assert_close(ours, torch.cat([theirs, none[None]]))
    torch.testing.assert_close(cross_entropy(z[0], unknown[0], known[0]), torchs(z[0], unknown[0]))
    assert float(cross_entropy(z[4], unknown[4], known[4])) == 0
    assert bool(cross_entropy(1e4 * torch.tensor([[1.0, -1.0]]), torch.tensor([1])).isfinite())
