"""What is exchanged, what it costs, and what must not happen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.samples import PublicSamples
from mmkd.encoding.messages import encode
from mmkd.encoding.samples import pack, unpack
from mmkd.federated import FedAvg
from mmkd.knowledge import Floats, MeanLogit, MeanProbability, MostConfident, SharedLogits
from mmkd.ledger import FRAMING
from mmkd.topology import Complete, Ring, Star
from mmkd.transport import LocalTransport, Mail
from mmkd.types import ConfigError
from tests.tiny import CLASSES, Eye, TinyData, fit, fleets, schedule

ROUNDS, TICKS = 2, 14  # one epoch of two rounds of seven ticks
PUBLIC = 100


def run(
    knowledge: Any, aggregation: Any, topology: Any, **kwargs: Any
) -> tuple[Cohort, DecentralizedCallback]:
    cohort = Cohort(fleets(), CLASSES, vectorize=kwargs.pop("vectorize", "never"))
    callback = DecentralizedCallback(
        knowledge,
        aggregation,
        topology,
        schedule(**kwargs.pop("schedule", {})),
        kwargs.pop("transport", None),
    )
    fit(cohort, callback, kwargs.pop("data", None), max_epochs=1)
    return cohort, callback


def weights_of(cohort: Cohort, name: str) -> int:
    """Floats that may travel: parameters and the two running statistics; not the counter or the prior."""
    student = cohort.student(name)
    return sum(p.numel() for p in student.parameters()) + 2 * student.net[1].num_features


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


@pytest.mark.parametrize(("topology", "edges"), [(Star(), (3 + 2) * 2), (Complete(), 3 * 2 + 2 * 1)])
def test_bytes_of_weights(topology: Any, edges: int) -> None:
    """Three cameras and two microphones, each among its own modality."""
    cohort, callback = run(None, FedAvg(), topology)
    eye, ear = weights_of(cohort, "cameras/0"), weights_of(cohort, "microphones/0")
    each = {10: (6, 4), 8: (6, 2)}[edges]
    assert callback.ledger.total("weights") == ROUNDS * 4 * (each[0] * eye + each[1] * ear)


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


@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_fedavg_is_the_weighted_mean_within_a_modality(vectorize: Any) -> None:
    """The last round ends with an average: equal weights in a modality, p_k = n_k / n, by hand."""
    cohorts = []
    for aggregation in (None, FedAvg(among="modality")):
        cohort = Cohort(fleets(), CLASSES, vectorize=vectorize)
        one = schedule(rounds_per_epoch=1)
        fit(cohort, DecentralizedCallback(None, aggregation, Star(), one), max_epochs=1)
        cohorts.append(cohort)
    isolated, averaged = cohorts
    data = TinyData(batch_size=16, peers=isolated.roster[0])
    data.setup("fit")
    for peers in (["cameras/0", "cameras/1", "cameras/2"], ["microphones/0", "microphones/1"]):
        n = torch.tensor([len(data.private(p, "train")) for p in peers], dtype=torch.float64)  # type: ignore[arg-type]
        states = [isolated.student(p).state_dict() for p in peers]
        for name in states[0]:
            if name == "log_prior" or name.endswith("num_batches_tracked"):
                continue  # never leave a peer
            mean = sum(w * s[name].double() for w, s in zip(n / n.sum(), states, strict=True))
            for peer in peers:
                got = averaged.student(peer).state_dict()[name].double()
                torch.testing.assert_close(got, mean, rtol=1e-5, atol=1e-6)
        kept = [averaged.student(p).state_dict()["log_prior"] for p in peers]
        assert not torch.equal(kept[0], kept[1])


def test_buffers_may_stay_local() -> None:
    cohort, _ = run(None, FedAvg(buffers="local"), Star())
    one, two = cohort.student("cameras/0"), cohort.student("cameras/1")
    assert torch.equal(one.main.weight, two.main.weight)  # type: ignore[union-attr]
    assert not torch.equal(one.net[1].running_mean, two.net[1].running_mean)


def test_optimizer_state_is_reset_or_kept() -> None:
    for policy, clock in (("reset", 0), ("keep", TICKS)):
        cohort, _ = run(None, FedAvg(optimizer_state=policy), Star())  # type: ignore[arg-type]
        group, row = cohort.axis.locate("cameras/0")
        assert group.optimizer_state(row)["clock"] == clock


@pytest.mark.parametrize("vectorize", ["never", "always"])
@pytest.mark.parametrize("samples", ["batch", "all"])
def test_public_forwards_leave_statistics_alone(vectorize: Any, samples: Any) -> None:
    """BatchNorm counts private batches only: one a local step."""
    cohort, _ = run(SharedLogits(samples=samples), None, Complete(), vectorize=vectorize)
    for name in cohort.names:
        assert int(cohort.student(name).net[1].num_batches_tracked) == TICKS


def test_public_labels_are_never_read() -> None:
    """The public set has none; scrambling those that the test keeps beside it changes nothing."""
    states = []
    for scramble in (False, True):

        class Data(TinyData):
            def setup(self, stage: str, scramble: bool = scramble) -> None:
                super().setup(stage)
                if scramble:
                    self.public_y = self.public_y.flip(0)

        cohort, _ = run(SharedLogits(), None, Complete(), data=Data(batch_size=16))
        states.append(cohort.student("cameras/0").state_dict())
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_missing_views_neither_speak_nor_listen() -> None:
    """Microphones hear half of the public set: they say that half, and the consensus is full."""

    class Half(TinyData):
        def public(self, split: str) -> Any:
            even = torch.arange(PUBLIC) % 2 == 0
            views = {"image": self.public_x, "audio": self.public_x}
            return PublicSamples(views, {"audio": even})

    _, callback = run(
        SharedLogits(samples="all"), None, Star(), data=Half(batch_size=16), schedule={"knowledge_every": 10}
    )
    # One exchange: 3 cameras say 100 rows, 2 microphones 50 rows and 13 bytes of bit mask.
    up = 3 * PUBLIC * 12 + 2 * (PUBLIC // 2 * 12 + 13)
    assert callback.ledger.by_kind()["logits"] == {"up": up, "down": 5 * PUBLIC * 12}


@pytest.mark.parametrize("size", [1, 8, 13])
def test_pack_and_unpack_are_inverse(size: int) -> None:
    stream = torch.Generator().manual_seed(size)
    values = torch.randn(size, 3, generator=stream)
    spoken = torch.rand(size, generator=stream) < 0.5
    back, present = unpack(pack({"head0": values}, spoken), size)
    assert torch.equal(present, spoken)
    assert torch.equal(back["head0"], values * spoken[:, None])


@pytest.mark.parametrize("consensus", [MeanProbability(sharpen=2.0), MeanLogit(), MostConfident()])
@pytest.mark.parametrize("into", ["main", "auxiliary"])
def test_every_consensus_teaches_either_head(consensus: Any, into: Any) -> None:
    """Distilling into auxiliary heads changes them; into the main head leaves them as drawn."""
    cohort = Cohort(fleets(heads=2), CLASSES, vectorize="never")
    drawn = cohort.student("cameras/0").aux[0].weight.detach().clone()  # type: ignore[union-attr]
    knowledge = SharedLogits(consensus=consensus, into=into, temperature=2.0)
    fit(cohort, DecentralizedCallback(knowledge, None, Complete(), schedule()), max_epochs=1)
    taught = cohort.student("cameras/0").aux[0].weight.detach()  # type: ignore[union-attr]
    assert torch.equal(taught, drawn) == (into == "main")


def test_no_public_view_of_a_modality_is_refused() -> None:
    class Blind(TinyData):
        def public(self, split: str) -> Any:
            return PublicSamples({"image": self.public_x})

    with pytest.raises(ConfigError, match="no public sample shows 'audio'"):
        run(SharedLogits(), None, Complete(), data=Blind(batch_size=16))


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


def test_averaging_unlike_students_is_refused() -> None:
    with pytest.raises(ConfigError, match="differ in shape"):
        run(None, FedAvg(among="all"), Complete())


def test_class_counts_that_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 classes apart, the data have 3"):
        fit(Cohort(fleets(), CLASSES + 1))
