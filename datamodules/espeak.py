"""Speech from text inside this process, through eSpeak NG (GPL-3.0, the extra ``digits``)."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import torch
from jaxtyping import Int16
from torch import Tensor

from mmkd.types import ConfigError

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples go to the callback, which runs inside espeak_Synth
_UTF8 = 1  # espeakCHARS_UTF8
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Speaker:
    """eSpeak NG, which keeps one voice and one set of parameters per process: use ``speaker()``.

    Attributes:
        sample_rate: samples per second of what ``say`` returns.

    Raises:
        ConfigError: eSpeak NG is not installed, or cannot be started.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ModuleNotFoundError as error:
            raise ConfigError(
                "spoken digits need eSpeak NG, which is not installed: pip install 'mmkd[digits]'"
            ) from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._chunks: list[np.ndarray] = []
        # The library keeps a bare pointer; without this reference Python would free what it points at.
        self._callback = _CALLBACK(self._collect)
        data = espeakng_loader.get_data_path().encode()
        self.sample_rate = int(self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0))
        if self.sample_rate <= 0:
            raise ConfigError(f"eSpeak NG did not start (error {self.sample_rate}); reinstall espeakng-loader")
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: ctypes._Pointer[ctypes.c_short], size: int, events: int | None) -> int:
        if samples and size > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (size,)).copy())
        return 0

    def say(
        self, text: str, *, voice: str = "en-us", rate: int = 175, pitch: int = 50, melody: int = 50
    ) -> Int16[Tensor, " samples"]:
        """The sound of ``text``.

        Args:
            text: what to say.
            voice: language, optionally with a variant: ``"en-us"``, ``"en-gb+f3"``.
            rate: words per minute, 80 to 450.
            pitch: base pitch, 0 to 100.
            melody: how much the pitch moves, 0 (monotone) to 100.

        Raises:
            ConfigError: eSpeak NG has no such voice.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ConfigError(f"eSpeak NG has no voice '{voice}'")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, melody)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks = []
        encoded = text.encode()
        status = self._library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, _UTF8, None, None
        )
        if status != 0 or not self._chunks:
            raise ConfigError(f"eSpeak NG said nothing for '{text}' with voice '{voice}' (error {status})")
        return torch.from_numpy(np.concatenate(self._chunks))


@cache
def speaker() -> Speaker:
    """The one speaker of this process."""
    return Speaker()
