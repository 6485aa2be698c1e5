"""Kill runs at random, let them go on, and compare all that they leave with undisturbed runs, bit for bit.

    .venv/bin/python scripts/soak/runs.py --kills 100 --writes 40 --twice 20

Runs are of a tiny cohort with a checkpoint after every block, ten methods and three ways of a local step. A
run is killed with SIGKILL up to three times, at a random time or as soon as a checkpoint is being written
(the temporary folder is on another file system then, where there is one), and goes on from its last one.
Two runs at once in one folder: one of them is refused. The status is 1 if anything was lost, differs or is
left over.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from mmkd.callbacks import DecentralizedCallback
from mmkd.callbacks.recorder import Recorder
from mmkd.callbacks.run_folder import begin_anew
from mmkd.cohort import Cohort, Fleet
from mmkd.encoding import Quantise
from mmkd.federated import FedAdam, FedAvg, Gossip, PushSum, Scaffold
from mmkd.files import unfinished
from mmkd.knowledge import SharedLogits
from mmkd.lock import HOLDER
from mmkd.participation import Sampled
from mmkd.schedule import Schedule
from mmkd.testing.aggregations import PointData, Points, quiet
from mmkd.topology import DirectedCycle, Ring, Star
from mmkd.types import ConfigError

METHODS: dict[str, Callable[[], dict[str, Any]]] = {
    "alone": dict,
    "FedAvg": lambda: {"aggregation": FedAvg(among="all"), "topology": Star()},
    "FedAvg, sampled": lambda: {
        "aggregation": FedAvg(among="all"),
        "topology": Star(),
        "participation": Sampled(count=3),
    },
    "FedAvg, 8 bits": lambda: {
        "aggregation": FedAvg(among="all", compression=Quantise(8)),
        "topology": Star(),
    },
    "FedAdam": lambda: {"aggregation": FedAdam(among="all"), "topology": Star()},
    "SCAFFOLD": lambda: {"aggregation": Scaffold(among="all"), "topology": Star()},
    "Gossip": lambda: {"aggregation": Gossip(among="all"), "topology": Ring()},
    "push-sum": lambda: {"aggregation": PushSum(among="all"), "topology": DirectedCycle()},
    "shared logits": lambda: {"knowledge": SharedLogits(), "topology": Ring()},
    "shared logits of all samples, and FedAvg": lambda: {
        "knowledge": SharedLogits(samples="all"),
        "aggregation": FedAvg(among="all"),
        "topology": Star(),
    },
}
"""The ten methods."""
PATHS: dict[str, dict[str, Any]] = {
    "one after the other": {"vectorize": "never"},
    "vectorised": {"vectorize": "always"},
    "recorded": {"vectorize": "always", "compile": "record"},
}
"""The three ways of a local step."""
EPOCHS = 6
"""Of a run, each with two rounds of two blocks."""


def run(method: str, path: str, folder: Path) -> None:
    """Train in this process, from the last checkpoint if there is one, and write what a run leaves."""
    torch.set_num_threads(1)
    factors = METHODS[method]()
    every = 2 if "knowledge" in factors else None
    schedule = Schedule(local_steps=4, block=2, rounds_per_epoch=2, knowledge_every=every)
    last = folder / "checkpoints" / "last.ckpt"
    if not last.exists():
        begin_anew(folder)
    save = ModelCheckpoint(
        last.parent, filename=last.stem, every_n_train_steps=1, enable_version_counter=False
    )
    student = Fleet(lambda n: Points(n), 5)
    cohort = Cohort({"peers": student}, 2, **PATHS[path])
    with quiet():
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=EPOCHS,
            callbacks=[DecentralizedCallback(schedule=schedule, **factors), Recorder(folder), save],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=str(folder),
        )
        trainer.fit(
            cohort,
            datamodule=PointData(batch_size=4),
            ckpt_path=last if last.exists() else None,
        )
        trainer.save_checkpoint(folder / "end.ckpt")


def left_by(folder: Path) -> dict[str, Any]:
    """All that a finished run leaves, without times."""
    state = torch.load(folder / "end.ckpt", weights_only=False)
    outcome = json.loads((folder / "outcome.json").read_text())
    callbacks = {n: s for n, s in state["callbacks"].items() if not n.startswith("ModelCheckpoint")}
    for own in callbacks.values():
        for name in ("seconds", "run"):
            own.pop(name, None)
    return {
        "weights": {n: t.tolist() for n, t in state["state_dict"].items()},
        "optimizers": str(state["optimizer_states"]),
        "callbacks": str(callbacks),
        "steps": state["global_step"],
        "ledger": list(csv.reader((folder / "ledger.csv").open())),
        "curve": list(csv.reader((folder / "curve.csv").open())),
        "outcome": outcome,
    }


def forked(do: Callable[..., None], *arguments: Any) -> int:
    """Process id of a copy of this process that does one thing and ends: imports take longer than a run."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 0
    try:
        quiet_file = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet_file, 2)
        os.dup2(quiet_file, 1)
        do(*arguments)
    except ConfigError:
        status = 2
    except BaseException:
        (Path(tempfile.gettempdir()) / "soak-error.txt").write_text(traceback.format_exc())
        status = 1
    os._exit(status)


def killed(pid: int, after: float, folder: Path, *, writing: bool) -> int | None:
    """Kill a process after some seconds, or as it writes a checkpoint later; its status if it ends before."""
    begun = time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        late = time.monotonic() - begun >= after
        if late and (not writing or unfinished(folder / "checkpoints")):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.0002 if writing else 0.002)


def soak(kills: int, draw: random.Random, found: Counter[str], *, writing: bool) -> None:
    """Kill runs until so many kills are done; what is counted is added to ``found``."""
    undisturbed: dict[tuple[str, str], tuple[dict[str, Any], float]] = {}
    cases = [(method, path) for method in METHODS for path in PATHS]
    draw.shuffle(cases)
    what = "kills while a checkpoint is written" if writing else "kills"
    number = 0
    while found[what] < kills:
        case = cases[number % len(cases)]
        number += 1
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "whole"
            if case not in undisturbed:
                begun = time.monotonic()
                if ended := killed(forked(run, *case, folder), 1e9, folder, writing=False):
                    raise SystemExit(f"{case} ends with status {ended} undisturbed")
                undisturbed[case] = left_by(folder), time.monotonic() - begun
            whole, seconds = undisturbed[case]
            folder = Path(name) / "cut"
            status: int | None = None
            for _ in range(draw.randint(1, 3)):
                after = draw.uniform(0, 0.9 * seconds)
                status = killed(forked(run, *case, folder), after, folder, writing=writing)
                found[what] += status is None
                if status is not None:
                    break
            if status is None:
                status = killed(forked(run, *case, folder), 1e9, folder, writing=False)
            found["runs"] += 1
            if status:
                found["lost"] += 1
                print(f"{case}: status {status}", file=sys.stderr)
                continue
            left = left_by(folder)
            different = [part for part in whole if whole[part] != left[part]]
            found["equal" if not different else "different"] += 1
            if different:
                print(f"{case}: other {', '.join(different)}", file=sys.stderr)
            found["left over"] += len(list(folder.rglob("*.part"))) + (folder / HOLDER).exists()


def twice(times: int, draw: random.Random, found: Counter[str]) -> None:
    """Begin two runs in one folder at once: one ends as it should, the other is refused."""
    for _ in range(times):
        with tempfile.TemporaryDirectory() as name:
            case = draw.choice(list(METHODS)), draw.choice(list(PATHS))
            pids = [forked(run, *case, Path(name) / "one")]
            while not (Path(name) / "one" / HOLDER).exists():
                time.sleep(0.001)
            pids.append(forked(run, *case, Path(name) / "one"))
            ends = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
            found["two at once"] += 1
            found["two at once, one refused"] += ends == [0, 2]


def main() -> int:
    """Soak, and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=100, help="at random times")
    parser.add_argument("--writes", type=int, default=40, help="while a checkpoint is written")
    parser.add_argument("--twice", type=int, default=20, help="pairs of runs in one folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, found = random.Random(options.seed), Counter[str]()
    soak(options.kills, draw, found, writing=False)
    kept, other = tempfile.gettempdir(), Path("/dev/shm")
    if other.is_dir():  # a file system of its own; folders of runs stay where they were
        os.environ["TMPDIR"], tempfile.tempdir = str(other), kept
    soak(options.writes, draw, found, writing=True)
    twice(options.twice, draw, found)
    for name, number in found.items():
        print(f"{number:6} {name}")
    wrong = found["lost"] + found["different"] + found["left over"]
    return int(wrong > 0 or found["two at once"] != found["two at once, one refused"])


if __name__ == "__main__":
    sys.exit(main())
