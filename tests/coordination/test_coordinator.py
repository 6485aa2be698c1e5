"""What is exchanged, what it costs, and what must not happen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmkd.cohort import Cohort, Fleet
from mmkd.encoding.messages import encode
from mmkd.federated import FedAvg
from mmkd.knowledge import Floats, SharedLogits
from mmkd.ledger import FRAMING
from mmkd.topology import Complete, Ring, Star
from mmkd.transport import LocalTransport, Mail
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Eye, TinyData, fit, fleets, run

ROUNDS, TICKS = 2, 14  # one epoch of two rounds of seven ticks
PUBLIC = 100


def test_bytes_of_fresh_logits_on_a_ring() -> None:
    """Five peers on a ring: ten directed edges, a batch of 16 x 3 floats, at every third tick of 14."""
    _, callback = run(SharedLogits(), None, Ring(), schedule={"knowledge_every": 3})
    exchanges = len(range(0, TICKS, 3))
    assert callback.ledger.total() == callback.ledger.total("logits") == exchanges * 10 * 16 * 3 * 4
    assert {entry.direction for entry in callback.ledger.entries()} == {"peer"}


def test_bytes_of_the_whole_public_set_through_a_hub() -> None:
    """Nothing is said before the first step; then 100 x 3 halves up and down for five peers."""
    _, callback = run(
        SharedLogits(samples="all", wire=Floats("float16")), None, Star(), schedule={"knowledge_every": 4}
    )
    one_way = len(range(4, TICKS, 4)) * 5 * PUBLIC * 3 * 2
    kinds = callback.ledger.by_kind()
    assert kinds["logits"] == {"up": one_way, "down": one_way}
    assert callback.ledger.bytes_per_peer() == 2 * one_way / 5


def test_serialised_length_is_ledger_bytes_plus_framing() -> None:
    """A transport that writes everything down sees what the ledger says, edge by edge."""

    class Counting(LocalTransport):
        length = 0

        def deliver(self, mail: Mail) -> Mail:
            for stack in mail.stacks:
                rows = zip(stack.payloads(mail.kind, mail.round), stack.copies(), strict=True)
                self.length += sum(len(encode(payload)) * copies for payload, copies in rows)
            return super().deliver(mail)

    transport = Counting(serialise=True)
    _, callback = run(SharedLogits(), FedAvg(), Star(), transport=transport)
    kinds = callback.ledger.by_kind()  # framing is among the kinds
    assert transport.length == sum(row["up"] + row["down"] for row in kinds.values())
    assert kinds[FRAMING]["up"] > 0


@pytest.mark.parametrize("topology", [Star(), Ring()])
def test_the_wire_changes_nothing(topology: Any) -> None:
    results = []
    for serialise in (False, True):
        cohort, callback = run(
            SharedLogits(), FedAvg(), topology, transport=LocalTransport(serialise=serialise)
        )
        results.append((cohort.student("cameras/2").state_dict(), callback.ledger))
    (one, ledger), (two, again) = results
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert ledger == again


def test_an_empty_private_part_is_refused() -> None:
    class Poor(TinyData):
        def private(self, peer: str, split: str) -> Any:
            data = super().private(peer, split)
            return data.subset([]) if peer == "cameras/1" and split == "train" else data  # type: ignore[attr-defined]

    with pytest.raises(ConfigError, match="peer 'cameras/1' has no private samples"):
        run(None, None, Complete(), data=Poor(batch_size=16))


def test_a_modality_that_the_data_lack_is_refused() -> None:
    class Nose(Eye):
        modalities = ("smell",)

    cohort = Cohort({"noses": Fleet(lambda n: Nose(n), 1)}, CLASSES)
    with pytest.raises(ConfigError, match="peer 'noses/0' reads 'smell'"):
        fit(cohort)


def test_class_counts_that_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 classes apart, the data have 3"):
        fit(Cohort(fleets(), CLASSES + 1))
