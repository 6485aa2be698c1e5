"""What carries payloads between participants."""

from mmkd.transport.base import Transport
from mmkd.transport.compression import Compression, Quantise, TopK
from mmkd.transport.local import LocalTransport

__all__ = ["Compression", "LocalTransport", "Quantise", "TopK", "Transport"]
