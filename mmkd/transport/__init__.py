"""Transports, which carry statements and weights between participants."""

from mmkd.transport.base import Mail, Stack, Transport
from mmkd.transport.local import LocalTransport

__all__ = ["LocalTransport", "Mail", "Stack", "Transport"]
