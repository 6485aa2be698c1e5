"""The walks of ARCHITECTURE.md are those that the code takes."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmkd.callbacks import DecentralizedCallback, Recorder
from mmkd.cohort import Cohort, Fleet
from mmkd.federated import Scaffold
from mmkd.knowledge import SharedLogits
from mmkd.topology import Ring, Star
from mmkd.transport import LocalTransport
from tests.tiny import CLASSES, Eye, TinyData, schedule, sgd, trainer

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
MOST = 15
"""Steps of a walk."""


def walk(title: str) -> list[tuple[str, str]]:
    """File and function of each step of a walk."""
    text = PAGE.split(f"### {title}\n")[1].split("\n###")[0]
    numbers = re.findall(r"^(\d+)\. ", text, flags=re.MULTILINE)
    steps = re.findall(r"^\d+\. `([\w/.]+)` `([\w.]+)`: \S", text, flags=re.MULTILINE)
    assert len(steps) == len(numbers), "a step is a file, a function and a sentence"
    return steps


def calls(run: Callable[[], Any]) -> list[tuple[str, str]]:
    """File and qualified name of every function of mmkd that is called."""
    found: list[tuple[str, str]] = []

    def record(frame: Any, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and "/mmkd/" in file:
            found.append((f"mmkd/{file.rpartition('/mmkd/')[2]}", frame.f_code.co_qualname))

    sys.setprofile(record)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def fit(tmp_path: Path, validate: int = 0, **method: Any) -> Callable[[], None]:
    def run() -> None:
        cohort = Cohort(
            {"cameras": Fleet(lambda n: Eye(n, optimizer=sgd(0.1)), 2)}, CLASSES, vectorize="always"
        )
        callbacks = [DecentralizedCallback(schedule=schedule(local_steps=2), **method), Recorder(tmp_path)]
        trainer(*callbacks, max_epochs=1, limit_val_batches=validate).fit(
            cohort, datamodule=TinyData(batch_size=16)
        )

    return run


WALKS: dict[str, Callable[[Path], Callable[[], None]]] = {
    "A private batch": lambda path: fit(path, aggregation=Scaffold(), topology=Star()),
    "A public batch": lambda path: fit(path, knowledge=SharedLogits(), topology=Ring()),
    "A message": lambda path: fit(
        path, knowledge=SharedLogits(), topology=Star(), transport=LocalTransport(serialise=True)
    ),
    "An evaluation": lambda path: fit(path, validate=1),
}


def test_every_walk_is_taken() -> None:
    assert re.findall(r"^### (.*)$", PAGE, flags=re.MULTILINE) == list(WALKS)


@pytest.mark.parametrize("title", WALKS)
def test_functions_are_called_in_the_order_of_the_walk(title: str, tmp_path: Path) -> None:
    steps = walk(title)
    assert 0 < len(steps) <= MOST
    taken = iter(calls(WALKS[title](tmp_path)))
    for number, step in enumerate(steps, 1):
        assert any(call == step for call in taken), f"step {number}, {' '.join(step)}, is not taken then"


def test_the_table_names_every_room() -> None:
    table = PAGE.split("## Words")[0]
    rooms = {p.name + "/" * p.is_dir() for p in (ROOT / "mmkd").iterdir() if not p.name.startswith("__")}
    rooms = {name for name in rooms if name.endswith((".py", "/"))}
    assert {name for name in rooms if f"`{name}`" not in table} == set()


def test_every_file_is_there_with_the_first_sentence_of_its_docstring() -> None:
    listed = PAGE.split("## Every file")[1].strip().splitlines()[2:]
    files = [path for path in (ROOT / "mmkd").rglob("*.py") if path.name != "__init__.py"]
    expected = []
    for path in sorted(files, key=lambda path: (path.parent.as_posix(), path.name)):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        first = " ".join(docstring.split("\n\n")[0].split())
        expected.append(f"- `{path.relative_to(ROOT / 'mmkd').as_posix()}`: {first}")
    assert listed == expected
