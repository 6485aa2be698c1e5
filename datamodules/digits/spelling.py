"""Digits as people type them: in many languages and with errors, and no string in two parts of the data."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from mmkd.functional.random import generator, key
from mmkd.types import ConfigError

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = 1 + len(ALPHABET)
"""Number of character ids: 0 fills a word up, 1 to 26 are a to z."""
LENGTH = 12
"""Length of a typed word in characters, padding included."""
WORDS = {
    language: words.split()
    for language, words in {
        "af": "nul een twee drie vier vyf ses sewe agt nege",
        "bg": "nula edno dve tri chetiri pet shest sedem osem devet",
        "ca": "zero un dos tres quatre cinc sis set vuit nou",
        "cs": "nula jedna dva tri ctyri pet sest sedm osm devet",
        "da": "nul en to tre fire fem seks syv otte ni",
        "de": "null eins zwei drei vier funf sechs sieben acht neun",
        "en": "zero one two three four five six seven eight nine",
        "es": "cero uno dos tres cuatro cinco seis siete ocho nueve",
        "fr": "zero un deux trois quatre cinq six sept huit neuf",
        "gl": "cero un dous tres catro cinco seis sete oito nove",
        "hr": "nula jedan dva tri cetiri pet sest sedam osam devet",
        "it": "zero uno due tre quattro cinque sei sette otto nove",
        "la": "nihil unus duo tres quattuor quinque sex septem octo novem",
        "nb": "null en to tre fire fem seks sju atte ni",
        "nl": "nul een twee drie vier vijf zes zeven acht negen",
        "pl": "zero jeden dwa trzy cztery piec szesc siedem osiem dziewiec",
        "pt": "zero um dois tres quatro cinco seis sete oito nove",
        "ro": "zero unu doi trei patru cinci sase sapte opt noua",
        "ru": "nol odin dva tri chetyre pyat shest sem vosem devyat",
        "sk": "nula jeden dva tri styri pat sest sedem osem devat",
        "sl": "nic ena dva tri stiri pet sest sedem osem devet",
        "sv": "noll ett tva tre fyra fem sex sju atta nio",
    }.items()
}
"""The digits in languages that are, or can be, written with 26 letters; no word has two meanings."""


def encode(texts: Sequence[str]) -> Int[Tensor, "samples length"]:
    """Character ids of words of a to z, filled up with 0."""
    return torch.tensor(
        [[1 + ALPHABET.index(c) for c in text] + [0] * (LENGTH - len(text)) for text in texts]
    )


def decode(ids: Int[Tensor, "samples length"]) -> list[str]:
    """The words that have these character ids."""
    return ["".join(ALPHABET[i - 1] for i in row if i) for row in ids.tolist()]


def allot(things: int, sizes: Mapping[str, int], stream: torch.Generator) -> list[str]:
    """A random part of the data for each thing: each part gets one thing, and the rest by its size."""
    rest = max(things - len(sizes), 0)
    shared = [_part((i + 0.5) / rest, sizes) for i in range(rest)]
    parts = [*sizes, *shared][:things]
    return [parts[i] for i in torch.randperm(things, generator=stream).tolist()]


def typed(
    labels: Mapping[str, Int[Tensor, " _"]], *, languages: Sequence[str], typos: float, seed: int
) -> dict[str, list[str]]:
    """A typed word for each label of each part of the data.

    Words are drawn and mistyped at random, and each string belongs to one part: the correct words for a
    digit are allotted at random, and a misspelling belongs to the part that its keyed hash selects.

    Args:
        labels: the digits of each part.
        languages: keys of ``WORDS``.
        typos: chance of each of two typing errors.
        seed: keys everything that is drawn at random.

    Raises:
        ConfigError: there are too few spellings for so many parts.
    """
    sizes = {part: len(label) for part, label in labels.items()}
    words = [sorted({WORDS[language][digit] for language in languages}) for digit in range(10)]
    home: dict[str, tuple[int, str]] = {}
    for digit, spelt in enumerate(words):
        parts = allot(len(spelt), sizes, generator(seed, "words", digit))
        home |= {word: (digit, part) for word, part in zip(spelt, parts, strict=True)}
    texts = {part: [""] * size for part, size in sizes.items()}
    for digit, spelt in enumerate(words):
        missing = {part: (label == digit).nonzero().flatten().tolist() for part, label in labels.items()}
        drafts = _drafts(spelt, typos, generator(seed, "typing", digit))
        while any(missing.values()):
            text = next(drafts, None)
            if text is None:
                raise ConfigError(
                    f"too few spellings of {digit} for {len(sizes)} parts; raise typos or add languages"
                )
            if text in home:
                means, part = home[text]
                if means != digit:
                    continue  # an error has made the correct word for another digit
            else:
                part = _part(key(seed, "string", text) / 2**63, sizes)
            if text and missing[part]:
                texts[part][missing[part].pop()] = text
    return texts


def _part(place: float, sizes: Mapping[str, int]) -> str:
    """The part that covers ``place``, from 0 to 1, when parts of these sizes follow each other."""
    ends = list(accumulate(sizes.values()))
    return list(sizes)[bisect(ends[:-1], place * ends[-1])]


def _drafts(words: Sequence[str], typos: float, stream: torch.Generator) -> Iterator[str]:
    """Words drawn at random, each with up to two typing errors; they end after 100,000."""
    size = 500
    for _ in range(200):
        chosen = torch.randint(len(words), (size,), generator=stream).tolist()
        happens = (torch.rand(size, 2, generator=stream) < typos).tolist()
        kinds = torch.randint(4, (size, 2), generator=stream).tolist()
        places = torch.rand(size, 2, generator=stream, dtype=torch.float64).tolist()
        letters = torch.randint(len(ALPHABET), (size, 2), generator=stream).tolist()
        for i, word in enumerate(chosen):
            text = words[word]
            for error in (0, 1):
                if happens[i][error]:
                    text = _err(text, kinds[i][error], places[i][error], ALPHABET[letters[i][error]])
            yield text


def _err(text: str, kind: int, place: float, letter: str) -> str:
    """The text with an insertion (kind 0), deletion, swap or substitution at ``place``, from 0 to 1."""
    if kind == 0:
        i = int(place * (len(text) + 1))
        return text[:i] + letter + text[i:]
    i = int(place * len(text))
    if kind == 1:
        return text[:i] + text[i + 1 :]
    if kind == 2:
        return text[:i] + text[i : i + 2][::-1] + text[i + 2 :]
    return text[:i] + letter + text[i + 1 :]
