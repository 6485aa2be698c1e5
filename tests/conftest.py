"""Settings of all tests.

The process that hands out tests to workers reads this file and runs none, so what takes long to import waits.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.paths import LEAN
from tests.shapes import anew, check_fields, pass_through

# LightningCLI 2.6 calls jsonargparse by older names, which it announces as warnings.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What trains one after the other knows no other way, and with ``--path`` all go one way."""
    chosen = config.getoption("--path")

    def again(item: pytest.Item) -> bool:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        never, marked = params.get("vectorize") == "never", params.get("path") == LEAN
        return (never and (chosen not in (None, "sequential") or marked)) or (chosen is not None and marked)

    out = {item for item in items if again(item)}
    config.hook.pytest_deselected(items=list(out))
    items[:] = [item for item in items if item not in out]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that is marked ``leanest_too`` runs once as it is, and once on the path that differs most."""
    if metafunc.definition.get_closest_marker("leanest_too"):
        metafunc.parametrize("path", [None, LEAN], ids=["plain", LEAN], indirect=True)


@pytest.fixture(autouse=True)
def _checks() -> None:
    """Every test has the shapes of its own calls checked."""
    anew()


@pytest.fixture(autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohorts that do not say how they train go the way of ``--path``, or of the test's mark."""
    chosen = request.config.getoption("--path") or getattr(request, "param", None)
    if chosen is not None:
        from mmkd.cohort import Cohort

        plain = Cohort.__init__

        def init(self: Cohort, *args: Any, **kwargs: Any) -> None:
            plain(self, *args, **{**PATHS[chosen], **kwargs})

        monkeypatch.setattr(Cohort, "__init__", functools.wraps(plain)(init))


@pytest.fixture(autouse=True, scope="session")
def _lightning() -> Iterator[None]:
    """What Lightning and PyTorch do for every fit is done once, or not at all."""
    import lightning.fabric.utilities.registry as registry
    import torch
    from lightning.pytorch.trainer.connectors.logger_connector import result

    # Students this small are slower on two threads, and workers of pytest share the cores.
    torch.set_num_threads(1)
    # Which devices there are and which loggers one could try is not to be told at every fit of a test.
    for module in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(module).setLevel(logging.WARNING)
    with pytest.MonkeyPatch.context() as patch:
        # Every Trainer asks all installed packages for callbacks; in a test run one look is enough.
        patch.setattr(registry, "entry_points", functools.cache(importlib.metadata.entry_points))
        # Numbers that are logged are moved, and all that is known of them copied; on a CPU nothing moves.
        if not torch.cuda.is_available():
            patch.setattr(result._ResultMetric, "to", lambda metric, *_, **__: metric)
        yield


@pytest.fixture(autouse=True, scope="session")
def _shapes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Shapes are checked where they are written, and nothing else is."""
    with pytest.MonkeyPatch.context() as patch:
        check_fields(patch)
        pass_through(request.config.getoption("--jaxtyping-packages").split(",")[:-1])
        yield
