"""Tests of laws that depend on how a cohort trains, which run on the path that differs most, too."""

from __future__ import annotations

import pytest

on_both_paths = pytest.mark.parametrize(
    "path", [None, "recorded,chunked"], ids=["plain", "lean"], indirect=True
)
"""Once as written, and once with recorded steps in chunks of two peers."""
