"""Augmentations: what they keep, how far they go, and that a sample's own stream alone decides."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import pytest
import torch
from torch import Tensor

from mmkd.augmentation import Affine, Jitter, Masks, Noise, RandAugment, Rotation, TokenDropout, Typos, Warp
from mmkd.augmentation.base import changed, check
from mmkd.functional.random import generator, key, normals, scores_of_step, streams_of, uniforms
from mmkd.types import SHOWN, ConfigError, Padded

SAMPLES = 12
STREAMS = scores_of_step(torch.arange(SAMPLES), 0)


def draw(*shape: int) -> Tensor:
    return torch.rand(SAMPLES, *shape, generator=generator("augmented"))


def words(length: int = 9) -> Tensor:
    """Texts of no tokens to ``length``, all of which differ."""
    place = torch.arange(length)
    lengths = torch.arange(SAMPLES) % (length + 1)
    return (place + 1 + 20 * torch.arange(SAMPLES)[:, None]) * (place < lengths[:, None])


CASES: dict[str, tuple[Any, Any]] = {
    "Affine": (Affine(flip=True), draw(3, 9, 7)),
    "RandAugment": (RandAugment(), draw(3, 12, 12)),
    "Warp": (Warp(), draw(400) - 0.5),
    "Noise": (Noise(), draw(400) - 0.5),
    "Masks": (Masks(), draw(400) - 0.5),
    "Typos": (Typos(0.7, 0.7), words()),
    "TokenDropout": (TokenDropout(0.3), words()),
    "Jitter": (Jitter(), draw(6, 40)),
    "Rotation": (Rotation(), draw(6, 40)),
}
EACH = pytest.mark.parametrize(("change", "x"), CASES.values(), ids=CASES)


@EACH
def test_a_sample_is_changed_by_its_own_stream_alone(change: Any, x: Tensor) -> None:
    """Bit for bit, whoever is beside it, and in whatever place; the samples given stay as they are."""
    before = x.clone()
    whole = change(x, STREAMS)
    assert torch.equal(x, before)
    assert whole.shape == x.shape
    assert whole.dtype == x.dtype
    assert not torch.equal(whole, x)
    order = torch.randperm(SAMPLES, generator=generator("order"))
    assert torch.equal(change(x[order], STREAMS[order]), whole[order])
    for i in (0, 7):
        assert torch.equal(change(x[i : i + 1], STREAMS[i : i + 1])[0], whole[i])
    other = change(x, scores_of_step(STREAMS, 1))
    assert not torch.equal(other, whole)


@pytest.mark.parametrize(
    ("change", "x"),
    [
        (Affine(0.0, 0.0, 0.0), draw(3, 8, 8)),
        (Warp(0.0, 0.0), draw(100)),
        (Masks(0.0, 0.0), draw(100)),
        (Typos(0.0, 0.0), words()),
        (TokenDropout(0.0), words()),
        (Jitter(0.0, 0.0), draw(3, 8)),
        (Rotation(0.0), draw(3, 8)),
    ],
)
def test_changes_by_nothing_change_nothing(change: Any, x: Tensor) -> None:
    torch.testing.assert_close(change(x, STREAMS), x, rtol=1e-5, atol=1e-6)


# --- random numbers --------------------------------------------------------------------------------


def test_uniform_and_normal_numbers_are_what_they_are_called() -> None:
    """Means and variances within five standard errors, neighbours without correlation."""
    n = 100_000
    for drawn, mean, variance in ((uniforms(STREAMS, n), 0.5, 1 / 12), (normals(STREAMS, n), 0.0, 1.0)):
        error = (variance / drawn.numel()) ** 0.5
        assert abs(float(drawn.mean()) - mean) < 5 * error
        assert float(drawn.var()) == pytest.approx(variance, rel=0.01)
        beside = (drawn[:, 1:] - mean) * (drawn[:, :-1] - mean)
        assert abs(float(beside.mean())) < 5 * variance / beside.numel() ** 0.5
    assert float(uniforms(STREAMS, n).min()) >= 0
    assert float(uniforms(STREAMS, n).max()) < 1


def test_streams_differ_by_batch_purpose_and_place() -> None:
    keys = torch.tensor([5, 6])
    all_ = torch.cat([streams_of(keys, key("a"), 4).flatten(), streams_of(keys, key("b"), 4).flatten()])
    assert len(all_.unique()) == 16
    assert torch.equal(streams_of(keys, key("a"), 4)[1], streams_of(torch.tensor(6), key("a"), 4))
    assert torch.equal(streams_of(keys, key("a"), 9)[:, :4], streams_of(keys, key("a"), 4))


# --- images ----------------------------------------------------------------------------------------


def test_an_image_moves_turns_and_grows_no_further_than_it_may() -> None:
    """A bright spot, found by its centre of mass, on a dark ground."""
    size = 41
    where = torch.arange(size) - size // 2.0
    spot = torch.exp(-((where[:, None] - 8) ** 2 + (where - 4) ** 2) / 8)[None, None].expand(64, 1, -1, -1)
    streams = scores_of_step(torch.arange(64), 3)

    def centre(image: Tensor) -> Tensor:
        mass = image[:, 0] / image[:, 0].sum((1, 2), keepdim=True)
        return torch.stack([(mass.sum(2) * where).sum(1), (mass.sum(1) * where).sum(1)], 1)

    home = torch.tensor([8.0, 4.0])
    moved = centre(Affine(0.1, 0.0, 0.0)(spot, streams)) - home
    assert float(moved.abs().max()) < 0.1 * size + 0.1
    assert float(moved.abs().max()) > 0.07 * size
    assert float(moved.mean(0).abs().max()) < 1.0
    turned = centre(Affine(0.0, 30.0, 0.0)(spot, streams))
    assert torch.allclose(turned.norm(dim=1), home.norm(), atol=0.1)
    angle = torch.atan2(turned[:, 0], turned[:, 1]) - torch.atan2(home[0], home[1])
    assert 25 < float(angle.abs().max()) * 180 / pi < 30.5
    grown = centre(Affine(0.0, 0.0, 0.2)(spot, streams)).norm(dim=1) / home.norm()
    assert 0.79 < float(grown.min()) < 0.85
    assert 1.15 < float(grown.max()) < 1.21
    mirrored = centre(Affine(0.0, 0.0, 0.0, flip=True)(spot, streams))[:, 1]
    assert torch.allclose(mirrored.abs(), home[1], atol=1e-3)
    assert 16 < int((mirrored < 0).sum()) < 48


def test_what_comes_in_at_an_edge_looks_like_the_edge() -> None:
    x = torch.full((SAMPLES, 1, 8, 8), 0.7)
    torch.testing.assert_close(Affine(0.5, 45.0, 0.5)(x, STREAMS), x)


def test_only_images_of_floats_are_changed() -> None:
    for change in (Affine(), RandAugment()):
        for x in (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 64)):
            with pytest.raises((ConfigError, TypeError)):
                change(x, STREAMS[:2])


# --- sounds ----------------------------------------------------------------------------------------


def test_a_sound_is_faster_and_later_by_no_more_than_it_may() -> None:
    """A click about the middle moves, and a tone changes its pitch."""
    click = torch.zeros(64, 401)
    click[:, 200] = 1.0
    streams = scores_of_step(torch.arange(64), 3)
    at = Warp(0.1, 0.0)(click, streams).argmax(1) - 200
    assert 30 < int(at.abs().max()) <= 41
    tone = torch.sin(2 * pi * 40 * torch.arange(1000) / 1000).expand(64, -1)
    faster = torch.fft.rfft(Warp(0.0, 0.2)(tone, streams)).abs().argmax(1)
    assert 32 <= int(faster.min()) < 35
    assert 45 < int(faster.max()) <= 48


@pytest.mark.parametrize(("low", "high"), [(10.0, 10.0), (0.0, 20.0)])
def test_noise_has_the_ratio_that_was_drawn(low: float, high: float) -> None:
    x = torch.sin(torch.arange(20_000) / 7).expand(SAMPLES, -1)
    noise = Noise(low, high)(x, STREAMS) - x
    ratio = 10 * torch.log10(x.square().mean(1) / noise.square().mean(1))
    drawn = low + (high - low) * uniforms(STREAMS, 1)[:, 0]
    assert torch.allclose(ratio.double(), drawn, atol=0.2)
    with pytest.raises(ConfigError, match="low is at most high"):
        Noise(3.0, 2.0)


def test_a_stretch_and_a_band_are_silenced() -> None:
    x = torch.randn(SAMPLES, 1000, generator=generator("white"))
    gone = (Masks(0.3, 0.0)(x, STREAMS) == 0).sum(1)
    drawn = (uniforms(STREAMS, 4)[:, 2] * 0.3 * 1000).floor()
    assert torch.equal(gone.double(), drawn)
    power = torch.fft.rfft(Masks(0.0, 0.3)(x, STREAMS)).abs()
    quiet = (power < 1e-3).sum(1)
    assert torch.equal(quiet.double(), (uniforms(STREAMS, 4)[:, 0] * 0.3 * 501).floor())


# --- texts -----------------------------------------------------------------------------------------


def tokens(x: Tensor) -> list[list[int]]:
    return [[int(t) for t in row if t] for row in x]


def test_a_swap_exchanges_two_neighbours_and_never_the_first() -> None:
    x = words()
    for before, after in zip(tokens(x), tokens(Typos(1.0, 0.0)(x, STREAMS)), strict=True):
        if len(before) < 3:
            assert after == before
            continue
        odd = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert len(odd) == 2
        assert 0 < odd[0] == odd[1] - 1
        assert sorted(before) == sorted(after)


def test_a_drop_takes_one_token_and_never_the_first_and_closes_the_gap() -> None:
    x = words()
    made = Typos(0.0, 1.0)(x, STREAMS)
    for before, after, row in zip(tokens(x), tokens(made), made, strict=True):
        assert len(after) == len(before) - (len(before) >= 3)
        assert after == [t for t in before if t in after]
        assert after[:1] == before[:1]
        assert not bool(row[len(after) :].any())


def test_every_place_is_reached() -> None:
    """Each but the first, by swaps and by drops."""
    x = torch.arange(1, 6).expand(400, -1)
    streams = scores_of_step(torch.arange(400), 1)
    swapped = Typos(1.0, 0.0)(x, streams) != x
    assert swapped.any(0).tolist() == [False, True, True, True, True]
    dropped = Typos(0.0, 1.0)(x, streams)
    assert {int(x[0].sum() - row.sum()) for row in dropped} == {2, 3, 4, 5}


def test_token_dropout_drops_its_share() -> None:
    x = torch.ones(500, 21, dtype=torch.long)
    kept = (TokenDropout(0.3)(x, scores_of_step(torch.arange(500), 1)) != 0).sum(1).double()
    assert float(kept.mean()) == pytest.approx(1 + 20 * 0.7, abs=5 * (20 * 0.21 / 500) ** 0.5)
    assert float(kept.min()) >= 1


# --- motions ---------------------------------------------------------------------------------------


def test_a_rotation_keeps_lengths_and_angles_and_turns_all_devices_alike() -> None:
    x = draw(6, 30) - 0.5
    made = Rotation(40.0)(x, STREAMS)
    for part in (slice(0, 3), slice(3, 6)):
        torch.testing.assert_close(made[:, part].norm(dim=1), x[:, part].norm(dim=1))
    one = torch.linalg.lstsq(x[0, :3].T, made[0, :3].T).solution
    other = torch.linalg.lstsq(x[0, 3:].T, made[0, 3:].T).solution
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert float(torch.linalg.det(one)) == pytest.approx(1, abs=1e-4)
    drawn = float(normals(STREAMS[:1], 4)[0, 3]) * 40 * pi / 180
    assert float(one.trace()) == pytest.approx(1 + 2 * cos(drawn), abs=1e-3)
    assert abs(drawn) > 0.01
    with pytest.raises(ConfigError, match="4 channels"):
        Rotation()(draw(4, 30), STREAMS)


def test_jitter_is_as_loud_as_the_channel() -> None:
    x = draw(3, 4000) * torch.tensor([1.0, 10.0, 0.0])[:, None]
    added = Jitter(0.1, 0.0)(x, STREAMS) - x
    torch.testing.assert_close(added.std(-1), 0.1 * x.std(-1), rtol=0.05, atol=1e-6)
    factor = Jitter(0.0, 0.5)(x, STREAMS)[:, 0] / x[:, 0]
    assert float(factor.std(1).max()) < 1e-4
    assert float(factor[:, 0].std()) > 0.1


# --- chains ----------------------------------------------------------------------------------------


def test_views_go_through_the_chain_of_their_modality() -> None:
    """Of several views each through its own; whether a view is there is no view."""
    keys = torch.tensor([3, 4])
    image, text = torch.rand(2, 5, 1, 6, 6, generator=generator("two")), words()[:10].view(2, 5, -1)
    augment: dict[str, Any] = {"image": [Affine(), Affine(0.0, 90.0)], "text": [Typos(1.0, 0.0)]}
    x = {"image": image, "text": text, SHOWN + "image": torch.ones(2, 5, dtype=torch.bool)}
    made = changed(x, "image+text", keys, 5, augment)
    assert torch.equal(made["image"], changed(image, "image", keys, 5, augment))
    assert torch.equal(made["text"], changed(text, "text", keys, 5, augment))
    assert made[SHOWN + "image"] is x[SHOWN + "image"]
    for row in range(2):
        assert torch.equal(made["image"][row], changed(image[row], "image", keys[row], 5, augment))
    assert changed(image, "image", keys, 5, {"text": [Typos()]}) is image
    twice = changed(image, "image", keys, 5, {"image": [Affine(), Affine()]})
    once = changed(image, "image", keys, 5, {"image": [Affine()]})
    assert not torch.equal(twice, changed(once, "image", keys, 5, {"image": [Affine()]}))  # streams differ


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="names 'audio'; these data have image"):
        check({"audio": [Warp()]}, ["image"])
    with pytest.raises(ConfigError, match="Warp changes samples of 'audio', and not of 'image'"):
        check({"image": [Warp()]}, ["image"])
    check({"acceleration": [Jitter(), Rotation()]}, ["acceleration"])  # of whatever sensor
    ragged = Padded(torch.zeros(2, 5), torch.tensor([5, 3]))
    with pytest.raises(ConfigError, match="Warp changes samples of one length"):
        changed(ragged, "audio", torch.tensor(1), 2, {"audio": [Warp()]})
