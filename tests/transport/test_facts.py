"""What a peer says of itself on joining, as a message and in canonical order."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from mmkd.encoding.messages import decode, encode
from mmkd.transport import Facts, LocalTransport
from mmkd.transport.facts import everybody
from mmkd.types import ConfigError, Payload

SHAPES = {"w": torch.Size([3, 4]), "b": torch.Size([]), "mean": torch.Size([4])}
FACTS = Facts("ö-1", "image+text", 20, 3, 20 / 3, 2**63 - 1, SHAPES, ("mean",), 1.5e10, 1 / 3)


def test_facts_survive_a_message() -> None:
    """Every bit of every number, in the types that they had, and the order of the tensors."""
    payload = decode(encode(FACTS.payload("cameras/0")))
    told = Facts.of(payload)
    assert payload.sender == "cameras/0"
    assert told == FACTS
    assert list(told.shapes) == list(SHAPES)
    assert all(isinstance(shape, torch.Size) for shape in told.shapes.values())
    assert [type(value) for value in told] == [type(value) for value in FACTS]


@pytest.mark.parametrize("text", ["", "[]", '{"id": "a"}', FACTS.payload("a").tensors["facts"][:-1]])
def test_what_says_no_facts_is_refused(text: str | torch.Tensor) -> None:
    bytes_ = text if isinstance(text, torch.Tensor) else torch.tensor(list(text.encode()), dtype=torch.uint8)
    with pytest.raises(ValueError, match="'stranger' says no facts"):
        Facts.of(Payload("stranger", "joining", 0, {"facts": bytes_}))
    with pytest.raises(ValueError, match="'stranger' says no facts"):
        Facts.of(Payload("stranger", "joining", 0, {}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""), ("id", 3), ("modality", None), ("samples", -1), ("samples", 2.5), ("samples", "20"),
        ("samples", True), ("samples", 2**64), ("steps_per_epoch", 1e3), ("samples_per_step", float("nan")),
        ("samples_per_step", float("inf")), ("start", "1"), ("shapes", [[1]]), ("shapes", {"w": [-1, -1]}),
        ("shapes", {"w": [1] * 9}), ("shapes", {"w": [2**21, 2**21]}), ("shapes", {"w": 3}),
        ("statistics", ["nowhere"]), ("statistics", [1]), ("predict", -1.0), ("train", [1.0]),
    ],
)  # fmt: skip
def test_facts_that_no_peer_has_are_refused(field: str, value: Any) -> None:
    """Nothing is converted: a number in a text is none."""
    sent = json.dumps(FACTS._asdict() | {field: value}).encode()
    with pytest.raises(ValueError, match="'stranger' says no facts"):
        Facts.of(Payload("stranger", "joining", 0, {"facts": torch.tensor(list(sent), dtype=torch.uint8)}))


@pytest.mark.parametrize("change", [{"more": 1}, {"train": ...}])
def test_facts_with_other_fields_are_refused(change: dict[str, Any]) -> None:
    fields = {n: v for n, v in {**FACTS._asdict(), **change}.items() if v is not ...}
    sent = json.dumps(fields).encode()
    with pytest.raises(ValueError, match="other fields"):
        Facts.of(Payload("stranger", "joining", 0, {"facts": torch.tensor(list(sent), dtype=torch.uint8)}))


def test_everybody_stands_in_the_order_of_ids() -> None:
    """Whoever holds whom, and whatever they are called."""
    a, b, c = (FACTS._replace(id=i) for i in "abc")
    for parts in ([{"x": c, "y": a}, {"z": b}], [{"z": b}, {}, {"y": a}, {"x": c}]):
        assert list(everybody(parts).items()) == [("y", a), ("z", b), ("x", c)]


def test_two_processes_hold_no_peer_twice() -> None:
    with pytest.raises(ConfigError, match="two processes hold a peer 'x'"):
        everybody([{"x": FACTS}, {"y": FACTS._replace(id="b"), "x": FACTS._replace(id="c")}])
    with pytest.raises(ConfigError, match="two peers share the id 'ö-1'"):
        everybody([{"x": FACTS}, {"y": FACTS}])


def test_in_one_process_nothing_is_made_of_facts() -> None:
    facts = {"x": FACTS}
    assert LocalTransport().join(facts) is facts
    assert LocalTransport().hosts
