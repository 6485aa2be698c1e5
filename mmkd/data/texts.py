"""Texts as ids of tokens: of characters, of a tokenizer trained on public texts, or of transformers."""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mmkd.data.catalogue import View
from mmkd.types import ConfigError, Views

CHARACTERS = 128
"""Size of the vocabulary of characters, padding included."""
MEMORY = 2**25
"""Tokens up to which they are held as torch reads them."""
UNKNOWN = ord("?")
"""What a character becomes that looks like none of them."""


class TextView(View):
    """What texts show: their tokens, all at once when the first is read.

    Args:
        texts: empty, where a sample has none.
        public: the rows on which a tokenizer may be trained.
        tokenizer: ``ascii``, ``public``, or the folder of one of transformers.
        length: of a text in tokens.
        vocabulary: most tokens of a trained one.
    """

    def __init__(
        self,
        texts: Sequence[str],
        public: Callable[[], Int[Tensor, " _"]],
        tokenizer: str,
        length: int,
        vocabulary: int,
    ) -> None:
        self._texts, self._public, self._tokenizer = texts, public, tokenizer
        self._length, self._vocabulary = length, vocabulary
        self._ids: Int[np.ndarray, "samples tokens"] | None = None
        self._reader: Any = None  # turns tokens into texts again

    def text(self, ids: Int[Tensor, " tokens"]) -> str:
        """A text for people from its tokens, which came from here."""
        kept = [int(i) for i in ids if int(i)]
        return "".join(map(chr, kept)) if self._reader is None else str(self._reader.decode(kept))

    def tokenizer(self) -> str | None:
        """What made texts into tokens, as JSON of the tokenizers library, which cuts texts to their length.

        None, if tokens are characters.
        """
        self._tokens()
        if self._reader is None:
            return None
        made = copy.deepcopy(getattr(self._reader, "backend_tokenizer", self._reader))
        made.enable_truncation(self._length)
        return str(made.to_str())

    def take(self, rows: Int[Tensor, " batch"]) -> Views:
        """The tokens of those samples."""
        return torch.from_numpy(self._tokens()[rows.numpy()]).long()

    def whole(self) -> Tensor | None:
        """The tokens of all samples, unless they are very many."""
        tokens = self._tokens()
        return torch.from_numpy(tokens).long() if tokens.size <= MEMORY else None

    def _tokens(self) -> Int[np.ndarray, "samples tokens"]:
        if self._ids is None:
            found = np.zeros((len(self._texts), self._length), dtype=np.int32)
            for row, ids in enumerate(self._encoded()):
                kept = ids[: self._length]
                found[row, : len(kept)] = kept
            self._ids = found
        return self._ids

    def _encoded(self) -> Iterable[Sequence[int]]:
        if self._tokenizer == "ascii":
            return map(characters, self._texts)
        if self._tokenizer == "public":
            made = trained([self._texts[row] for row in self._public().tolist()], self._vocabulary)
            self._reader = made
            return [encoded.ids for encoded in made.encode_batch_fast(list(self._texts))]
        read = self._reader = _of_transformers(self._tokenizer)
        found: Sequence[list[int]] = read(list(self._texts), truncation=True, max_length=self._length)[
            "input_ids"
        ]
        return [ids if text else [] for ids, text in zip(found, self._texts, strict=True)]


def characters(text: str) -> Sequence[int]:
    """A token for each character: its ASCII code, or that of the letter that it is made from."""
    if text.isascii() and "\0" not in text:
        return list(text.encode())
    plain = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return [ord(c) if 0 < ord(c) < CHARACTERS else UNKNOWN for c in plain]


def letters(alphabet: str) -> str:
    """A tokenizer, as JSON, of the letters of an alphabet, numbered from 1, of which any others are left out.

    Capitals become small letters, and letters lose their marks, before anything is left out.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    made: Any = Tokenizer(
        models.WordLevel({"[PAD]": 0, **{c: i for i, c in enumerate(alphabet, 1)}}, "[PAD]")
    )
    made.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(f"[^{re.escape(alphabet)}]"), ""),
        ]
    )
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return str(made.to_str())


def trained(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-pair encoding of those texts, in which no text is unknown and 0 is padding.

    Raises:
        ConfigError: there are no texts.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if not any(texts):
        raise ConfigError("no public sample has a text on which a tokenizer could be trained: choose ascii")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["[PAD]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text for text in texts if text], trainer)
    return made


def _of_transformers(folder: str) -> Any:
    from transformers import AutoTokenizer

    try:
        read: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers has an error for each thing that can be missing
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"'{folder}' is no folder of a tokenizer of transformers: {reason}") from error
    if read.pad_token_id not in (0, None):
        raise ConfigError(f"the tokenizer in '{folder}' pads with {read.pad_token_id}, and students with 0")
    return read
