"""How a study grows: what its results folder holds, beside what the study file asks for now."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mmkd.files import replacing, unfinished
from mmkd.lock import HOLDER, LOCK
from mmkd.tradeoff.identity import Identity, differences, digest
from mmkd.types import ConfigError

IDENTITY = "identity.json"
"""File of what a run is made of, written when it begins."""
RESULT = "result.json"
"""File of the result of a run, written when it ends."""
BESIDE = (IDENTITY, "curve.csv", "ledger.csv")
"""Files that a result vouches for."""
State = Literal["kept", "new", "unfinished", "begun anew", "changed"]
"""What becomes of a run; a changed one is asked about first."""


class Standing(NamedTuple):
    """How a run on the disk stands to what the study says now."""

    method: str
    seed: int
    state: State
    reasons: Sequence[str] = ()


def folder_of(out: Path, method: str, seed: int) -> Path:
    """The folder of a run."""
    return out / "runs" / method / f"seed{seed}"


def begin(folder: Path, made_of: Identity) -> None:
    """Note what a run is made of, before it trains."""
    write_json(folder / IDENTITY, made_of._asdict())


def finish(folder: Path, result: Mapping[str, Any]) -> None:
    """Write the result of a run, with hashes of itself and of the files beside it."""
    files = {name: _hash(folder / name) for name in BESIDE}
    whole = {**result, "files": files}
    write_json(folder / RESULT, {**whole, "digest": digest(whole)})


def standing(out: Path, method: str, seed: int, now: Identity) -> Standing:
    """How a run stands to the study.

    Args:
        out: the results folder.
        method: of the run.
        seed: of the run.
        now: what the run would be made of today.
    """
    folder = folder_of(out, method, seed)
    finished, failed = (folder / RESULT).is_file(), (folder / "failed.json").is_file()
    if finished and (wrong := tampered(folder)):
        return Standing(method, seed, "changed", [wrong])
    begun = saved_identity(folder)
    if begun is None:
        there = folder.is_dir() and {*folder.iterdir()} > {*unfinished(folder)}
        return Standing(method, seed, "begun anew" if there else "new")
    if differ := differences(begun, now):
        worth = finished or (not failed and any(folder.glob("checkpoint/*.ckpt")))
        return Standing(method, seed, "changed" if worth else "begun anew", differ)
    return Standing(method, seed, "kept" if finished else "unfinished")


def tampered(folder: Path) -> str | None:
    """Why the result of a finished run cannot be trusted to be what the run left; None if it can."""
    try:
        result = json.loads((folder / RESULT).read_text())
        if not {"digest", "files"} <= result.keys():
            return "an older mmkd wrote it, which did not keep what it was made of"
    except (OSError, ValueError, AttributeError):
        return f"{RESULT} cannot be read"
    return edited(folder, result)


def edited(folder: Path, result: Mapping[str, Any]) -> str | None:
    """Which file of a finished run is not as the run left it; None if all are, or if nothing tells.

    Args:
        folder: of the run.
        result: the content of its ``result.json``.
    """
    if result.get("digest") != digest({key: value for key, value in result.items() if key != "digest"}):
        return f"{RESULT} was changed after the run" if "digest" in result else None
    for name, known in result["files"].items():
        if (found := _hash(folder / name)) != known:
            return f"{name} {'is missing' if found is None else 'was changed after the run'}"
    return None


def saved_identity(folder: Path) -> Identity | None:
    """What a run was made of; None if nobody wrote it, or not to its end."""
    try:
        found = Identity(**json.loads((folder / IDENTITY).read_text()))
        return found if isinstance(found.settings, dict) and isinstance(found.code, dict) else None
    except (OSError, ValueError, TypeError):
        return None


def set_aside(folder: Path) -> Path:
    """Rename a run's folder to the first free one of ``seed0.1``, ``seed0.2``, ...; returns where it is."""
    free = (folder.with_name(f"{folder.name}.{number}") for number in count(1))
    aside = next(path for path in free if not path.exists())
    return folder.rename(aside)


def described(standings: Iterable[Standing]) -> list[str]:
    """A line for the runs of a method of which the same is true, in the order of the methods."""
    lines: dict[tuple[str, str, str], list[int]] = {}
    for run in standings:
        lines.setdefault((run.method, run.state, "; ".join(run.reasons)), []).append(run.seed)
    return [
        f"{state + ':':<12}{method}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        + (f": {reasons}" if reasons else "")
        for (method, state, reasons), seeds in lines.items()
    ]


def check_folder(out: Path, name: str) -> dict[str, Any]:
    """What ``study.json`` in a results folder says; empty if there is none yet.

    Raises:
        ConfigError: the folder holds another study, or something else, or the file is broken.
    """
    marker = out / "study.json"
    if not marker.exists():
        there = {path.name for path in out.iterdir()} - {LOCK, HOLDER} if out.exists() else set()
        if there and "runs" not in there:
            raise ConfigError(f"{out} is not empty and holds no study; choose another --out")
        return {}
    try:
        saved: dict[str, Any] = json.loads(marker.read_text())
        known = saved["name"], [int(seed) for seed in saved["seeds"]], dict(saved["methods"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{marker} cannot be read; remove it and run the same command again: it is written anew, and no"
            " run is lost"
        ) from None
    if known[0] != name:
        raise ConfigError(
            f"{out} already holds another study, '{known[0]}', and this is '{name}'; choose another --out, or"
            " give the study its name back"
        )
    return saved


def write_json(path: Path, content: Any) -> None:
    """Replace a file at once (``mmkd.files``)."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1))


def _hash(path: Path) -> str | None:
    return sha256(path.read_bytes()).hexdigest()[:32] if path.is_file() else None
