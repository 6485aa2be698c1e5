"""Files that users write: their text, and YAML in which nothing is said twice or grows without end."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import yaml

from mmkd.errors import ConfigError

DEEPEST = 100
"""Greatest depth of lists and dictionaries in one another."""
MOST_ENTRIES = 1_000_000
"""Greatest number of entries of a file, where an alias counts as all that it stands for."""
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Reads plain YAML, and makes no objects."""


def text_of(path: str | Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        ConfigError: it cannot be read, or is in another encoding.
    """
    try:
        content = Path(path).read_bytes()
        return content.decode()
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: this is no UTF-8; save the file in that encoding") from error


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or ``check_yaml`` refuses it.
    """
    text = text_of(path)
    try:
        check_yaml(text, str(path))
        return yaml.load(text, LOADER)
    except (yaml.YAMLError, ValueError) as error:  # a date or a number that there is not
        if isinstance(error, ConfigError):
            raise
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        told = [getattr(error, "context", None), getattr(error, "problem", None)]
        problem = ", ".join(filter(None, told)) or str(error).splitlines()[0]
        raise ConfigError(f"{path}{line}: this is no YAML: {problem}") from error


def check_yaml(text: str, name: str) -> None:
    """Refuse YAML that says a key twice, contains itself, or grows beyond all measure by its aliases.

    What is read is never built, so an alias costs nothing here however much it stands for.

    Args:
        text: the YAML.
        name: what it is called in an error.

    Raises:
        ConfigError: such YAML.
        yaml.YAMLError: it is no YAML at all.
    """
    sizes: dict[str | None, int] = {}
    open_: list[_Open] = []
    events: Any = yaml.parse(text, Loader=LOADER)
    for event in events:
        where = f"{name}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append(_Open(event.anchor, isinstance(event, yaml.MappingStartEvent)))
            if len(open_) > DEEPEST:
                raise ConfigError(f"{where}: lists and dictionaries are more than {DEEPEST} deep")
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == outer.anchor for outer in open_):
                raise ConfigError(f"{where}: *{event.anchor} stands within what it stands for")
            entry, size, anchor = None, sizes.get(event.anchor, 1), None
        elif isinstance(event, yaml.ScalarEvent):
            entry, size, anchor = event.value, 1, event.anchor
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = open_.pop()
            entry, size, anchor = None, closed.size, closed.anchor
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        if open_ and not open_[-1].add(entry, size):
            raise ConfigError(f"{where}: '{entry}' is there twice; remove one of the two")
        if size > MOST_ENTRIES or (open_ and open_[-1].size > MOST_ENTRIES):
            raise ConfigError(f"{where}: aliases make more than {MOST_ENTRIES:,} entries of this")


class _Open:
    """A list or a dictionary whose end has not been read.

    Args:
        anchor: its name for aliases, if it has one.
        mapping: whether it is a dictionary, whose entries are keys and values in turn.
    """

    def __init__(self, anchor: str | None, mapping: bool) -> None:
        self.anchor, self.size = anchor, 1
        self._keys: set[str] = set()
        self._is_key = cycle((True, False) if mapping else (False,))

    def add(self, entry: str | None, size: int) -> bool:
        """Count an entry; returns whether it may be there, which a key may only once."""
        self.size += size
        if not next(self._is_key) or entry is None:
            return True
        twice = entry in self._keys
        self._keys.add(entry)
        return not twice
