"""Published weights: from the Hugging Face hub, or from its cache on this machine where no network is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmkd.types import ConfigError

PATIENCE = 5.0
"""Seconds to wait for the hub."""


def reachable() -> bool:
    """Whether the hub answers. It is asked once: its own library goes on asking for most of a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # of requests or httpx, by the version of the hub's library
        return False
    return True


@contextmanager
def published(what: str, instead: str) -> Iterator[None]:
    """While it lasts, published weights are looked for on this machine alone if the hub is out of reach.

    Args:
        what: is loaded, for the message.
        instead: what to do where there is no network, for the message.

    Raises:
        ConfigError: the weights are not to be had.
    """
    from huggingface_hub import constants

    before, there = constants.HF_HUB_OFFLINE, reachable()
    constants.HF_HUB_OFFLINE = before or not there
    try:
        yield
    except OSError as error:  # all that the hub's library raises is one
        why = " ".join(str(error).split())[:200] if there else "the network cannot be reached"
        raise ConfigError(f"no published weights of {what}: {why}; {instead}") from error
    finally:
        constants.HF_HUB_OFFLINE = before
