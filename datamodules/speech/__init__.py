"""Speech of a synthesiser, for data sets that are spoken."""

from datamodules.speech.espeak import Utterance
from datamodules.speech.recordings import Recordings, record

__all__ = ["Recordings", "Utterance", "record"]
