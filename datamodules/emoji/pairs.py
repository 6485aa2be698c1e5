"""The datamodule of emoji that are drawn, called by their names and spoken; their groups are the classes.

Three packages of npm bring pictures and names, and eSpeak NG (GPL 3) speaks these::

    npm install emoji-datasource-google emoji-datasource-twitter cldr-annotations-full
    pip install 'mmkd[digits]'

Google's pictures are Noto Emoji (Apache 2.0), Twitter's are Twemoji (CC BY 4.0, so whoever shows them names
them), the list is under the MIT licence, and the names are Unicode CLDR's (Unicode licence 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float, Int, Int16
from torch import Tensor

from datamodules.emoji.listing import (
    GROUPS,
    PUBLISHED,
    VENDORS,
    Emoji,
    plain,
    read_emoji,
    read_names,
    read_pictures,
)
from datamodules.emoji.spelling import ALPHABET, decode, encode, fold
from datamodules.speech import Utterance, record
from mmkd.bounds import Bound, bounded
from mmkd.data.catalogue import DRAWN, Catalogue, Held, View
from mmkd.data.catalogued import CatalogueData
from mmkd.data.texts import letters
from mmkd.functional.random import generator
from mmkd.types import ConfigError

SAMPLE_RATE = 8_000
"""Samples of sound per second."""
SAMPLES = 12_288
"""Length of a recording: 1.536 s; a longer name is cut off."""
LANGUAGES = {
    "cs": "cs",
    "da": "da",
    "de": "de",
    "en": "en-us",
    "es": "es",
    "fi": "fi",
    "fr": "fr",
    "it": "it",
    "nl": "nl",
    "pl": "pl",
    "pt": "pt-br",
    "ro": "ro",
    "sv": "sv",
}
"""Languages that are written with Latin letters, and what eSpeak NG calls their voices."""
VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m7", "m8", "f1", "f2", "f3", "f4", "f5")
"""Voices of eSpeak NG that speak any language."""


@bounded
class EmojiPairs(CatalogueData):
    """Emoji that are drawn, called by a name, and spoken, in several languages: "image", "text" and "audio".

    - image ``[3, size, size]`` float in 0 to 1: the picture of one vendor, on white;
    - text ``[40]`` character ids: CLDR's name in one language, folded to 26 letters, digits and spaces;
    - audio ``[12288]`` float, peak 1, at 8 kHz: that name as one of twelve voices of eSpeak NG says it.

    There is a sample for every emoji and language; vendors take turns. The eight classes are Unicode's
    groups, without flags: 169 smileys, 325 people, 159 animals, 131 of food, 218 of travel, 85 activities,
    264 objects and 221 symbols (emoji-datasource 16.0.0, cldr-annotations-full 48.2.0), each in every
    language. All samples of an emoji are in one part (train, val, test or public), so that no other language
    or vendor gives a test away, and of one peer of a modality, unless a partition is given. Voices are in all
    parts.

    Args:
        folder: npm's ``node_modules``, with the three packages.
        languages: CLDR's codes of the languages, keys of ``LANGUAGES``.
        vendors: whose pictures are shown, of ``VENDORS``.
        size: height and width of a picture in pixels.
        cache: folder in which synthesised speech is kept.
        public: share of what ``val`` and ``test`` leave that is public, whole emoji in all languages.
        **kwargs: arguments of ``CatalogueData``.

    Raises:
        ConfigError: an argument is out of range; or, when the data are first read, a file is missing or
            wrong, or eSpeak NG is not installed.
    """

    num_classes = len(GROUPS)
    modalities = ("image", "audio", "text")
    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        *,
        folder: str = "node_modules",
        languages: Sequence[str] = ("de", "en", "es", "fr"),
        vendors: Sequence[str] = VENDORS,
        size: Annotated[int, Bound(8, PUBLISHED)] = 32,
        cache: str = ".cache/emoji",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folder, self.size, self.cache = Path(folder), size, cache
        self.languages = _chosen(languages, LANGUAGES, "languages")
        self.vendors = _chosen(vendors, VENDORS, "vendors")

    def prepare_data(self) -> None:
        """Synthesise all speech, unless it is on disk."""
        _ = self.samples

    def text_of(self, ids: Int[Tensor, " characters"]) -> str:
        """A name."""
        return decode(ids[None])[0]

    def tokenizer(self) -> str:
        """Letters, digits and spaces, numbered from 1."""
        return letters(ALPHABET)

    def catalogue(self) -> Catalogue:
        """A sample for every emoji that has a name in a language, and for each such language.

        Raises:
            ConfigError: a file is missing or wrong, or eSpeak NG is not installed.
        """
        emoji = read_emoji(self.folder, self.vendors[0])
        pairs = self._pairs(emoji)
        files = sorted({(pair.image, pair.vendor) for pair in pairs})
        where = {file: i for i, file in enumerate(files)}
        pictures = read_pictures([self._file(*file) for file in files], self.size)
        shown = pictures[[where[pair.image, pair.vendor] for pair in pairs]].float() / 255
        views = {
            "image": Held(shown),
            "audio": Spoken(_speech(pairs, self.cache)),
            "text": Held(encode([fold(pair.name) for pair in pairs])),
        }
        number = torch.tensor([pair.emoji for pair in pairs])
        return Catalogue(
            classes=GROUPS,
            y=torch.tensor([one.group for one in emoji])[number],
            views=views,
            shown={m: torch.ones(len(pairs), dtype=torch.bool) for m in views},
            part=torch.full_like(number, DRAWN),
            group=number,
        )

    def _pairs(self, emoji: Sequence[Emoji]) -> list[_Pair]:
        """A picture and a name for each emoji and language."""
        found = []
        names = {language: read_names(self.folder, language) for language in self.languages}
        for i, one in enumerate(emoji):
            vendors = [vendor for vendor in self.vendors if vendor in one.vendors]
            for j, (language, called) in enumerate(names.items()):
                name = called.get(plain(one.text), "")
                if vendors and fold(name):
                    found.append(_Pair(i, one.image, vendors[(i + j) % len(vendors)], language, name))
        if not found:
            raise ConfigError(
                f"in {self.folder} no emoji has both a picture of {', '.join(self.vendors)} and a name in"
                f" {', '.join(self.languages)}; install packages of one year"
            )
        return found

    def _file(self, image: str, vendor: str) -> Path:
        return self.folder / f"emoji-datasource-{vendor}" / "img" / vendor / str(PUBLISHED) / image


class Spoken(View):
    """Sounds that are kept as they were recorded, and read with peak 1.

    Args:
        wave: sounds, zeros after each.
    """

    def __init__(self, wave: Int16[Tensor, "samples time"]) -> None:
        self._wave = wave

    def take(self, rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch time"]:
        """The sounds of those samples."""
        wave = self._wave.index_select(0, rows).float()
        return wave / wave.abs().amax(1, keepdim=True).clamp(min=1)


class _Pair(NamedTuple):
    """What is shown and said of an emoji."""

    emoji: int  # its number
    image: str  # name of the picture file
    vendor: str
    language: str
    name: str  # in that language


def _chosen(given: Sequence[str], there: Sequence[str] | dict[str, str], what: str) -> list[str]:
    chosen = list(given)
    if not chosen or len({*chosen}) < len(chosen) or not {*chosen} <= {*there}:
        raise ConfigError(f"{what} are some of {', '.join(there)}, each once, not {chosen}")
    return chosen


def _speech(pairs: Sequence[_Pair], cache: str) -> Int16[Tensor, "pairs time"]:
    """A recording of each name; the same for every seed."""
    stream = generator("emoji", "speech")
    ranges = {"voice": (0, len(VARIANTS)), "rate": (180, 261), "pitch": (25, 76), "melody": (20, 81)}
    drawn = [
        torch.randint(low, high, (len(pairs),), generator=stream).tolist() for low, high in ranges.values()
    ]
    utterances = [
        Utterance(pair.name, f"{LANGUAGES[pair.language]}+{VARIANTS[voice]}", rate, pitch, melody)
        for pair, voice, rate, pitch, melody in zip(pairs, *drawn, strict=True)
    ]
    return record(utterances, sample_rate=SAMPLE_RATE, samples=SAMPLES, cache=cache).wave
