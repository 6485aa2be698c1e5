"""The datamodule of scanned, spoken and typed digits, whose labels are 0 to 9."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from datamodules.digits.spelling import ALPHABET, WORDS, allot, decode, encode, typed
from datamodules.speech import Recordings, Utterance, record
from mmkd.bounds import Finite, Share, bounded
from mmkd.data.partition import Dirichlet, Partition
from mmkd.data.peers import PeerDataModule
from mmkd.data.samples import PublicSamples, Samples
from mmkd.data.texts import letters
from mmkd.functional.random import generator, key
from mmkd.types import ConfigError, Modality, PeerName

PARTS = ("private", "public", "val", "test")
"""Names of the parts of the data, which share no sample."""

SAMPLE_RATE = 8_000
"""Samples of sound per second."""
SAMPLES = 4_096
"""Length of a recording: 0.512 s."""
TAKES = 4
"""How often each voice says each digit; its accent, rate and pitch are drawn anew each time."""
ACCENTS = [
    "en",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-gb-x-rp",
    "en-us",
    "en-us-nyc",
]
"""Accents of English in eSpeak NG."""
_NAMES = """
    Alex Andrea Andy Annie Demonic Denis Diogo Gene Gene2 Hugo Jacky Lee Mario Michael Mike Nguyen Reed
    RicishayMax RicishayMax2 RicishayMax3 Storm Tweaky UniRobot adam anika announcer antonio aunty belinda
    boris caleb croak david ed edward f1 f2 f3 f4 f5 fast grandma grandpa gustave ian iven iven2 iven3
    klatt klatt3 linda m1 m2 m3 m4 m5 m7 m8 marcelo max mike2 norbert pablo paul pedro quincy
    rob robert robosoft robosoft2 robosoft4 robosoft6 robosoft8 sandro shelby steph travis victor whisper
    whisperf
"""
VOICES = _NAMES.split()
"""Voices of eSpeak NG.

Left out are those that sound like one of these (klatt6 is adam; steph2 and steph3 are steph) and those that
speak for longer than a recording lasts.
"""


@bounded
class TrimodalDigits(PeerDataModule):
    """1,797 scanned digits, each of which is also spoken and typed: "image", "audio" and "text".

    - image ``[1, 8, 8]`` float in 0 to 1: the scans of scikit-learn's ``load_digits``;
    - audio ``[4096]`` float, peak 1, at 8 kHz: the digit in English by one of 80 voices of eSpeak NG, in
      one of eight accents, at its own rate, pitch, position and signal-to-noise ratio (white noise);
    - text ``[12]`` character ids: its word in one of 22 languages, folded to 26 letters, with up to two
      typing errors.

    ``seed`` keys the draw of the parts (private, public, validation, test; stratified by class) and every
    draw after it. The parts share nothing: not a sample id, not a voice, not a typed string (a correct word
    belongs to one part, like every misspelling) and not a noise. Private samples are partitioned once
    for each modality, so that the image, the sound and the text of an id may have different owners.
    Peers that read several ("image+text") own samples of yet another partition, with all of these views.
    Public samples come without labels; ``public_labels`` returns them to a method that asks for them.

    Args:
        partition: decides who owns which private sample; ``Dirichlet(0.1, min_size=32)`` if left out.
        public: number of public samples.
        public_labelled: whether public samples are private ones, too, with their labels: an upper bound that
            no method may use.
        public_missing: chance that a view of a public sample is missing (0 in its place), for each view by
            itself; a sample keeps one of its views if all would be. None is missing by default.
        val: number of validation samples, which the peers of a modality share.
        test: number of test samples, which the peers of a modality share.
        languages: codes of the languages of ``WORDS`` that are typed; all, if left out.
        typos: chance of each of two typing errors (insertion, deletion, swap, substitution).
        snr: range of the signal-to-noise ratio of speech, in dB.
        cache: folder in which synthesised speech is kept.
        kwargs: arguments of ``PeerDataModule``.

    Raises:
        ConfigError: an argument is out of range, or eSpeak NG is not installed.
    """

    num_classes = 10
    modalities = ("image", "audio", "text")
    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        *,
        partition: Partition | None = None,
        public: int = 400,
        public_missing: Share = 0.0,
        public_labelled: bool = False,
        val: int = 180,
        test: int = 360,
        languages: Sequence[str] | None = None,
        typos: Share = 0.25,
        snr: tuple[Finite, Finite] = (10.0, 30.0),
        cache: str = ".cache/digits",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.partition = partition if partition is not None else Dirichlet(alpha=0.1, min_size=32)
        self.sizes = {"public": public, "val": val, "test": test}
        self.languages = sorted(WORDS) if languages is None else list(languages)
        self.typos, self.snr, self.cache = typos, snr, cache
        self.public_missing, self.public_labelled = public_missing, public_labelled
        self._whole: dict[tuple[str, Modality], Samples] = {}
        self._parts: dict[tuple[Modality, int], list[Int[Tensor, " _"]]] = {}
        for name, size in self.sizes.items():
            if size < len(PARTS):
                raise ConfigError(f"{name} must be at least {len(PARTS)} samples; it is {size}")
        if unknown := [language for language in self.languages if language not in WORDS]:
            raise ConfigError(f"no digits in '{unknown[0]}'; there are {', '.join(sorted(WORDS))}")
        if not snr[0] <= snr[1]:
            raise ConfigError(f"snr is a range, lowest first; it is {list(snr)}")

    def prepare_data(self) -> None:
        """Synthesise all speech, unless it is on disk."""
        _speech(self.cache)

    def private(self, peer: PeerName, split: str) -> Samples:
        """The samples that a peer owns; those of val and test are one object for all peers of a modality.

        Raises:
            ConfigError: the partition asks for more samples than there are.
        """
        modality = self.peers[peer]
        if split != "train":
            return self._labelled(split, modality)
        peers = self.of(modality)
        part = self._partitioned(modality, len(peers))[peers.index(peer)]
        return self._labelled("private", modality).subset(part)

    def public(self, split: str) -> PublicSamples:
        """The public samples in all modalities, whatever the split."""
        return self._drawn.public

    def public_labels(self) -> Int[Tensor, " samples"]:
        """Labels of the public samples, which are read only by methods with a setting for it."""
        return self._drawn.public_labels

    def text_of(self, ids: Int[Tensor, " characters"]) -> str:
        """A typed word."""
        return decode(ids[None])[0]

    def tokenizer(self) -> str:
        """Letters, numbered from 1."""
        return letters(ALPHABET)

    @property
    def voices(self) -> dict[str, list[str]]:
        """The voices that speak in each part of the data."""
        return self._drawn.voices

    def references(self, modality: Modality) -> dict[str, float]:
        """Test accuracy of 1-NN and of a support-vector machine on all private samples of a modality.

        These accuracies say what untrained features achieve. 1-NN compares pixels and log-spectra by their
        Euclidean distance, and the machine has a radial kernel for them. Words are counts of one to three
        characters in a row; 1-NN compares them by their cosine, and the machine has a linear kernel.
        """
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC, LinearSVC

        train, test = (self._drawn.labelled[part][modality] for part in ("private", "test"))
        if modality == "text":
            counter = CountVectorizer(analyzer="char", ngram_range=(1, 3))
            known, asked = counter.fit_transform(decode(train.x)), counter.transform(decode(test.x))
            nearest = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
            machine = LinearSVC(random_state=0)
        else:
            features = (_log_spectrum(x) if modality == "audio" else x for x in (train.x, test.x))
            known, asked = (x.flatten(1).numpy() for x in features)
            nearest = KNeighborsClassifier(1)
            machine = make_pipeline(StandardScaler(), SVC(C=10.0))
        rules = {"nearest_neighbour": nearest, "support_vector_machine": machine}
        return {
            name: float(rule.fit(known, train.y.numpy()).score(asked, test.y.numpy()))
            for name, rule in rules.items()
        }

    def _labelled(self, part: str, modality: Modality) -> Samples:
        """Samples of one part in a modality, or in several, such as "image+text", with a view for each."""
        if (part, modality) not in self._whole:
            views = {m: self._drawn.labelled[part][m] for m in modality.split("+")}
            whole = next(iter(views.values()))
            if len(views) > 1:
                whole = Samples({m: view.x for m, view in views.items()}, whole.y, whole.ids)
            self._whole[part, modality] = whole
        return self._whole[part, modality]

    def _partitioned(self, modality: Modality, peers: int) -> list[Int[Tensor, " _"]]:
        """Which private samples each of so many peers owns."""
        if (modality, peers) not in self._parts:
            y, stream = self._labelled("private", modality).y, key(self.seed, "owners", modality)
            try:
                self._parts[modality, peers] = self.partition(y, peers, stream)
            except ValueError as error:
                raise ConfigError(f"{modality} samples cannot be partitioned: {error}") from error
        return self._parts[modality, peers]

    @cached_property
    def _drawn(self) -> _Drawn:
        """Everything that depends on the seed and on no peer."""
        from sklearn.datasets import load_digits

        scans = load_digits()
        image = torch.from_numpy(scans.images).float().unsqueeze(1) / 16
        label = torch.from_numpy(scans.target).long()
        ids = self._split(label)
        labels = {part: label[i] for part, i in ids.items()}
        audio, voices = self._spoken(labels)
        text = typed(labels, languages=self.languages, typos=self.typos, seed=self.seed)
        views = {
            part: {"image": image[i], "audio": audio[part], "text": encode(text[part])}
            for part, i in ids.items()
        }
        labelled = {
            part: {m: Samples(x, labels[part], ids[part]) for m, x in views[part].items()}
            for part in ("private", "val", "test")
        }
        if self.public_labelled:
            for m, own in labelled["private"].items():
                y, number = torch.cat([own.y, labels["public"]]), torch.cat([own.ids, ids["public"]])
                labelled["private"][m] = Samples(torch.cat([own.x, views["public"][m]]), y, number)
        return _Drawn(labelled, self._public_samples(views["public"]), labels["public"], voices)

    def _public_samples(self, views: dict[Modality, Tensor]) -> PublicSamples:
        size = self.sizes["public"]
        chance = torch.stack(
            [torch.rand(size, generator=generator(self.seed, "missing", m)) for m in self.modalities]
        )
        # The view with the greatest random number is kept, so that every sample has one.
        kept = (chance >= self.public_missing) | (chance == chance.amax(0))
        shown = dict(zip(self.modalities, kept, strict=True))
        blank = {m: x.masked_fill(~shown[m].view(-1, *[1] * (x.dim() - 1)), 0) for m, x in views.items()}
        return PublicSamples(blank, shown)

    def _split(self, label: Int[Tensor, " samples"]) -> dict[str, Int[Tensor, " _"]]:
        """The sorted ids of each part, in which classes have the shares of all scans, up to rounding."""
        private = len(label) - sum(self.sizes.values())
        if private < len(PARTS):
            raise ConfigError(
                f"of {len(label)} scans {private} are left as private samples; lower public, val or test"
            )
        order = torch.randperm(len(label), generator=generator(self.seed, "split"))
        place = torch.empty(len(label))
        for digit in range(self.num_classes):
            members = order[label[order] == digit]
            place[members] = (torch.arange(len(members)) + 0.5) / len(members)
        sizes = {"private": private, **self.sizes}
        cut = place.argsort(stable=True).split([sizes[part] for part in PARTS])
        return {part: ids.sort().values for part, ids in zip(PARTS, cut, strict=True)}

    def _spoken(
        self, labels: dict[str, Int[Tensor, " _"]]
    ) -> tuple[dict[str, Float[Tensor, "_ time"]], dict[str, list[str]]]:
        """A sound for each label of each part, and the voices of each part."""
        speech = _speech(self.cache)
        sizes = {part: len(label) for part, label in labels.items()}
        home = allot(len(VOICES), sizes, generator(self.seed, "voices"))
        sound, voices = {}, {}
        for part, label in labels.items():
            stream = generator(self.seed, "speech", part)
            own = torch.tensor([i for i, p in enumerate(home) if p == part])
            voice = own[torch.randint(len(own), label.shape, generator=stream)]
            take = torch.randint(TAKES, label.shape, generator=stream)
            row = (voice * self.num_classes + label) * TAKES + take
            length = speech.length[row]
            # Silence after the sound becomes silence before it.
            late = (torch.rand(len(row), generator=stream) * (SAMPLES - length + 1)).long()
            origin = (torch.arange(SAMPLES) - late[:, None]) % SAMPLES
            wave = speech.wave[row].float().gather(1, origin)
            rms = (wave.square().sum(1) / length).sqrt()
            low, high = self.snr
            decibel = low + (high - low) * torch.rand(len(row), generator=stream)
            level = rms * 10 ** (-decibel / 20)
            noisy = wave + level[:, None] * torch.randn(wave.shape, generator=stream)
            sound[part] = noisy / noisy.abs().amax(1, keepdim=True)
            voices[part] = sorted(VOICES[i] for i in voice.unique())
        return sound, voices


class _Drawn(NamedTuple):
    """The samples of all parts."""

    labelled: dict[str, dict[Modality, Samples]]  # private, val and test
    public: PublicSamples
    public_labels: Int[Tensor, " samples"]
    voices: dict[str, list[str]]


def _speech(cache: str) -> Recordings:
    """A recording for each voice, digit and take, in this order; the same for every seed."""
    said = list(product(VOICES, WORDS["en"], range(TAKES)))
    stream = generator("digits", "speech")
    ranges = {"accent": (0, len(ACCENTS)), "rate": (180, 261), "pitch": (25, 76), "melody": (20, 81)}
    drawn = [
        torch.randint(low, high, (len(said),), generator=stream).tolist() for low, high in ranges.values()
    ]
    utterances = [
        Utterance(word, f"{ACCENTS[accent]}+{voice}", rate, pitch, melody)
        for (voice, word, _), accent, rate, pitch, melody in zip(said, *drawn, strict=True)
    ]
    return record(utterances, sample_rate=SAMPLE_RATE, samples=SAMPLES, cache=cache)


def _log_spectrum(wave: Float[Tensor, "samples time"]) -> Float[Tensor, "samples frequencies frames"]:
    window = torch.hann_window(256)
    power = torch.stft(wave, 256, 128, window=window, return_complex=True).abs().square()
    return (power + 1e-3).log()
