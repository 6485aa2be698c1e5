"""Transports, which carry statements and weights between participants."""

from mmkd.transport.base import Mail, Message, Stack, Transport
from mmkd.transport.facts import Facts
from mmkd.transport.local import LocalTransport

__all__ = ["Facts", "LocalTransport", "Mail", "Message", "Stack", "Transport"]
