"""Settings of all tests."""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

import pytest
import torch

# LightningCLI 2.6 calls jsonargparse by older names, which it announces as warnings.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
# Students this small are slower on two threads, and workers of pytest share the cores.
torch.set_num_threads(1)
# Lightning's log handler keeps the stream of the test in which it was made, which is closed by now.
logging.raiseExceptions = False

PATHS = {
    "recorded": {"compile": "record"},
    "chunked": {"peers_per_chunk": 2},
    "recorded,chunked": {"compile": "record", "peers_per_chunk": 2},
    "stacked": {"vectorize": "always"},
    "sequential": {"vectorize": "never"},
}
"""Ways through a local step, any of which must give the numbers that the suites derive."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--path", choices=list(PATHS), help="how cohorts train that do not say it themselves")


@pytest.fixture(autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of ``on_both_paths``, or else that of the command line."""
    chosen = getattr(request, "param", None) or request.config.getoption("--path")
    if chosen is not None:
        from mmkd.cohort import Cohort

        plain = Cohort.__init__

        def init(self: Cohort, *args: Any, **kwargs: Any) -> None:
            plain(self, *args, **{**PATHS[chosen], **kwargs})

        monkeypatch.setattr(Cohort, "__init__", functools.wraps(plain)(init))
