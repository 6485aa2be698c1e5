"""What carries payloads between participants."""

from mmkd.transport.base import Transport
from mmkd.transport.local import LocalTransport

__all__ = ["LocalTransport", "Transport"]
