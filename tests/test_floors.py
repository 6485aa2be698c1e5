"""A module imports from floors below its own, never from above, and no two files import each other."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    {
        "errors",
        "names",
        "types",
        "bounds",
        "configuration",
        "description",
        "files",
        "lock",
        "palette",
        "tables",
    },
    {"functional"},
    {
        "caching",
        "processes",
        "launch",
        "encoding",
        "topology",
        "participation",
        "rates",
        "schedule",
        "ledger",
    },
    {"transport", "knowledge", "federated", "augmentation"},
    {"students"},
    {"data", "cost", "evaluation"},
    {"cohort"},
    {"coordination"},
    {"diagnostics"},
    {"callbacks"},
    {"tradeoff", "testing", "network", "starting", "describing", "edge", "cli", "spelling", "__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
OUTSIDE = {"datamodules", "tests", "configs", "scripts", "espeakng_loader"}
"""What mmkd never imports; the last one is under the GPL."""
MATHEMATICS = {"torch", "jaxtyping", "mmkd", *sys.stdlib_module_names}
"""All that floor 1 imports."""


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room(module: str) -> str | None:
    """The first name below mmkd; the root, which holds the version, has none."""
    return module.split(".")[1] if module.startswith("mmkd.") else None


def imports(path: str, source: str, modules: set[str]) -> Iterator[str]:
    """Absolute names of all modules that a file imports, inside functions and TYPE_CHECKING too."""
    package = module_name(path).split(".")
    if not path.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*parts, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                # "from mmkd import cli" imports a module, "from mmkd.cli import mmkd" a name in one.
                whole = f"{base}.{alias.name}"
                yield whole if whole in modules or (base == "mmkd" and alias.name in FLOOR_OF) else base


def violations(sources: Mapping[str, str]) -> list[str]:
    """What is wrong with a package, given as path and text of each file."""
    modules = {module_name(path) for path in sources}
    wrong = []
    rooms: dict[str, set[str]] = {}
    files: dict[str, set[str]] = {}
    for path, source in sources.items():
        here = room(module_name(path))
        if here is not None and here not in FLOOR_OF:
            wrong.append(f"{path}: {here} is on no floor")
            continue
        for name in imports(path, source, modules):
            top = name.split(".")[0]
            if name in modules and name != module_name(path):
                files.setdefault(module_name(path), set()).add(name)
            if here == "coordination" and top == "lightning":
                wrong.append(f"{path}: coordination names nothing of Lightning")
            if top in OUTSIDE:
                wrong.append(f"{path}: mmkd never imports {top}")
            if here == "functional" and top not in MATHEMATICS:
                wrong.append(f"{path}: mathematics imports {top}")
            there = room(name)
            if there is None or there == here:
                continue
            if there not in FLOOR_OF:
                wrong.append(f"{path}: {there} is on no floor")
            elif here is None:
                wrong.append(f"{path}: the root imports {there}; it must stay quick to import")
            elif here == "functional":
                wrong.append(f"{path}: mathematics imports mmkd.{there}")
            elif FLOOR_OF[there] > FLOOR_OF[here]:
                wrong.append(f"{path}: floor {FLOOR_OF[here]} imports {name} from floor {FLOOR_OF[there]}")
            else:
                rooms.setdefault(here, set()).add(there)
    for what, arrows in (("rooms", rooms), ("files", files)):
        try:
            TopologicalSorter(arrows).prepare()
        except CycleError as error:
            wrong.append(f"{what} import one another: {' -> '.join(error.args[1])}")
    return wrong


def test_mmkd_keeps_its_floors() -> None:
    sources = {p.relative_to(ROOT).as_posix(): p.read_text() for p in (ROOT / "mmkd").rglob("*.py")}
    # The search found the package, on every floor.
    assert {FLOOR_OF[name] for name in map(room, map(module_name, sources)) if name} == set(
        range(len(FLOORS))
    )
    assert violations(sources) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("mmkd/ledger.py", "import mmkd.cohort.cohort", "floor 2 imports mmkd.cohort.cohort from floor 6"),
        ("mmkd/ledger.py", "from mmkd import cli", "floor 2 imports mmkd.cli from floor 10"),
        ("mmkd/ledger.py", "from . import cli", "floor 2 imports mmkd.cli from floor 10"),
        ("mmkd/federated/fedavg.py", "from ..cohort import Cohort", "floor 3 imports mmkd.cohort"),
        ("mmkd/federated/__init__.py", "from ..data.peers import x", "floor 3 imports mmkd.data.peers"),
        (
            "mmkd/topology/base.py",
            "def f():\n    from mmkd.students import base",
            "floor 2 imports mmkd.students",
        ),
        ("mmkd/types.py", "from mmkd.functional.random import key", "floor 0 imports"),
        ("mmkd/functional/mixing.py", "import lightning.pytorch", "mathematics imports lightning"),
        ("mmkd/functional/mixing.py", "from mmkd.types import Batch", "mathematics imports mmkd.types"),
        ("mmkd/coordination/oracle.py", "import lightning", "coordination names nothing of Lightning"),
        ("mmkd/data/peers.py", "from datamodules.digits import Digits", "mmkd never imports datamodules"),
        ("mmkd/data/peers.py", "import espeakng_loader as e", "mmkd never imports espeakng_loader"),
        ("mmkd/__init__.py", "from mmkd.cohort import Cohort", "the root imports cohort"),
        ("mmkd/utils.py", "", "utils is on no floor"),
        ("mmkd/cli.py", "import mmkd.utils", "utils is on no floor"),
    ],
)
def test_a_violation_is_seen(path: str, source: str, complaint: str) -> None:
    assert any(complaint in wrong for wrong in violations({path: source}))


def test_rooms_of_one_floor_do_not_import_one_another_in_a_circle() -> None:
    one_way = {
        "mmkd/knowledge/base.py": "import mmkd.federated.base",
        "mmkd/federated/base.py": "import mmkd.types",
    }
    assert violations(one_way) == []
    circle = one_way | {"mmkd/federated/base.py": "from mmkd.knowledge import base"}
    assert any("rooms import one another" in wrong for wrong in violations(circle))


def test_no_two_files_import_each_other_even_for_types() -> None:
    one_way = {"mmkd/data/peers.py": "from mmkd.data.blocks import Block", "mmkd/data/blocks.py": ""}
    assert violations(one_way) == []
    back = "if TYPE_CHECKING:\n    from mmkd.data.peers import PeerDataModule"
    assert any("files import one another" in w for w in violations(one_way | {"mmkd/data/blocks.py": back}))


def test_what_is_allowed_is_not_a_violation() -> None:
    allowed = {
        "mmkd/__init__.py": '__version__ = "0"',
        "mmkd/functional/mixing.py": "import math\nimport torch\nfrom mmkd.functional.random import key",
        "mmkd/functional/random.py": "from hashlib import blake2b",
        "mmkd/cohort/group.py": "from . import optim\nfrom mmkd.functional.random import key\nimport timm",
        "mmkd/cohort/optim.py": "from mmkd.types import Batch",
        "mmkd/tradeoff/study.py": "import mmkd\nfrom mmkd import __version__\nfrom mmkd.cli import mmkd",
    }
    assert violations(allowed) == []


PUBLISHED = {"published", "fetching"}
SHARED = {
    "cnr_ext": {"parking"},
    "digits": {"speech"},
    "emoji": {"speech"},
    "fashion_mnist": {"idx"},
    "published": {"fetching"},
    "cifar": PUBLISHED,
    "speech_commands": PUBLISHED,
    "esc50": PUBLISHED,
    "ag_news": PUBLISHED,
    "uci_har": PUBLISHED,
    "crema_d": PUBLISHED,
    "mm_imdb": PUBLISHED,
}
"""Data sets that may import another, or what several read: CNR-EXT and the drawn car parks have one format."""


def data_set(module: str) -> str | None:
    """The first name below datamodules: a file or a folder."""
    return module.split(".")[1] if module.startswith("datamodules.") else None


def entanglements(sources: Mapping[str, str]) -> list[str]:
    """What is wrong with data sets and with those who import them, given as path and text of each file."""
    modules = {module_name(path) for path in sources}
    wrong = []
    files: dict[str, set[str]] = {}
    for path, source in sources.items():
        here = data_set(module_name(path))
        for name in imports(path, source, modules):
            there = data_set(name)
            if there is None:
                continue
            if name != module_name(path):
                files.setdefault(module_name(path), set()).add(name)
            if there == here:
                continue
            if name.count(".") > 1:
                wrong.append(
                    f"{path}: {name} is for datamodules.{there} alone, which exports what others use"
                )
            if here is not None and there not in SHARED.get(here, ()):
                wrong.append(f"{path}: the data set {here} imports the data set {there}")
    try:
        TopologicalSorter(files).prepare()
    except CycleError as error:
        wrong.append(f"files import one another: {' -> '.join(error.args[1])}")
    return wrong


def test_data_sets_know_themselves_alone() -> None:
    paths = [p for folder in ("datamodules", "scripts", "tests") for p in (ROOT / folder).rglob("*.py")]
    sources = {p.relative_to(ROOT).as_posix(): p.read_text() for p in paths}
    assert {"datamodules/parking/__init__.py", "scripts/cameras.py"} <= set(sources)
    inside = {path: text for path, text in sources.items() if not path.startswith("tests/datamodules/")}
    assert entanglements(inside) == []


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        (
            {
                "datamodules/parking/days.py": "from datamodules.parking.slots import seen",
                "datamodules/parking/slots.py": "if TYPE_CHECKING:\n    from datamodules.parking import days",
            },
            "files import one another",
        ),
        (
            {
                "datamodules/parking/__init__.py": "from datamodules.parking.days import Moment",
                "datamodules/parking/days.py": "def f():\n    from datamodules.parking import render",
            },
            "files import one another",
        ),
        (
            {"datamodules/radar.py": "from datamodules.digits import WORDS"},
            "the data set radar imports the data set digits",
        ),
        (
            {"datamodules/parking/slots.py": "import datamodules.cnr_ext"},
            "the data set parking imports the data set cnr_ext",
        ),
        (
            {"scripts/cameras.py": "from datamodules.parking.rendering import render"},
            "is for datamodules.parking alone",
        ),
        (
            {
                "datamodules/cnr_ext.py": "from datamodules.parking import cnr_format",
                "datamodules/parking/cnr_format.py": "",
            },
            "is for datamodules.parking alone",
        ),
    ],
)
def test_an_entanglement_of_data_sets_is_seen(sources: Mapping[str, str], complaint: str) -> None:
    assert any(complaint in wrong for wrong in entanglements(sources))


def test_what_data_sets_may_import_is_no_entanglement() -> None:
    allowed = {
        "datamodules/cnr_ext.py": "from datamodules.parking import Tree\nfrom mmkd.data import Samples",
        "datamodules/parking/__init__.py": "from datamodules.parking.cnr_format import Tree",
        "datamodules/parking/cnr_format.py": "from mmkd.types import ConfigError",
        "scripts/cameras.py": "from datamodules.parking import render\nimport datamodules.quadratics",
    }
    assert entanglements(allowed) == []


MOST = 400
"""Lines of the longest module: more than that holds two ideas."""


def test_no_module_is_long() -> None:
    files = [path for room in ("mmkd", "datamodules") for path in (ROOT / room).rglob("*.py")]
    lines = {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in files}
    assert len(lines) > 200
    assert {name: count for name, count in lines.items() if count > MOST} == {}
