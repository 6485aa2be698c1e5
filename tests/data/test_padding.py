"""Sequences of unequal length: collated, trimmed, padded to one length, sent, and read by a cohort."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data import PeerDataModule, PublicSamples, Samples
from mmkd.data.padding import as_tensors, collated, of_one_length, of_tensors, trimmed
from mmkd.data.samples import take_private, take_public
from mmkd.functional.random import generator
from mmkd.knowledge import SharedLogits
from mmkd.students import AudioStudent
from mmkd.types import Padded
from tests.tiny import schedule, trainer


def test_only_what_is_unequal_is_padded() -> None:
    ones, twos = torch.ones(2), torch.full((3,), 2.0)
    values, lengths = collated([ones, twos])
    assert values.tolist() == [[1, 1, 0], [2, 2, 2]]
    assert lengths.tolist() == [2, 3]
    assert type(collated([ones, ones])) is Tensor
    both = collated(
        [
            {"audio": ones.numpy(), "image": torch.zeros(1, 2)},
            {"audio": twos.numpy(), "image": torch.zeros(1, 2)},
        ]
    )
    assert torch.equal(both["audio"].values, values)
    assert both["image"].shape == (2, 1, 2)
    with pytest.raises(RuntimeError, match="equal size"):  # images are resized, not padded
        collated([torch.zeros(1, 2, 2), torch.zeros(1, 3, 3)])


def test_padding_is_as_long_as_it_must_be() -> None:
    x = Padded(torch.tensor([[1.0, 0, 0, 0], [2, 2, 0, 0]]), torch.tensor([1, 2]))
    assert trimmed(x).values.tolist() == [[1, 0], [2, 2]]
    assert trimmed({"audio": Padded(x.values, torch.tensor([2, 2]))})["audio"].tolist() == [[1, 0], [2, 2]]
    plain = torch.ones(2, 3)
    assert trimmed(plain) is plain
    # Peers whose sequences are of other lengths, one of them all equal, stack.
    short, long = of_one_length([trimmed(x), torch.ones(2, 3)])
    assert short.values.shape == long.values.shape == (2, 3)
    assert (short.lengths.tolist(), long.lengths.tolist()) == ([1, 2], [3, 3])
    assert of_one_length([plain, plain])[0] is plain
    (one, other) = of_one_length([{"a": x, "b": plain}, {"a": x, "b": plain}])
    assert one["b"] is plain
    assert torch.equal(other["a"].values, x.values)
    for sent in (x, plain, {"a": x, "b": plain}):
        again = of_tensors(as_tensors(sent))
        assert str(again) == str(sent)


class Sounds(Dataset[Any]):
    """Of two pitches, as long as they happen to be; or held in memory, padded."""

    def __init__(self, size: int, name: str) -> None:
        stream = generator(0, name)
        self.y = torch.arange(size) % 2
        self.sounds = []
        for label in self.y:
            time = torch.arange(int(torch.randint(60, 200, (), generator=stream)), dtype=torch.float64)
            self.sounds.append(
                torch.sin(time * (0.3 + label)) + 0.1 * torch.randn(len(time), generator=stream)
            )

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> Any:
        return self.sounds[i], int(self.y[i])

    def held(self) -> Samples:
        return Samples(collated(self.sounds), self.y)


class Unequal(PeerDataModule):
    num_classes, modalities = 2, ("audio",)
    in_memory = False

    def private(self, peer: str, split: str) -> Dataset[Any]:
        data = Sounds(21, f"{peer} {split}")
        return data.held() if self.in_memory else data

    def public(self, split: str) -> Dataset[Any]:
        sounds = Sounds(9, "public").sounds
        if self.in_memory:
            return PublicSamples({"audio": collated(sounds)}, {"audio": torch.arange(9) % 4 > 0})
        return Public(sounds)


class Public(Dataset[Any]):
    def __init__(self, sounds: list[Tensor]) -> None:
        self.sounds = sounds

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, i: int) -> Any:
        return {"audio": self.sounds[i] if i % 4 else None}


class InMemory(Unequal):
    in_memory = True


def ear(classes: int) -> AudioStudent:
    return AudioStudent(classes, n_fft=32, hop=16, mels=4, width=4).double()


def test_a_data_set_in_memory_hands_out_the_same_samples() -> None:
    places = torch.tensor([4, 0, 7])
    one, other = (take_private(data, places, 0) for data in (Sounds(9, "a"), Sounds(9, "a").held()))
    assert torch.equal(one.x.values, other.x.values)
    assert torch.equal(one.y, other.y)
    assert len(Sounds(9, "a").held()[4][0]) == one.x.lengths[0]
    public = PublicSamples({"audio": collated(Sounds(9, "a").sounds)}, {"audio": torch.arange(9) != 0})
    assert len(public) == 9
    assert public[0] == {"audio": None}
    seen = take_public(public, places)
    assert torch.equal(
        seen.views["audio"].lengths * seen.shown["audio"], one.x.lengths * torch.tensor([1, 0, 1])
    )


@pytest.mark.parametrize("data", [Unequal, InMemory])
def test_a_peer_reads_in_a_cohort_what_it_reads_alone(data: type[Unequal]) -> None:
    """To the bit, whatever the sounds are padded to that others read, or that it reads in other steps."""
    cohort = Cohort({"ears": Fleet(ear, 2)}, num_classes=2, vectorize="never")
    alone = copy.deepcopy(cohort.student("ears/1"))
    run = trainer(DecentralizedCallback(schedule=schedule(rounds_per_epoch=1)), max_epochs=1)
    run.fit(cohort, datamodule=data(batch_size=5))
    one = data(batch_size=5, peers=cohort.roster[0])
    trainer(max_epochs=-1, max_steps=run.global_step).fit(alone, datamodule=one.only("ears/1"))
    for name, tensor in cohort.student("ears/1").state_dict().items():
        assert torch.equal(tensor, alone.state_dict()[name]), name


def test_peers_learn_from_sounds_alike_in_both_ways_of_training() -> None:
    """Within rounding, with public sounds of which some are missing, read one by one or held in memory."""
    states = []
    for way, data in (("never", Unequal), ("always", InMemory)):
        cohort = Cohort({"ears": Fleet(ear, 2)}, num_classes=2, vectorize=way)  # type: ignore[arg-type]
        callback = DecentralizedCallback(
            SharedLogits(), schedule=schedule(rounds_per_epoch=1, knowledge_every=3)
        )
        trainer(callback, max_epochs=1).fit(cohort, datamodule=data(batch_size=5))
        states.append(cohort.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-7, atol=1e-9)
    assert callback.ledger.total() > 0
