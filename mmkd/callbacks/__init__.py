"""The coordinator, and small recorders."""

from mmkd.callbacks.decentralized import DecentralizedCallback
from mmkd.callbacks.recorder import Recorder

__all__ = ["DecentralizedCallback", "Recorder"]
