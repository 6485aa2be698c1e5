"""Lightning callbacks: the coordinator, and those that record, measure and draw."""

from mmkd.callbacks.decentralized import DecentralizedCallback
from mmkd.callbacks.diagnostics import Diagnostics
from mmkd.callbacks.recorder import Recorder

__all__ = ["DecentralizedCallback", "Diagnostics", "Recorder"]
