"""Names: those like one that is not there, and those that no file can have."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 255
"""Greatest length of the name of a file, in bytes of UTF-8."""


def near(name: str, names: Iterable[str]) -> str:
    """``"; did you mean ...?"`` with up to three of ``names``, the likeliest first; or nothing.

    A name that ``name`` is the beginning of comes before one that is only spelt alike, the shortest first.
    """
    known = sorted(names)
    longer = sorted((other for other in known if name and other.startswith(name)), key=len)
    found = list(dict.fromkeys([*longer, *get_close_matches(name, known, n=3)]))[:3]
    return f"; did you mean {', '.join(found)}?" if found else ""


def no_file(name: str) -> str | None:
    """Why a name cannot be that of a file or folder within another, as in "it ..."; None if it can."""
    if not name.strip(". "):
        return "is empty or made of dots"
    if slashes := {"/", "\\"} & set(name):
        return f"contains {slashes.pop()}, which would lead out of its folder"
    if not name.isprintable():
        return "contains characters that cannot be printed"
    if (size := len(name.encode())) > LONGEST:
        return f"is {size} bytes long, and names of files are at most {LONGEST}"
    return None
