"""Speech from text through eSpeak NG (GPL-3.0, the extra ``digits``), which is loaded as a C library.

Run as a program, this file reads utterances from standard input and writes their sound to standard output.
It imports no torch, so that a fresh process starts fast.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RATE = 22_050
"""Samples of sound per second that eSpeak NG makes."""

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, which runs inside espeak_Synth
_UTF8 = 1  # espeakCHARS_UTF8
_PARAMETERS = {"rate": 1, "pitch": 3, "melody": 4}  # espeak_PARAMETER
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Utterance(NamedTuple):
    """A text to say, and the voice to say it with."""

    text: str
    voice: str  # language, optionally with a variant: "en-us", "en-gb-scotland+f3"
    rate: int = 175  # words per minute, 80 to 450
    pitch: int = 50  # 0 to 100
    melody: int = 50  # how much the pitch moves: 0 (monotone) to 100


def say(utterances: Sequence[Utterance]) -> list[NDArray[np.int16]]:
    """The sound of each utterance at ``RATE``.

    eSpeak NG makes breath and flutter from a state that each utterance changes and that nothing resets, so
    only the first call in a process always returns the same sound.
    """
    import espeakng_loader

    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    chunks: list[NDArray[np.int16]] = []

    def collect(samples: ctypes._Pointer[ctypes.c_short], size: int, events: int | None) -> int:
        if samples and size > 0:
            chunks.append(np.ctypeslib.as_array(samples, (size,)).copy())
        return 0

    # The library keeps a bare pointer: this name keeps Python from freeing what it points at.
    callback = _CALLBACK(collect)
    rate = espeak.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate != RATE:
        raise SystemExit(f"eSpeak NG should make {RATE} samples per second and says {rate}")
    # Initialising seeds the noise with the time of day.
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(0))
    espeak.espeak_SetSynthCallback(callback)
    sounds = []
    for utterance in utterances:
        if espeak.espeak_SetVoiceByName(utterance.voice.encode()) != 0:
            raise SystemExit(f"it has no voice '{utterance.voice}'")
        for name, number in _PARAMETERS.items():
            espeak.espeak_SetParameter(number, getattr(utterance, name), 0)
        chunks.clear()
        text = utterance.text.encode()
        status = espeak.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 0, 0, _UTF8, None, None)
        if status != 0 or not any(chunk.any() for chunk in chunks):
            raise SystemExit(f"it is silent on '{utterance.text}' with voice '{utterance.voice}'")
        sounds.append(np.concatenate(chunks))
    return sounds


def _main() -> None:
    """Read utterances from standard input; write the lengths of their sounds and all samples of sound."""
    sounds = say([Utterance(*fields) for fields in json.load(sys.stdin)])
    buffer = BytesIO()
    np.save(buffer, np.array([len(sound) for sound in sounds]))
    np.save(buffer, np.concatenate(sounds))
    sys.stdout.buffer.write(buffer.getvalue())


if __name__ == "__main__":
    _main()
