"""The synthesiser as the program that it is: sound for text, and one line when there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest

from datamodules.speech import espeak
from datamodules.speech.espeak import RATE, Utterance


def speak(*said: Utterance) -> list[np.ndarray]:
    run = subprocess.run(
        [sys.executable, espeak.__file__], input=json.dumps(said).encode(), capture_output=True, check=False
    )
    if run.returncode != 0:
        raise RuntimeError(run.stderr.decode().strip())
    stream = BytesIO(run.stdout)
    lengths, sound = np.load(stream), np.load(stream)
    assert lengths.sum() == len(sound)
    return np.split(sound, lengths.cumsum()[:-1])


def test_each_utterance_has_its_sound() -> None:
    one, long, other = speak(
        Utterance("one", "en-us"), Utterance("one thousand and twenty-one", "en-us"), Utterance("one", "de")
    )
    assert all(sound.dtype == np.int16 and np.abs(sound).max() > 1000 for sound in (one, long, other))
    assert 0.1 * RATE < len(one) < 2 * RATE
    assert len(long) > 2 * len(one)
    assert not np.array_equal(one, other)


def test_rate_pitch_and_voice_are_heard() -> None:
    plain, fast, high, variant = speak(
        Utterance("seven seven seven", "en-us"),
        Utterance("seven seven seven", "en-us", rate=350),
        Utterance("seven seven seven", "en-us", pitch=90),
        Utterance("seven seven seven", "en-us+f3"),
    )
    assert len(fast) < 0.8 * len(plain)
    assert _fundamental(high) > 1.2 * _fundamental(plain)
    assert not np.array_equal(plain[:4000], variant[:4000])


def _fundamental(sound: np.ndarray) -> float:
    """The pitch in Hz, from the highest autocorrelation between 60 and 400 Hz."""
    x = sound.astype(np.float64)
    power = np.abs(np.fft.rfft(x, 2 * len(x))) ** 2
    correlation = np.fft.irfft(power)
    lags = np.arange(RATE // 400, RATE // 60)
    return RATE / lags[correlation[lags].argmax()]


def test_two_processes_say_the_same() -> None:
    said = [Utterance("three", "en+whisper"), Utterance("nine", "en-us+f3")]
    assert all(np.array_equal(a, b) for a, b in zip(speak(*said), speak(*said), strict=True))


@pytest.mark.parametrize(
    ("utterance", "reason"),
    [
        (Utterance("one", "klingon-x"), "it has no voice 'klingon-x'"),
        (Utterance(" ", "en-us"), "it is silent on ' ' with voice 'en-us'"),
    ],
)
def test_what_cannot_be_said_is_named(utterance: Utterance, reason: str) -> None:
    with pytest.raises(RuntimeError, match=reason):
        speak(Utterance("one", "en-us"), utterance)
