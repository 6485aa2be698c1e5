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


# --- what encode does not make ---------------------------------------------------------------------

ONE = Payload("a/0", "logits", 3, {"main": torch.zeros(2, 3), "w": torch.zeros(2)}, ("main",))


def rewritten(old: str, new: str) -> bytes:
    """A message in whose header something else stands, padded as it has to be."""
    message = encode(ONE)
    length = int.from_bytes(message[:8], "little")
    header = message[8 : 8 + length].decode().rstrip()
    assert header.count(old) == 1, header
    text = header.replace(old, new).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + message[8 + length :]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"round":"3"', '"round":"-3"'),
        ('"round":"3"', '"round":"03"'),
        ('"round":"3"', '"round":"3.0"'),
        ('"round":"3"', '"round":"' + "3" * 5000 + '"'),
        ('"round":"3"', '"round":3'),
        ('"round":"3"', '"turn":"3"'),
        ('"round":"3"', '"round":"3","more":"x"'),
        ('"sender":"a/0"', '"sender":""'),
        ('"sender":"a/0"', '"sender":"\\ud800"'),
        ('"kind":"logits"', '"kind":null'),
        (r'"[\"main\"]"', r'"[\"main\",\"main\"]"'),
        (r'"[\"main\"]"', r'"[\"head\"]"'),
        (r'"[\"main\"]"', r'"[NaN]"'),
        (r'"[\"main\"]"', '"' + "[" * 100000 + '"'),
        ('"shape":[2,3]', '"shape":[2,3' + ",1" * 68 + "]"),
        ('"shape":[2,3]', '"shape":[3,2.0]'),
        ('"shape":[2,3]', '"shape":[2,-3]'),
        ('"shape":[2,3]', '"shape":[2,NaN]'),
        ('"shape":[2,3]', '"shape":[4294967296,4294967296,4294967296,0]'),
        ('"shape":[2,3]', '"shape": [2,3]'),
        ('"w":', '"main":'),
        ('"w":', '"\\u0077":'),
        ('"data_offsets":[24,32]', '"data_offsets":[16,24]'),
        ('"data_offsets":[24,32]', '"data_offsets":[24,99999999999]'),
        ('{"__metadata__"', "[" * 100000 + '{"__metadata__"'),
    ],
)
def test_what_encode_does_not_make_is_refused_in_one_line(old: str, new: str) -> None:
    assert decode(rewritten(old, old)).round == 3
    with pytest.raises(ValueError, match=r"^not a payload: ") as error:
        decode(rewritten(old, new))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


def test_tensors_of_many_dimensions_and_truth_values_that_are_none_are_refused() -> None:
    assert decode(encode(ONE._replace(tensors={"main": torch.zeros([1] * 8)}))).round == 3
    truth = encode(ONE._replace(tensors={"main": torch.ones(8, dtype=torch.bool)}))
    for message in (encode(ONE._replace(tensors={"main": torch.zeros([1] * 9)})), truth[:-1] + b"\x02"):
        with pytest.raises(ValueError, match="not a payload"):
            decode(message)
