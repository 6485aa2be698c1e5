"""The mistakes that ``scripts/mutations.py`` plants are of the code as it is; ``--long`` shows that tests catch them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def test_every_mistake_replaces_code_that_is_there() -> None:
    spec: Any = importlib.util.spec_from_file_location("mutations", ROOT / "scripts" / "mutations.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for mutation in module.MUTATIONS:
        text = (ROOT / "mmkd" / mutation.file).read_text()
        assert mutation.right in text, mutation.mistake
        assert mutation.wrong != mutation.right, mutation.mistake
        assert (ROOT / mutation.suite).exists(), mutation.mistake
