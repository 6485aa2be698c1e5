"""Running a study: methods times seeds, in turn or side by side, what is new and what was cut off."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import yaml
from tqdm import tqdm

import mmkd
from mmkd.errors import LostError
from mmkd.launch import calls
from mmkd.launch.cluster import Cluster
from mmkd.lock import holding
from mmkd.processes import each
from mmkd.tradeoff import growth
from mmkd.tradeoff.identity import Identity, identity
from mmkd.tradeoff.study import ALL, Study
from mmkd.types import ConfigError, DivergedError

PACKAGES = ("torch", "lightning", "timm", "transformers", "torchaudio", "torchmetrics", "wandb")
"""Packages whose versions are saved with a study."""


class Failure(NamedTuple):
    """Why a run has no result."""

    reason: str
    kind: Literal["diverged", "refused", "error"]  # to diverge is an outcome of a method and no error


def run(
    study: Study,
    out: Path,
    *,
    command: str,
    only: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    settings: Sequence[str] = (),
    jobs: int = 1,
    cluster: Cluster | None = None,
    redo: Sequence[str] = (),
) -> bool:
    """Run what has no result yet; a run that was cut off goes on from its last checkpoint.

    A run that diverges or raises is noted, and the study goes on. What has a result is kept if it is still
    made of what the study says; otherwise nothing runs unless ``redo`` names its method.

    Args:
        study: what to run.
        out: the results folder, which no other process may hold.
        command: the command that started the study, for the report.
        only: methods, instead of all.
        seeds: instead of those of the study.
        settings: of every run.
        jobs: runs side by side, each in a process of its own with its part of the threads.
        cluster: where runs are made in place of that.
        redo: methods whose changed runs are set aside and done again, or ``ALL``.

    Returns:
        Whether no run raised an error.

    Raises:
        ConfigError: a run has changed, ``out`` holds another study or is in use, a name is no method of it,
            there are no jobs, a machine of the cluster does not see ``out``, or every run was refused as it
            began.
    """
    study.check_methods([*(only or ()), *(name for name in redo if name != ALL)])
    chosen, names = list(seeds if seeds is not None else study.seeds), list(only or study.methods)
    growth.check_folder(out, study.name)
    made_of, accelerators = {}, set()
    for name in names:  # an error in the last method must show at once and not after hours
        cli = study.configure(out, name, chosen[0], settings)
        made_of[name] = identity(yaml.safe_load(cli.parser.dump(cli.config)))
        if cluster is not None:
            accelerators.add(str(cli.config.trainer.accelerator))
    with holding(out):
        saved = growth.check_folder(out, study.name)
        runs = [(name, seed) for seed in chosen for name in names]
        standings = [growth.standing(out, *one, made_of[one[0]].with_seed(one[1])) for one in runs]
        _prepare(out, standings, names if ALL in redo else redo)
        growth.write_json(out / "study.json", _page(study, saved, command, chosen, settings, made_of))
        due = [one for one, found in zip(runs, standings, strict=True) if found.state != "kept"]
        end = partial(_end, study, out, settings, made_of)
        if cluster is None:
            ends = each(jobs, end, due)
        else:
            ends = calls.each(cluster, end, due, folder=out, accelerators=accelerators)
        return _report(_ended(study, due, ends), len(due))


def _prepare(out: Path, standings: Sequence[growth.Standing], redo: Sequence[str]) -> None:
    """Say what is kept and what runs, and set aside what is begun anew; nothing moves if that is refused."""
    if any(run.state != "new" for run in standings):
        print("\n".join(growth.described(standings)), file=sys.stderr)
    refused = {run.method: None for run in standings if run.state == "changed" and run.method not in redo}
    if refused:
        raise ConfigError(
            f"runs of {', '.join(refused)} are not what the study says now, as listed above; nothing was run."
            f" Do them again with {' '.join(f'--redo {name}' for name in refused)} (or --redo {ALL}), which"
            " keeps the old ones beside the new, or undo the change"
        )
    for method, seed, state, _ in standings:
        if state in ("changed", "begun anew"):
            growth.set_aside(growth.folder_of(out, method, seed))


def _page(
    study: Study,
    saved: Mapping[str, Any],
    command: str,
    seeds: Sequence[int],
    settings: Sequence[str],
    made_of: Mapping[str, Identity],
) -> dict[str, Any]:
    """The content of ``study.json``: what a report says of a study as a whole."""
    known = {name: row.get("made_of") for name, row in saved.get("methods", {}).items()}
    known |= {name: found._asdict() for name, found in made_of.items()}
    return {
        "name": study.name,
        "title": study.title,
        "methods": {
            name: {
                "label": method.label,
                "description": method.description,
                "family": method.family,
                "made_of": known.get(name),
            }
            for name, method in study.methods.items()
        },
        "seeds": sorted({*saved.get("seeds", ()), *seeds}),
        "command": command,
        "settings": list(settings),
        "versions": {"mmkd": mmkd.__version__, "python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "machine": {
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "tuning": study.tuning,
        "notes": study.notes,
    }


def _ended(study: Study, runs: Sequence[tuple[str, int]], ends: Any) -> dict[str, Failure]:
    """The runs without a result, by their names."""
    failed: dict[str, Failure] = {}
    with closing(ends), tqdm(runs, desc=study.name, unit="run", position=0, dynamic_ncols=True) as bar:
        for name, seed in bar:
            bar.set_postfix_str(f"{name}, seed {seed}")
            try:
                failure = next(ends)
            except LostError as lost:
                return failed | {f"{name}, seed {seed}": Failure(str(lost), "error")}
            if failure is not None:
                failed[f"{name}, seed {seed}"] = failure
    return failed


def _report(failed: Mapping[str, Failure], runs: int) -> bool:
    """Say which runs have no result; a study of which nothing could begin is refused as a whole."""
    if failed and len(failed) == runs and all(failure.kind == "refused" for failure in failed.values()):
        raise ConfigError("; ".join(f"{name}: {failure.reason}" for name, failure in failed.items()))
    for name, failure in failed.items():
        print(f"mmkd: {name} has no result: {failure.reason}")
    return all(failure.kind == "diverged" for failure in failed.values())


def _end(
    study: Study, out: Path, settings: Sequence[str], made_of: Mapping[str, Identity], one: tuple[str, int]
) -> Failure | None:
    """Finish a run; returns why it has no result."""
    name, seed = one
    folder = growth.folder_of(out, name, seed)
    try:
        _run(study, folder, name, seed, settings, made_of[name].with_seed(seed))
    except DivergedError as error:
        growth.write_json(folder / "failed.json", {"reason": str(error)})
        return Failure(str(error), "diverged")
    except ConfigError as error:
        growth.write_json(folder / "failed.json", {"reason": str(error)})
        return Failure(str(error), "refused")
    except Exception as error:  # of one run, which must not cost the others
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        growth.write_json(folder / "failed.json", {"reason": reason, "traceback": traceback.format_exc()})
        return Failure(f"{reason} ({folder / 'failed.json'} has the traceback)", "error")
    return None


def _run(
    study: Study, folder: Path, name: str, seed: int, settings: Sequence[str], made_of: Identity
) -> None:
    os.environ.update(WANDB_RUN_GROUP=study.name, WANDB_NAME=f"{name}-seed{seed}", WANDB_DIR=str(folder))
    growth.begin(folder, made_of)
    last = folder / "checkpoint" / "last.ckpt"
    cli = study.configure(folder, name, seed, settings)
    from mmkd.callbacks.run_folder import begin_anew
    from mmkd.cohort.checkpoints import whole
    from mmkd.tradeoff.settings import changed

    going_on = last if last.exists() else None
    if going_on is not None and (reason := whole(going_on)):
        tqdm.write(f"mmkd: {name}, seed {seed} begins anew: {reason}")
        going_on = None
    if going_on is None:
        begin_anew(folder)
    try:
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=going_on)
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    finally:
        wandb = sys.modules.get("wandb")  # a run that it does not track need not import it
        if wandb is not None and wandb.run is not None:
            wandb.finish()
    _reference(folder.parents[2], seed, cli.datamodule)
    outcome = json.loads((folder / "outcome.json").read_text())
    shown = changed(yaml.safe_load(cli.parser.dump(cli.config)))
    shown.pop("model.seed", None)  # so that the runs of a method have equal settings
    growth.finish(folder, {"method": name, "seed": seed, "settings": shown, **outcome})
    shutil.rmtree(last.parent, ignore_errors=True)
    (folder / "outcome.json").unlink()
    (folder / "failed.json").unlink(missing_ok=True)


def _reference(out: Path, seed: int, data: Any) -> None:
    """Write the data's reference scores of a seed, if the datamodule has any."""
    path = out / "references" / f"seed{seed}.json"
    if not path.exists() and hasattr(data, "references"):
        growth.write_json(path, {m: data.references(m) for m in data.modalities})
