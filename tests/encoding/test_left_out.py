"""What is left out of a message: samples about which a peer says nothing."""

import pytest
import torch

from mmkd.encoding.samples import pack, unpack


@pytest.mark.parametrize("size", [1, 8, 13])
def test_pack_and_unpack_are_inverse(size: int) -> None:
    stream = torch.Generator().manual_seed(size)
    values = torch.randn(size, 3, generator=stream)
    spoken = torch.rand(size, generator=stream) < 0.5
    back, present = unpack(pack({"head0": values}, spoken), size)
    assert torch.equal(present, spoken)
    assert torch.equal(back["head0"], values * spoken[:, None])
