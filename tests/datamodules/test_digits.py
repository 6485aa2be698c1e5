"""Trimodal digits: shapes, parts that share nothing, owners, and the same data everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from datamodules.digits import TrimodalDigits
from datamodules.digits import trimodal as digits
from datamodules.digits.spelling import LENGTH, VOCABULARY, WORDS, decode, encode, typed
from mmkd.data.partition import IID, Dirichlet, Shards
from mmkd.types import ConfigError

ROOT = Path(__file__).parents[2]
CACHE = str(ROOT / ".cache" / "digits")
FLEETS = {"cameras": "image", "microphones": "audio", "phones": "text"}
PEERS = {f"{fleet}/{i}": modality for fleet, modality in FLEETS.items() for i in range(4)}


def make(**kwargs: Any) -> TrimodalDigits:
    return TrimodalDigits(**{"peers": PEERS, "cache": CACHE, **kwargs})


def pool(data: TrimodalDigits, fleet: str) -> tuple[Tensor, Tensor, Tensor]:
    """All private samples of a modality, ordered by id."""
    own = [data.private(peer, "train") for peer in data.peers if peer.startswith(fleet)]
    x, y, ids = (torch.cat([getattr(samples, name) for samples in own]) for name in ("x", "y", "ids"))
    order = ids.argsort()
    return x[order], y[order], ids[order]


def views(data: TrimodalDigits, fleet: str) -> dict[str, Tensor]:
    """What each part shows of a modality."""
    held_out = {split: data.private(f"{fleet}/0", split).x for split in ("val", "test")}
    return {"private": pool(data, fleet)[0], "public": data.public("train").views[FLEETS[fleet]], **held_out}


def digest(data: TrimodalDigits) -> str:
    """Of all that the data hold."""
    total = hashlib.sha256()
    for peer in sorted(data.peers):
        for split in ("train", "val", "test"):
            samples = data.private(peer, split)
            for tensor in (samples.x, samples.y, samples.ids):
                total.update(tensor.contiguous().numpy().tobytes())
    for _, view in sorted(data.public("train").views.items()):
        total.update(view.contiguous().numpy().tobytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def data() -> TrimodalDigits:
    return make()


@pytest.fixture(scope="module")
def clean() -> TrimodalDigits:
    """Sound and words as they should be."""
    return make(snr=(200.0, 200.0), typos=0.0)


def test_shapes_and_ranges(data: TrimodalDigits) -> None:
    shapes = {"cameras": (1, 8, 8), "microphones": (4096,), "phones": (12,)}
    for fleet, shape in shapes.items():
        for part, size in {"private": 1797 - 400 - 180 - 360, "public": 400, "val": 180, "test": 360}.items():
            x = views(data, fleet)[part]
            assert x.shape == (size, *shape)
            assert x.dtype == (torch.long if fleet == "phones" else torch.float32)
    image, sound, text = (torch.cat(list(views(data, fleet).values())) for fleet in FLEETS)
    assert image.amin() == 0
    assert image.amax() == 1
    assert torch.equal(sound.abs().amax(1), torch.ones(1797))
    assert text.amin() == 0
    assert text.amax() < VOCABULARY
    assert data.sample_rate == 8000
    assert data.num_classes == 10


def test_every_scan_is_in_one_part(data: TrimodalDigits) -> None:
    scans = load_digits()
    seen = {}
    for fleet in FLEETS:
        parts = [pool(data, fleet)[1:]]
        parts += [(s.y, s.ids) for s in (data.private(f"{fleet}/0", split) for split in ("val", "test"))]
        y, ids = (torch.cat(column) for column in zip(*parts, strict=True))
        assert len(ids.unique()) == len(ids) == 1397
        assert torch.equal(y, torch.from_numpy(scans.target)[ids])
        seen[fleet] = ids
    assert torch.equal(seen["cameras"].sort().values, seen["phones"].sort().values)
    # The scans that are left over are the public ones.
    rest = torch.ones(1797, dtype=torch.bool)
    rest[seen["cameras"]] = False
    public = data.public("train").views["image"].squeeze(1)
    assert torch.equal(public, torch.from_numpy(scans.images).float()[rest] / 16)


def test_parts_are_stratified(data: TrimodalDigits) -> None:
    whole = torch.bincount(torch.from_numpy(load_digits().target))
    for y in (pool(data, "cameras")[1], *(data.private("cameras/0", split).y for split in ("val", "test"))):
        # Each of the two cuts that bound a part rounds a class by less than one.
        assert ((torch.bincount(y) - whole * len(y) / 1797).abs() < 2).all()


def test_no_string_is_in_two_parts(data: TrimodalDigits, clean: TrimodalDigits) -> None:
    for typing in (data, clean, make(typos=1.0, seed=3)):
        strings = [set(decode(x)) for x in views(typing, "phones").values()]
        assert sum(map(len, strings)) == len(set().union(*strings))


def test_without_errors_every_part_has_words_for_every_digit(clean: TrimodalDigits) -> None:
    words = [{spelt[digit] for spelt in WORDS.values()} for digit in range(10)]
    for text, y in [pool(clean, "phones")[:2]] + [
        (s.x, s.y) for s in (clean.private("phones/0", split) for split in ("val", "test"))
    ]:
        assert all(word in words[digit] for word, digit in zip(decode(text), y.tolist(), strict=True))
        assert set(y.tolist()) == set(range(10))


def test_typing_errors_come_as_often_as_asked() -> None:
    labels = {"private": torch.arange(10).repeat(400)}
    words = [{spelt[digit] for spelt in WORDS.values()} for digit in range(10)]
    texts = typed(labels, languages=sorted(WORDS), typos=0.3, seed=0)["private"]
    right = sum(text in words[y] for text, y in zip(texts, labels["private"].tolist(), strict=True))
    # Two errors that may or may not happen leave 0.7^2 of the words; an error seldom makes another correct
    # word, changes nothing (a letter by itself: 1/26; a swap of equal letters or of the last one with
    # nothing: at most one in two) or makes a string that is dropped.
    deviation = (4000 * 0.49 * 0.51) ** 0.5
    assert 4000 * 0.49 - 6 * deviation < right < 4000 * (0.49 + 0.51 * (1 / 26 + 1 / 2) / 2) + 6 * deviation


def test_words_mean_one_digit_and_fit() -> None:
    meaning: dict[str, int] = {}
    for words in WORDS.values():
        assert len(words) == 10
        for digit, word in enumerate(words):
            assert meaning.setdefault(word, digit) == digit
            assert len(word) + 2 <= LENGTH  # two insertions
    texts = sorted(meaning)
    assert decode(encode(texts)) == texts


def test_no_voice_is_in_two_parts_and_each_says_its_digit(clean: TrimodalDigits) -> None:
    heard = [set(voices) for voices in clean.voices.values()]
    assert sum(map(len, heard)) == len(set().union(*heard))
    # The magnitude of the spectrum does not change when silence moves from the end to the start: by it,
    # every sound is found among the recordings, whose voice and digit are known.
    known = _magnitude(digits._speech(CACHE).wave.float())
    labels = {"private": pool(clean, "microphones")[1]}
    labels |= {split: clean.private("microphones/0", split).y for split in ("val", "test")}
    for part, wave in views(clean, "microphones").items():
        likeness, row = (_magnitude(wave) @ known.T).max(1)
        assert likeness.min() > 0.9999
        voice, digit = row // (10 * digits.TAKES), row // digits.TAKES % 10
        assert {digits.VOICES[i] for i in voice.tolist()} == set(clean.voices[part])
        if part in labels:
            assert torch.equal(digit, labels[part])


def _magnitude(wave: Tensor) -> Tensor:
    return torch.nn.functional.normalize(torch.fft.rfft(wave).abs(), dim=1)


def test_no_noise_is_heard_twice() -> None:
    # 60 dB above speech, noise is all there is.
    noise = torch.cat(list(views(make(snr=(-60.0, -60.0)), "microphones").values()))
    noise = torch.nn.functional.normalize(noise - noise.mean(1, keepdim=True), dim=1)
    alike = (noise @ noise.T).fill_diagonal_(0)
    # Independent noises correlate by 4096^-1/2 in the root mean square; 1.6 million pairs, 7 deviations.
    assert alike.abs().max() < 7 / 4096**0.5


@pytest.mark.parametrize("decibel", [0.0, 20.0])
def test_signal_to_noise_ratio_is_what_was_asked(clean: TrimodalDigits, decibel: float) -> None:
    speech = clean.private("microphones/0", "test").x.double()
    noisy = make(snr=(decibel, decibel)).private("microphones/0", "test").x.double()
    scale = (noisy * speech).sum(1, keepdim=True) / speech.square().sum(1, keepdim=True)
    rest = noisy - scale * speech
    loud = speech.abs() > 1e-4
    first, last = loud.int().argmax(1), 4095 - loud.flip(1).int().argmax(1)
    power = (scale * speech).square().sum(1) / (last - first + 1)
    measured = 10 * (power / rest.square().mean(1)).log10()
    # The power of 4096 draws deviates by sqrt(2 / 4096), 0.1 dB; the scale by less, since speech is not noise.
    assert (measured - decibel).abs().max() < 1.0
    assert (measured - decibel).mean().abs() < 0.1


def test_public_samples_carry_no_labels(data: TrimodalDigits) -> None:
    public = data.public("train")
    assert set(vars(public)) == {"views", "shown", "looked_through"}
    assert set(public.views) == set(public.shown) == set(data.modalities)
    assert torch.equal(public.take(torch.arange(400)).ids, torch.arange(400))
    assert all(shown.all() for shown in public.shown.values())


def test_every_private_sample_has_one_owner_in_each_modality(data: TrimodalDigits) -> None:
    owners = []
    for fleet in FLEETS:
        own = [data.private(f"{fleet}/{i}", "train") for i in range(4)]
        assert min(map(len, own)) >= 32
        owner = torch.full((1797,), -1)
        for i, samples in enumerate(own):
            assert (owner[samples.ids] == -1).all()
            owner[samples.ids] = i
        owners.append(owner)
    image, audio, text = owners
    assert torch.equal(image >= 0, audio >= 0)
    assert torch.equal(image >= 0, text >= 0)
    assert not torch.equal(image, audio)
    assert not torch.equal(audio, text)


def test_held_out_samples_are_one_object(data: TrimodalDigits) -> None:
    for split in ("val", "test"):
        for fleet in FLEETS:
            assert len({id(data.private(f"{fleet}/{i}", split)) for i in range(4)}) == 1


def test_names_and_their_order_are_nothing_while_ids_stay(data: TrimodalDigits) -> None:
    renamed = make(peers=None)
    names = {f"{peer}, renamed": peer for peer in reversed(PEERS)}
    renamed.assign({name: PEERS[peer] for name, peer in names.items()}, names)
    for name, peer in names.items():
        assert torch.equal(renamed.private(name, "train").ids, data.private(peer, "train").ids)


def test_peers_of_one_modality_change_nothing_in_another(data: TrimodalDigits) -> None:
    other = make(peers={"cameras/0": "image", **{p: m for p, m in PEERS.items() if m != "image"}})
    for peer in other.peers:
        mine, theirs = other.private(peer, "train"), data.private(peer, "train")
        assert torch.equal(mine.ids, theirs.ids) == (peer != "cameras/0")
        assert torch.equal(other.private(peer, "test").x, data.private(peer, "test").x)
    assert len(other.private("cameras/0", "train")) == 857


def test_new_peers_get_new_shares() -> None:
    data = make()
    assert len(data.private("phones/0", "train")) < 857
    data.assign({"phones/0": "text"})
    assert len(data.private("phones/0", "train")) == 857


def test_partitions_and_sizes_are_the_users() -> None:
    data = make(partition=IID(), public=700, val=50, test=100)
    assert [len(data.private(f"phones/{i}", "train")) for i in range(4)] == [237, 237, 237, 236]
    assert len(data.public("train")) == 700
    # 4 shards a peer, each of about 59 of some 94 samples of a class: two classes a shard at most.
    skewed = make(partition=Shards(4), public=700, val=50, test=100)
    assert all((skewed.label_counts(peer) > 0).sum() <= 8 for peer in PEERS)


def test_the_seed_draws_everything(data: TrimodalDigits) -> None:
    other = make(seed=1)
    assert not torch.equal(other.private("cameras/0", "test").ids, data.private("cameras/0", "test").ids)
    assert other.voices != data.voices
    for fleet in ("microphones", "phones"):
        assert not torch.equal(other.private(f"{fleet}/0", "test").x, data.private(f"{fleet}/0", "test").x)


def test_drawing_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    make(seed=5).private("phones/0", "train")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_references_learn_from_what_all_own(data: TrimodalDigits) -> None:
    x, y, _ = pool(data, "cameras")
    test = data.private("cameras/0", "test")
    nearest = torch.cdist(test.x.flatten(1).double(), x.flatten(1).double()).argmin(1)
    agreement = float((y[nearest] == test.y).double().mean())
    found = data.references("image")
    assert found["nearest_neighbour"] == pytest.approx(agreement, abs=1 / 360)  # one tie, at most
    # Guessing scores 0.1 +- sqrt(0.09 / 360); six deviations above it something was recognised.
    few = make(public=1100)  # 157 private samples teach enough
    for scores in (found, few.references("audio"), few.references("text")):
        for score in scores.values():
            assert 0.1 + 6 * (0.09 / 360) ** 0.5 < score < 1


def test_labelled_public_samples_are_private_too(data: TrimodalDigits) -> None:
    """The ceiling owns 857 private and 400 public samples; test and validation stay apart."""
    whole = make(public_labelled=True, peers={"cameras/0": "image", "phones/0": "text"})
    own = whole.private("cameras/0", "train")
    assert len(own) == 1797 - 180 - 360
    assert not set(own.ids.tolist()) & set(whole.private("cameras/0", "test").ids.tolist())
    label_of = {x.numpy().tobytes(): int(y) for x, y in zip(own.x, own.y, strict=True)}
    public = whole.public("train").views["image"]
    said = [label_of[x.numpy().tobytes()] for x in public]
    assert said == whole.public_labels().tolist()
    before = {x.numpy().tobytes() for x in data.private("cameras/0", "train").x}
    assert not before & {x.numpy().tobytes() for x in public}  # elsewhere they are nobody's


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"test": 0}, "test must be at least"),
        ({"public": 1797}, "are left as private samples"),
        ({"languages": ["en", "xx"]}, "no digits in 'xx'"),
        ({"typos": 1.5}, "typos must lie in"),
        ({"public_missing": -0.1}, "public_missing must lie in"),
        ({"snr": (10.0, 0.0)}, "lowest first"),
        ({"languages": ["en"], "typos": 0.0}, "too few spellings of 0"),
        (
            {"partition": Dirichlet(0.1, min_size=300)},
            "image samples cannot be partitioned: 4 peers cannot have 300",
        ),
    ],
)
def test_what_cannot_be_is_said_in_a_line(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(**arguments).private("cameras/0", "train")


ROBOTS = {"robots/0": "audio+image+text", "robots/1": "audio+image+text", "watches/0": "image+text"}


def test_peers_of_several_modalities_own_samples_with_all_of_these_views(data: TrimodalDigits) -> None:
    several = make(peers={**PEERS, **ROBOTS})
    own = [several.private(peer, "train") for peer in ("robots/0", "robots/1")]
    lonely = several.private("watches/0", "train")
    ids = torch.cat([samples.ids for samples in own])
    assert len(ids.unique()) == len(ids) == 857  # a partition of their own
    assert not torch.equal(own[0].ids, several.private("cameras/0", "train").ids)
    assert torch.equal(lonely.ids, pool(data, "cameras")[2])
    for samples, fleets in ((own[0], FLEETS), (own[1], FLEETS), (lonely, ["cameras", "phones"])):
        assert set(samples.x) == {FLEETS[fleet] for fleet in fleets}
        for fleet in fleets:
            x, y, known = pool(data, fleet)
            place = torch.searchsorted(known, samples.ids)
            assert torch.equal(samples.x[FLEETS[fleet]], x[place])
            assert torch.equal(samples.y, y[place])
    for peer in PEERS:  # nobody else noticed
        assert torch.equal(several.private(peer, "train").ids, data.private(peer, "train").ids)


def test_held_out_samples_of_several_modalities_are_those_of_each(data: TrimodalDigits) -> None:
    several = make(peers=ROBOTS)
    for split in ("val", "test"):
        samples = several.private("robots/0", split)
        assert several.private("robots/1", split) is samples
        assert set(samples.x) == set(data.modalities)
        for fleet, modality in FLEETS.items():
            single = data.private(f"{fleet}/0", split)
            assert torch.equal(samples.x[modality], single.x)
            assert torch.equal(samples.y, single.y)
            assert torch.equal(samples.ids, single.ids)


@pytest.mark.parametrize("chance", [0.4, 1.0])
def test_public_views_are_missing_as_often_as_asked(data: TrimodalDigits, chance: float) -> None:
    whole, public = data.public("train"), make(public=1000, public_missing=chance).public("train")
    shown = torch.stack([public.shown[m] for m in data.modalities])
    assert shown.any(0).all()
    # All three would go with p^3; one of them then stays.
    expected = 1 - chance + chance**3 / 3
    deviation = (expected * (1 - expected) / 1000) ** 0.5
    assert ((shown.double().mean(1) - expected).abs() < 5 * deviation).all()
    both, expected = shown[:2].all(0).double().mean(), (1 - chance) ** 2  # views go by themselves
    assert abs(both - expected) <= 5 * (expected * (1 - expected) / 1000) ** 0.5
    fewer = make(public_missing=chance).public("train")
    for m, view in whole.views.items():
        assert torch.equal(fewer.views[m][fewer.shown[m]], view[fewer.shown[m]])
        assert not fewer.views[m][~fewer.shown[m]].any()


def test_missing_public_views_change_nothing_else(data: TrimodalDigits) -> None:
    other = make(public_missing=0.5)
    for peer in PEERS:
        for split in ("train", "val", "test"):
            assert torch.equal(other.private(peer, split).x, data.private(peer, split).x)
    drawn = other.public("train").shown
    again, seeded = make(public_missing=0.5).public("train").shown, make(public_missing=0.5, seed=1)
    assert all(torch.equal(drawn[m], again[m]) for m in data.modalities)
    assert not torch.equal(drawn["image"], seeded.public("train").shown["image"])


def test_prepare_data_says_what_later_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "VOICES", digits.VOICES[:4])
    data = make(cache=str(tmp_path))
    data.prepare_data()
    (speech,) = tmp_path.iterdir()
    written = speech.stat().st_mtime_ns
    assert sorted(map(len, data.voices.values())) == [1, 1, 1, 1]
    assert speech.stat().st_mtime_ns == written
