"""Ways through a local step, for tests of laws that depend on how peers of a group train."""

from __future__ import annotations

import pytest

LEAN = "recorded,chunked"
"""Of ``conftest.PATHS`` the one that differs most: recorded steps, in chunks of two peers."""
PATHS = {"plain": None, "lean": LEAN}

every_way = pytest.mark.parametrize(
    ("vectorize", "path"),
    [("never", None), ("always", None), ("always", LEAN)],
    ids=["one after the other", "vectorised", "lean"],
    indirect=["path"],
)
"""Peers who train one after the other, vectorised, and on the lean path."""
