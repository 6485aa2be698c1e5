"""Laws that hold for every kind of student, and what is particular to each."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from lightning.pytorch import Trainer
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from mmkd.functional.random import keyed
from mmkd.students import AudioStudent, Classifier, TextStudent, VisionStudent
from mmkd.students.audio import LogMel
from mmkd.students.hub import WeightNorm
from mmkd.testing import check_student
from mmkd.types import Batch, ConfigError, Predictions
from tests.students.kinds import BERT, CLASSES, KINDS, WAV2VEC2, Kind

PEERS, BATCH = 3, 4


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


def test_contract(kind: Kind) -> None:
    y = torch.arange(BATCH) % CLASSES
    check_student(
        lambda n: kind.build(), kind.draw(BATCH, torch.Generator().manual_seed(1)), y, num_classes=CLASSES
    )


class Spare(VisionStudent):
    """Has a layer that it never uses, as an encoder with another one's pooling does."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.spare = nn.Linear(2, 2, bias=False)


def test_layers_that_nothing_depends_on_are_no_part_of_the_contract() -> None:
    """They would be sent, and count as bytes. A frozen one stays where it is."""
    x, y = torch.randn(4, 1, 8, 8), torch.arange(4)
    with pytest.raises(
        AssertionError, match=r"Spare: nothing depends on 'spare\.weight', which would be sent"
    ):
        check_student(Spare, x, y)

    def frozen(num_classes: int) -> Spare:
        student = Spare(num_classes)
        student.spare.requires_grad_(False)
        return student

    check_student(frozen, x, y)


class Call(nn.Module):
    """Makes a method of a student callable by ``functional_call``."""

    def __init__(self, student: Classifier) -> None:
        super().__init__()
        self.student = student

    def forward(self, method: str, *args: Any) -> Any:
        return getattr(self.student, method)(*args)


class Stack:
    """Peers of one kind with different weights and different data, side by side and stacked."""

    def __init__(self, kind: Kind, dtype: torch.dtype = torch.float32, **settings: Any) -> None:
        self.students = []
        for peer in range(PEERS):
            with keyed(peer):
                student = kind.build(**settings).train()
            student.observe(torch.arange(CLASSES) + peer)
            self.students.append(student.to(dtype))
        stream = torch.Generator().manual_seed(7)
        self.xs = [kind.draw(BATCH, stream) for _ in range(PEERS)]
        self.xs = tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, self.xs)
        self.ys = [torch.randint(CLASSES, (BATCH,), generator=stream) for _ in range(PEERS)]
        self.template = Call(copy.deepcopy(self.students[0]))
        self.parameters, self.buffers = stack_module_state([Call(s) for s in self.students])

    def batch(self, peer: int) -> Batch:
        return Batch(self.xs[peer], self.ys[peer], torch.arange(BATCH), 0)

    def losses(self) -> Tensor:
        def loss(p: Any, b: Any, x: Any, y: Tensor) -> Tensor:
            batch = Batch(x, y, torch.arange(BATCH), 0)
            return functional_call(self.template, (p, b), ("private_loss", batch))

        xs = tree_map(lambda *leaves: torch.stack(leaves), *self.xs)
        rows = (self.parameters, self.buffers, xs, torch.stack(self.ys))
        return vmap(loss, randomness="different")(*rows)

    def predict(self, x: Any) -> Predictions:
        def predict(p: Any, b: Any) -> Predictions:
            return functional_call(self.template, (p, b), ("predict", x))

        return vmap(predict, randomness="different")(self.parameters, self.buffers)


def gradient(student: Classifier) -> Tensor:
    """Of all parameters, in double precision."""
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in student.parameters()]
    return torch.cat([part.flatten().double() for part in parts])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_gradients_stacked_are_those_one_by_one(kind: Kind, dtype: torch.dtype, tolerance: float) -> None:
    """Within rounding: to the tolerance, beside the error that a student alone makes in this precision."""
    stack, truth = (Stack(kind, t, heads=1, prior_correction=1.0) for t in (dtype, torch.float64))
    losses = stack.losses()
    losses.sum().backward()
    for peer, (student, exact) in enumerate(zip(stack.students, truth.students, strict=True)):
        loss = student.private_loss(stack.batch(peer))
        loss.backward()
        exact.private_loss(truth.batch(peer)).backward()
        torch.testing.assert_close(losses[peer], loss, rtol=10 * tolerance, atol=0)
        alone, true = gradient(student), gradient(exact)
        for name, p in student.named_parameters():
            stacked = stack.parameters[f"student.{name}"].grad
            p.grad = None if stacked is None else stacked[peer]
        assert true.norm() > 0
        difference = (gradient(student) - alone).norm()
        assert difference <= tolerance * true.norm() + (alone - true).norm()


def test_running_statistics_stacked_are_those_one_by_one(kind: Kind) -> None:
    stack = Stack(kind, torch.float64)
    before = {name: b.clone() for name, b in stack.buffers.items()}
    stack.losses()
    for peer, student in enumerate(stack.students):
        student.private_loss(stack.batch(peer))
        for name, buffer in student.named_buffers():
            torch.testing.assert_close(stack.buffers[f"student.{name}"][peer], buffer, rtol=1e-12, atol=1e-12)
    counted = [n for n, b in before.items() if not torch.equal(b, stack.buffers[n])]
    normalised = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in stack.template.modules())
    assert bool(counted) == normalised


@pytest.mark.parametrize("training", [True, False])
def test_predictions_stacked_are_those_one_by_one(kind: Kind, training: bool) -> None:
    stack = Stack(kind, torch.float64, heads=2)
    stack.template.train(training)
    x = stack.xs[0]
    stacked = stack.predict(x)
    for peer, student in enumerate(stack.students):
        alone = student.train(training).predict(x)
        assert alone.logits.shape == (BATCH, CLASSES)
        assert alone.auxiliary.shape == (2, BATCH, CLASSES)
        assert alone.embedding.shape == (BATCH, student.main.in_features)
        for row, single in zip(stacked, alone, strict=True):
            torch.testing.assert_close(row[peer], single, rtol=1e-9, atol=1e-12)


def test_random_layers_differ_among_stacked_peers(kind: Kind) -> None:
    stack = Stack(kind, dropout=0.5)
    for tensors in (stack.parameters, stack.buffers):
        for tensor in tensors.values():
            tensor.data = tensor.data[:1].expand_as(tensor).clone()
    stack.xs, stack.ys = stack.xs[:1] * PEERS, stack.ys[:1] * PEERS
    with keyed(3):
        losses = stack.losses()
    assert len(set(losses.tolist())) == PEERS
    losses.sum().backward()
    gradients = [p.grad for p in stack.parameters.values() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


def test_only_torchs_stream_decides(kind: Kind) -> None:
    """A second draw from NumPy's or Python's generator would make two equal steps differ."""
    stack = Stack(kind, dropout=0.3)
    student = stack.students[0]
    losses = []
    for _ in range(2):
        with keyed(11):
            losses.append(copy.deepcopy(student).private_loss(stack.batch(0)).item())
    assert losses[0] == losses[1]
    with keyed(12):
        assert student.private_loss(stack.batch(0)).item() != losses[0]


def test_every_weight_learns(kind: Kind) -> None:
    """A weight without a gradient would be sent in every exchange, for nothing."""
    stack = Stack(kind)
    student = stack.students[0]
    student.private_loss(stack.batch(0)).backward()
    assert [name for name, p in student.named_parameters() if p.grad is None] == []


def test_loads_from_its_own_checkpoint(kind: Kind, tmp_path: Path) -> None:
    settings = {"heads": 1, "prior_correction": 0.5}
    # While a command line builds a cohort, Lightning offers the cohort's arguments to its students.
    with _given_hyperparameters_context(hparams={"peers": {}, "seed": 3}, instantiator="somebody.else"):
        student = kind.build(**settings)
    stream = torch.Generator().manual_seed(0)
    batches = [
        Batch(kind.draw(BATCH, stream), torch.arange(BATCH) % CLASSES, torch.arange(BATCH), step)
        for step in range(2)
    ]
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(student, DataLoader(batches, batch_size=None))
    path = tmp_path / "student.ckpt"
    trainer.save_checkpoint(path)
    torch.load(path, weights_only=True)
    again = kind.cls.load_from_checkpoint(path, weights_only=True)
    assert again.prior_correction == 0.5
    x = batches[0].x
    with torch.no_grad():
        for one, other in zip(student.eval().predict(x), again.eval().predict(x), strict=True):
            assert torch.equal(one, other)


# --- vision ---------------------------------------------------------------------------------------


def fit(student: Classifier, x: Tensor, y: Tensor, steps: int) -> None:
    stream = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    for step in range(steps):
        rows = torch.randint(len(y), (32,), generator=stream)
        loss = student.private_loss(Batch(x[rows], y[rows], rows, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_reads_handwriting() -> None:
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels).float().view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[:1200], order[1200:]
    with keyed(0):
        student = VisionStudent(10)
    fit(student, x[train], y[train], 150)
    accuracy = (student.eval()(x[test]).argmax(1) == y[test]).float().mean()
    assert accuracy > 0.95


@pytest.mark.parametrize("size", [8, 15, 28, 32])
def test_small_cnn_reads_any_size(size: int) -> None:
    assert VisionStudent(3, in_chans=2).embed(torch.randn(2, 2, size, size)).shape == (2, 64)


def test_images_are_resized_bilinearly() -> None:
    """A linear ramp stays a linear ramp between the outermost pixel centres."""
    student = VisionStudent(3, image_size=16)
    seen = []
    student.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    student.embed(torch.arange(8.0).expand(1, 1, 8, 8))
    (image,) = seen
    centres = (torch.arange(16) + 0.5) / 2 - 0.5  # of the new pixels, in the old ones' coordinates
    torch.testing.assert_close(image[0, 0], centres.clamp(0, 7).expand(16, 16))


def test_width_sets_the_channels() -> None:
    # 3x3 kernels 1 -> w -> 2w -> 4w without bias, scale and shift of 7w channels, and a head.
    for w in (4, 10):
        weights = 9 * (w + 2 * w * w + 8 * w * w) + 2 * 7 * w + (4 * w + 1) * CLASSES
        assert sum(p.numel() for p in VisionStudent(CLASSES, width=w).parameters()) == weights


def test_group_normalisation_leaves_no_statistics() -> None:
    assert {n for n, _ in VisionStudent(3).named_buffers()} == {"log_prior"}


def test_a_transformer_backbone_takes_the_image_size() -> None:
    student = VisionStudent(3, backbone="vit_tiny_patch16_224", image_size=32)
    assert student.predict(torch.randn(2, 1, 8, 8)).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "resnet10tt"}, "did you mean resnet10t"),
        ({"backbone": "small_cn"}, "small_cnn"),
        ({"backbone": "vit_tiny_patch16_224"}, "set image_size"),
        ({"backbone": "resnet10t", "width": 8}, "width would have no effect"),
        ({"pretrained": True}, "pretrained would have no effect"),
    ],
)
def test_vision_explains_mistakes_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        VisionStudent(3, **settings)
    assert "\n" not in str(error.value)


# --- audio ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "n_fft", "hop", "mels"), [(1000, 256, 128, 32), (777, 200, 50, 12)])
def test_mel_spectrogram_is_torchaudios(samples: int, n_fft: int, hop: int, mels: int) -> None:
    x = torch.randn(3, samples, generator=torch.Generator().manual_seed(0))
    front = LogMel(sample_rate=8000, n_fft=n_fft, hop=hop, mels=mels)
    reference = torchaudio.transforms.MelSpectrogram(8000, n_fft=n_fft, hop_length=hop, n_mels=mels)(x)
    torch.testing.assert_close(front.power(x).transpose(1, 2), reference, rtol=1e-4, atol=1e-4)


def test_log_mel_is_normalised_and_silence_is_zero() -> None:
    front = LogMel(sample_rate=8000, n_fft=256, hop=128, mels=32)
    x = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
    out = front(torch.cat([x, torch.zeros(1, 2000)]))
    torch.testing.assert_close(out[:2].mean((1, 2)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(out[:2].std((1, 2), correction=0), torch.ones(2), atol=1e-3, rtol=0)
    assert out[2].abs().max() < 1e-3


def test_front_end_is_neither_saved_nor_sent() -> None:
    assert not [name for name in AudioStudent(3).state_dict() if "front" in name]


@pytest.mark.parametrize("settings", [{}, {"transformers": WAV2VEC2}])
def test_loudness_does_not_matter(settings: dict[str, Any]) -> None:
    student = AudioStudent(3, **settings).eval()
    x = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(student(x), student(x * 3), atol=1e-3, rtol=1e-3)


def test_tells_tones_apart() -> None:
    def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
        stream = torch.Generator().manual_seed(seed)
        y = torch.randint(4, (count,), generator=stream)
        pitch = 300.0 * (y + 1) * (1 + 0.1 * torch.rand(count, generator=stream))
        phase = torch.rand(count, generator=stream)
        time = torch.arange(2000) / 8000
        x = (2 * torch.pi * (pitch[:, None] * time + phase[:, None])).sin()
        return x + torch.randn(count, 2000, generator=stream), y

    with keyed(0):
        student = AudioStudent(4)
    fit(student, *tones(256, 0), 60)
    x, y = tones(256, 1)
    assert (student.eval()(x).argmax(1) == y).float().mean() > 0.95


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"transformers": BERT}])
def test_more_padding_changes_nothing(settings: dict[str, Any]) -> None:
    student = TextStudent(3, vocabulary=64, **settings).double().eval()
    x = torch.randint(1, 64, (4, 6), generator=torch.Generator().manual_seed(0))
    longer = torch.cat([x, torch.zeros(4, 5, dtype=torch.long)], 1)
    with torch.no_grad():
        torch.testing.assert_close(student(x), student(longer), rtol=1e-10, atol=1e-12)
        assert not torch.allclose(student(x), student(x.flip(1)))  # and order does matter


@pytest.mark.parametrize("settings", [{}, {"transformers": BERT}])
def test_an_empty_text_has_finite_logits_and_gradients(settings: dict[str, Any]) -> None:
    student = TextStudent(3, vocabulary=64, **settings)
    student(torch.zeros(2, 6, dtype=torch.long)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


def test_spells() -> None:
    """Words from noisy letters: one letter in each word is replaced by any other."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

    def spelled(count: int, seed: int) -> tuple[Tensor, Tensor]:
        stream = torch.Generator().manual_seed(seed)
        y = torch.randint(10, (count,), generator=stream)
        x = torch.zeros(count, 16, dtype=torch.long)
        for row, word in zip(x, y.tolist(), strict=True):
            letters = torch.tensor([ord(c) for c in words[word]])
            letters[torch.randint(len(letters), (1,), generator=stream)] = int(
                torch.randint(97, 123, (1,), generator=stream)
            )
            start = int(torch.randint(16 - len(letters), (1,), generator=stream))
            row[:start] = ord(" ")
            row[start : start + len(letters)] = letters
        return x, y

    with keyed(0):
        student = TextStudent(10)
    fit(student, *spelled(800, 0), 150)
    x, y = spelled(400, 1)
    # A third of "one", "two" and "six" is lost, so some words cannot be told with certainty.
    assert (student.eval()(x).argmax(1) == y).float().mean() > 0.85


# --- transformers ---------------------------------------------------------------------------------


def test_weight_norm_is_torchs() -> None:
    with keyed(0):
        layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3), dim=2)
    (ours,) = [WeightNorm(step.dim) for step in layer.parametrizations.weight]
    norm, direction = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    scaled = norm * torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(ours(scaled, direction), torch._weight_norm(direction, scaled, 2))


@pytest.mark.parametrize(
    ("cls", "config"), [(AudioStudent, WAV2VEC2), (TextStudent, {**BERT, "vocab_size": 64})]
)
def test_starts_from_a_pretrained_folder(cls: Any, config: dict[str, Any], tmp_path: Path) -> None:
    donor = cls(CLASSES, transformers=config)
    folder = tmp_path / "model"
    donor.encoder.model.save_pretrained(folder)
    student = cls(CLASSES, pretrained=str(folder))
    assert student.encoder.training
    assert all(m.training for m in student.modules())
    for (name, given), got in zip(
        donor.encoder.state_dict().items(), student.encoder.state_dict().values(), strict=True
    ):
        assert torch.equal(given, got), name
    # A checkpoint of it needs the folder no more.
    path = tmp_path / "student.ckpt"
    torch.save(
        {
            "state_dict": student.state_dict(),
            "hyper_parameters": dict(student.hparams),
            "pytorch-lightning_version": "2.6.0",
        },
        path,
    )
    (folder / "config.json").unlink()
    again = cls.load_from_checkpoint(path, weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transformers": {**BERT, "model_type": "brt"}}, "did you mean .*bert"),
        ({"transformers": {"hidden_size": 3}}, "model_type"),
        ({"transformers": {**BERT, "hiden_size": 3}}, "did you mean hidden_size"),
        ({"transformers": BERT, "pretrained": "somewhere"}, "remove transformers or pretrained"),
        ({"transformers": BERT, "width": 8}, "width would have no effect"),
        ({"pretrained": "/no/such/folder"}, "no pretrained model at '/no/such/folder'"),
        ({"transformers": {**WAV2VEC2, "layerdrop": 0.1}}, "layerdrop draws random numbers"),
    ],
)
def test_a_wrong_configuration_is_explained_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        TextStudent(3, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("samples", "fits"), [(128, False), (129, True)])
def test_a_recording_must_be_longer_than_half_a_frame(samples: int, fits: bool) -> None:
    # Its ends are mirrored by 128 samples, for which 129 are needed.
    student = AudioStudent(3, n_fft=256, hop=128)
    if fits:
        assert student(torch.randn(2, samples)).shape == (2, 3)
    else:
        with pytest.raises(ValueError, match="a recording of 128 samples is too short"):
            student(torch.randn(2, samples))
