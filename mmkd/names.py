"""Names like one that is not there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near(name: str, names: Iterable[str]) -> str:
    """``"; did you mean ...?"`` with up to three of ``names``, the likeliest first; or nothing.

    A name that ``name`` is the beginning of comes before one that is only spelt alike, the shortest first.
    """
    known = sorted(names)
    longer = sorted((other for other in known if name and other.startswith(name)), key=len)
    found = list(dict.fromkeys([*longer, *get_close_matches(name, known, n=3)]))[:3]
    return f"; did you mean {', '.join(found)}?" if found else ""
