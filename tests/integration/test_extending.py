"""docs/extending.md is run as it is written, and what it builds keeps the contracts that it tells of."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.coordination.oracle import Oracle
from mmkd.encoding import EightBits, Floats
from mmkd.encoding.messages import encode
from mmkd.federated import Aggregation, FedAvg
from mmkd.knowledge import SharedLogits
from mmkd.schedule import Schedule
from mmkd.testing.transports import CountingTransport
from mmkd.topology import Ring, Star, Topology
from mmkd.transport import Facts, LocalTransport, Mail, Message
from mmkd.transport.facts import everybody
from mmkd.types import ConfigError, Payload
from tests.tiny import trainer

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
CLASSES = 3
LINES = {"Median": 8, "Similarities": 20, "Vote": 8, "Torus": 20, "Perceptron": 12, "Vectors": 12}
"""Lines that a class may take, blank ones left out."""


@pytest.fixture(scope="module")
def page() -> Any:
    """All that the page defines; its checks run as it is read."""
    module = sys.modules["extending"] = ModuleType("extending")
    for block in BLOCKS:
        exec(compile(block, "docs/extending.md", "exec"), vars(module))
    return module


def fit(page: Any, student: Any = None, *, peers: int = 4, epochs: int = 2, **method: Any) -> Any:
    """A cohort trained on the page's data, and the callback that coordinated it."""
    callback = DecentralizedCallback(**{"schedule": Schedule(local_steps=4), **method})
    make = student or page.Perceptron
    cohort = Cohort({"v": Fleet(lambda n: make(n), peers)}, CLASSES, vectorize="never", init="own")
    trainer(callback, max_epochs=epochs, limit_val_batches=0).fit(
        cohort, datamodule=page.Vectors(batch_size=16)
    )
    return cohort, callback


@pytest.mark.parametrize("name", LINES)
def test_an_extension_is_short(name: str) -> None:
    (block,) = (block for block in BLOCKS if f"class {name}(" in block)
    (node,) = (n for n in ast.parse(block).body if isinstance(n, ast.ClassDef) and n.name == name)
    lines = block.splitlines()[node.lineno - 1 : node.end_lineno]
    assert len([line for line in lines if line.strip()]) <= LINES[name]


def test_the_page_runs_and_its_classes_keep_their_contracts(page: Any) -> None:
    assert sum("check_" in block for block in BLOCKS) == 4


def test_a_median_on_a_ring_is_that_of_the_neighbours_and_oneself(page: Any) -> None:
    alone, _ = fit(page, peers=5, epochs=1)
    cohort, callback = fit(page, peers=5, epochs=1, aggregation=page.Median(among="all"), topology=Ring())
    before = alone.axis.weights(alone.names, buffers=False)
    after = cohort.axis.weights(cohort.names, buffers=False)
    for name, own in before.items():
        for k in range(5):
            three = torch.stack([own[(k - 1) % 5], own[k], own[(k + 1) % 5]])
            assert torch.equal(after[name][k], three.sort(0).values[1])
    size = sum(leaf[0].numel() * 4 for leaf in before.values())
    assert callback.ledger.total("weights") == 10 * size  # a ring of five has ten directed edges


class Everybodys(Aggregation):
    """Written for a hub: it asks what everybody says."""

    def finish(self, y: Any, round: Any) -> Any:
        heard = round.send(self.kind, y)
        return round.answer(self.kind, {n: leaf.median(0, keepdim=True).values for n, leaf in heard.items()})

    def average(self, statistics: Any, round: Any) -> Any:
        return self.finish(statistics, round)


def test_what_everybody_says_is_not_to_be_had_on_a_ring(page: Any) -> None:
    with pytest.raises(
        ConfigError, match="not everybody hears everybody: derive it from Combination"
    ) as error:
        fit(page, aggregation=Everybodys(among="all"), topology=Ring())
    assert "\n" not in str(error.value)
    hub, _ = fit(page, aggregation=Everybodys(among="all"), topology=Star())
    same, _ = fit(page, aggregation=page.Median(among="all"), topology=Star())
    one, two = (cohort.state_dict() for cohort in (hub, same))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_rows_that_depend_on_a_batch_are_refused_beyond_it(page: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"as the samples beside it are.*set knowledge.samples to batch"
    ) as error:
        fit(page, knowledge=page.Similarities(samples="all"))
    assert "\n" not in str(error.value)
    fit(page, knowledge=page.Similarities(), topology=Ring())


@pytest.mark.parametrize("wire", [Floats(), Floats("float16"), EightBits()])
def test_what_is_no_logit_arrives_within_the_rounding_of_its_format(page: Any, wire: Any) -> None:
    embedding = torch.randn(4, 10, 8, generator=torch.Generator().manual_seed(0))
    (statement,) = page.Similarities().speak(SimpleNamespace(embedding=embedding)).values()
    values = statement.values
    back = wire.decode(wire.encode(values, logits=statement.logits), 10, logits=statement.logits)
    # Cosines lie in [-1, 1]: half precision has steps of 2^-11 there at most, half of which is lost;
    # eight bits have 255 steps over a row's range, and send step and least number in half precision.
    bound = {Floats: 2.0**-11, EightBits: 2 / 255 / 2 + 2 * 2.0**-10}[type(wire)]
    assert float((back - values).abs().max()) <= bound


@pytest.mark.parametrize("topology", [Ring(), Star()], ids=["ring", "hub"])
def test_what_a_wire_of_ones_own_makes_is_carried_whole(page: Any, topology: Topology) -> None:
    transport = CountingTransport(serialise=True)
    _, callback = fit(
        page, knowledge=SharedLogits(wire=page.Scaled()), topology=topology, transport=transport
    )
    exchanges, samples = 2, 16
    row = samples * (CLASSES + 1) * 2  # halves, and one for the scale
    assert callback.ledger.total() == transport.nbytes == exchanges * 8 * row


class Elsewhere(CountingTransport):
    """One peer has joined that is on no process here: it says what the first does, a hundred times louder.

    Args:
        joins: whether it said who it is.
        speaks: whether it says anything.
    """

    def __init__(self, *, joins: bool = True, speaks: bool = True) -> None:
        super().__init__()
        self.joins, self.speaks = joins, speaks

    def join(self, facts: Mapping[str, Facts], *_: Any) -> Mapping[str, Facts]:
        other = next(iter(facts.values()))._replace(id="w/0")
        return everybody([facts, {"w/0": other}]) if self.joins else facts

    def deliver(self, mail: Mail) -> Mail:
        mail, more = super().deliver(mail), []
        for stack in mail.stacks if self.speaks else ():
            if "hub" not in stack.senders:
                said = {n: t[0] * 100 for n, t in stack.tensors.items()}
                payload = Payload("w/0", mail.kind, mail.round, said, stack.logits)
                more.append(Message(encode(payload), stack.receivers))
        return mail._replace(messages=more)


@pytest.mark.parametrize(
    ("topology", "hearing"), [(Star(), [True] * 4), (Ring(), [True, False, False, True])], ids=["hub", "ring"]
)
def test_what_comes_from_elsewhere_is_heard_by_its_neighbours(
    page: Any, topology: Topology, hearing: list[bool]
) -> None:
    """On a ring by the first peer and the last, whoever else gets it; who has joined may stay silent."""

    def state(transport: LocalTransport) -> list[dict[str, Tensor]]:
        method = {"knowledge": SharedLogits(), "topology": topology, "transport": transport}
        cohort, _ = fit(page, epochs=1, **method)
        return [cohort.student(name).state_dict() for name in cohort.names]

    pairs = zip(state(Elsewhere(speaks=False)), state(Elsewhere()), strict=True)
    assert [any(not torch.equal(one[n], two[n]) for n in one) for one, two in pairs] == hearing


def test_weights_that_are_not_expected_or_do_not_come_leave_the_mean_to_others(page: Any) -> None:
    """Of somebody who has not joined, and of one who has and is silent, whose share goes to the others."""

    def state(transport: LocalTransport) -> dict[str, Tensor]:
        method = {"aggregation": FedAvg(among="all"), "topology": Star(), "transport": transport}
        return fit(page, epochs=1, **method)[0].state_dict()

    alone, strange, silent = map(state, (LocalTransport(), Elsewhere(joins=False), Elsewhere(speaks=False)))
    for n, tensor in alone.items():
        assert torch.equal(strange[n], tensor)
        torch.testing.assert_close(silent[n], tensor)  # shares are renormalised, and so rounded


def test_a_hub_and_its_answers_go_through_the_transport(page: Any) -> None:
    transport = CountingTransport()
    _, callback = fit(page, aggregation=FedAvg(among="all"), topology=Star(), transport=transport)
    assert callback.ledger.total() == transport.nbytes > 0


def test_an_objective_of_ones_own_learns_from_an_oracle_alone(page: Any) -> None:
    """At alpha 0 nobody reads labels, so whatever a student makes of them changes no bit."""

    class Margin(page.Perceptron):  # type: ignore[misc, name-defined]
        def private_loss(self, batch: Any) -> Tensor:
            return F.multi_margin_loss(self(batch.x), batch.y)

    def oracle(num_classes: int) -> Any:
        student = page.Perceptron(num_classes)
        with torch.no_grad():  # the sum of the features tells the classes apart
            student.encoder[0].weight.fill_(1 / 6)
            student.encoder[0].bias.fill_(1.0)
            student.main.weight.copy_(torch.tensor([-1.0, 0.0, 1.0])[:, None].expand(-1, 8))
            student.main.bias.copy_(torch.tensor([18.0, 6.0, -22.0]))
        return student

    def taught(student: Any) -> Any:
        method = {"oracle": Oracle(oracle, SharedLogits(alpha=0.0)), "schedule": Schedule(local_steps=20)}
        return fit(page, student, epochs=3, **method)[0]

    own, plain = taught(Margin), taught(page.Perceptron)
    one, two = own.state_dict(), plain.state_dict()
    assert all(torch.equal(one[n], two[n]) for n in one)
    start, _ = fit(page, epochs=1, schedule=Schedule(local_steps=1))
    assert any(not torch.equal(one[n], t) for n, t in start.state_dict().items())
