"""Sequences of unequal length: a sample's embedding and loss are what they are without padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from mmkd.functional.padding import mirrored
from mmkd.functional.random import keyed
from mmkd.students import AudioStudent, Classifier, FusionStudent, TextStudent
from mmkd.students.waveforms import MASKED
from mmkd.types import SHOWN, Batch, ConfigError, Padded
from tests.students.kinds import BERT, CLASSES, WAV2VEC2

LENGTHS = torch.tensor([900, 333, 610])
QUIET = dict.fromkeys(
    ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout"), 0.0
)
KINDS: dict[str, dict[str, Any]] = {
    "small": {"width": 8},
    "small odd frames": {"width": 8, "n_fft": 65, "hop": 20, "mels": 12},
    **{
        f"{kind} {norm}": {
            "transformers": {**WAV2VEC2, **QUIET, "model_type": kind, "feat_extract_norm": norm}
        }
        for kind in MASKED
        for norm in ("group", "layer")
    },
}


def student_of(settings: dict[str, Any]) -> AudioStudent:
    with keyed(5):
        return AudioStudent(CLASSES, **settings).double().train()


def sounds() -> list[Tensor]:
    stream = torch.Generator().manual_seed(3)
    return [torch.randn(int(n), generator=stream, dtype=torch.float64) for n in LENGTHS]


def padded(sequences: list[Tensor], more: int = 0) -> Padded:
    values = torch.zeros(len(sequences), max(map(len, sequences)) + more, dtype=sequences[0].dtype)
    for row, sequence in zip(values, sequences, strict=True):
        row[: len(sequence)] = sequence
    return Padded(values, torch.tensor([len(sequence) for sequence in sequences]))


def gradients(student: Classifier) -> Tensor:
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.long if kind.startswith("unispeech") else ()) for kind in KINDS],
)
def test_padding_changes_neither_embedding_nor_loss_nor_gradient(kind: str) -> None:
    """In double precision all that is left is the order of sums, in both ways of training."""
    student, (x, more) = student_of(KINDS[kind]), (padded(sounds()), padded(sounds(), more=317))
    alone = torch.cat([student.embed(sound[None]) for sound in sounds()])
    for view in (x, more):
        torch.testing.assert_close(student.embed(view), alone, rtol=1e-9, atol=1e-11)
    y = torch.arange(len(LENGTHS))
    losses = [
        student.private_loss(Batch(s[None], y[i : i + 1], y[i : i + 1], 0)) for i, s in enumerate(sounds())
    ]
    mean = torch.stack(losses).mean()
    mean.backward()
    exact = gradients(student)
    student.zero_grad()
    loss = student.private_loss(Batch(more, y, y, 0))
    loss.backward()
    torch.testing.assert_close(loss, mean, rtol=1e-10, atol=0)
    assert (gradients(student) - exact).norm() <= 1e-9 * exact.norm()

    def one(parameters: Any, buffers: Any, x: Any, y: Tensor) -> Tensor:
        return functional_call(student, (parameters, buffers), (x,)).log_softmax(-1)[y, y].mean()

    state = stack_module_state([student, student])
    rows = Padded(torch.stack([more.values] * 2), torch.stack([more.lengths] * 2))
    stacked = vmap(one, randomness="different")(*state, rows, torch.stack([y, y]))
    torch.testing.assert_close(stacked, one({}, {}, more, y).expand(2), rtol=1e-10, atol=0)


def test_recordings_shorter_than_half_a_frame_are_mirrored_to_and_fro() -> None:
    """Of 1, 2, 3 comes 3, 2, 1, 2, 3, 2, 1: the mirror is at 1 and at 3; of a single number, only that."""
    x = torch.tensor([[1.0, 2.0, 3.0, 0.0], [7.0, 0.0, 0.0, 0.0]])
    found = mirrored(x, torch.tensor([3, 1]), 2)
    assert found.tolist() == [[3, 2, 1, 2, 3, 2, 1, 2], [7] * 8]
    # Silence of no length, which a fusion puts where no recording is, embeds as a number.
    silent = Padded(torch.zeros(1, 900, dtype=torch.float64), torch.tensor([0]))
    for kind in ("small", "wav2vec2 group"):
        assert student_of(KINDS[kind]).embed(silent).isfinite().all()


def test_a_model_that_hears_padding_is_refused() -> None:
    student = student_of(KINDS["wav2vec2 group"])
    student.encoder.model.config.model_type = "data2vec-audio"
    with pytest.raises(ConfigError, match="a data2vec-audio would hear their padding"):
        student.embed(padded(sounds()))


@pytest.mark.parametrize("settings", [{"width": 8}, {"transformers": BERT}], ids=["small", "bert"])
def test_texts_of_unequal_length_are_padded_with_what_is_padding_to_them(settings: dict[str, Any]) -> None:
    with keyed(5):
        student = TextStudent(CLASSES, vocabulary=64, **settings).double().eval()
    texts = [torch.arange(1, 5), torch.arange(9, 18)]
    alone = torch.cat([student(text[None]) for text in texts])
    torch.testing.assert_close(student(padded(texts, more=2)), alone, rtol=1e-9, atol=1e-11)


def test_a_fusion_hands_lengths_on() -> None:
    """And where a sample has no sound, neither its values nor their length say anything."""
    with keyed(5):
        student = FusionStudent(
            CLASSES, encoders={"audio": lambda n: AudioStudent(n, width=8)}, dim=4
        ).double()
    x = padded(sounds())
    shown = torch.tensor([True, True, False])
    found = student.eval()({"audio": x, SHOWN + "audio": shown})
    alone = torch.cat([student({"audio": sound[None]}) for sound in sounds()])
    torch.testing.assert_close(found[:2], alone[:2], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found[2], student.main.bias, rtol=0, atol=0)
