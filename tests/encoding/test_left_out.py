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


@pytest.mark.parametrize(("size", "rows", "kind"), [
    (1, 1, None), (7, 3, torch.uint8), (300, 256, torch.uint8), (300, 257, torch.int16), (300, 300, None),
    (2**15 + 2, 2**15, torch.int16), (2**15 + 2, 2**15 + 1, torch.int32),
])  # fmt: skip
@pytest.mark.parametrize("silent", [0, 1])
def test_rows_that_are_equal_are_sent_once(
    size: int, rows: int, kind: torch.dtype | None, silent: int
) -> None:
    """The last of so many samples have the rows of the first; of the very last nothing may be said."""
    alike = torch.arange(size)
    alike %= rows
    spoken = torch.arange(size + silent) < size
    alike = torch.cat([alike, torch.arange(size, size + silent)])
    values = torch.arange(1.0, size + silent + 1)[alike, None]
    packed = pack({"head0": values}, spoken, alike)
    assert packed["head0"].flatten().tolist() == list(range(1, rows + 1))
    assert ("alike" in packed, "spoken" in packed) == (kind is not None, silent == 1)
    if kind is not None:
        assert packed["alike"].dtype == kind
    back, present = unpack(packed, size + silent)
    assert torch.equal(present, spoken)
    assert torch.equal(back["head0"], values * spoken[:, None])
