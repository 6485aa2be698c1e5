"""Payloads survive the wire, and the wire costs what the ledger says."""

import pytest
import torch

from mmkd.encoding.messages import decode, encode, size
from mmkd.types import Payload

PAYLOADS = [
    Payload("cameras/0", "logits", 7, {"values": torch.randn(5, 3)}),
    Payload("hub", "weights", 123456, {"a": torch.randn(4, 2).half(), "b.c": torch.arange(3), "s": torch.tensor(1.0)}),
    Payload("x", "logits", 0, {"values": torch.randn(9, 4)[2], "spoken": torch.tensor([1, 255], dtype=torch.uint8)}),
    Payload("x", "logits", 10, {"values": torch.empty(0, 3)}),
]  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_is_encoded_comes_back(payload: Payload) -> None:
    back = decode(encode(payload))
    assert back[:3] == payload[:3]
    assert back.tensors.keys() == payload.tensors.keys()
    for name, tensor in payload.tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_serialised_length_is_ledger_bytes_plus_framing(payload: Payload) -> None:
    assert payload.nbytes == sum(t.numel() * t.itemsize for t in payload.tensors.values())
    nbytes, framing = size(payload)
    assert nbytes == payload.nbytes
    assert len(encode(payload)) == nbytes + framing


def test_anything_else_is_refused() -> None:
    for message in (b"", b"\x80\x04pickle", encode(PAYLOADS[0])[:-1]):
        with pytest.raises(ValueError, match="not a payload"):
            decode(message)
