"""Time a round in four processes against the same in one, and count what crosses the wire against the ledger.

    .venv/bin/python scripts/bench/networks.py

- ``cost``: a round of Multi-Headed Distillation (25 steps, each with an exchange) of twelve peers, three in
  each of four processes on the loopback interface, and all twelve in one process, in turn. Every process has
  one thread, students train one after the other in both (``vectorize: never``), and both have the same cores:
  all processes share one core, or two. Seconds are medians over the rounds of a run, on the clock
  and of computing, which others on the machine disturb less; with and without a checkpoint after every
  round, which ``mmkd peer`` writes and ``mmkd fit`` does not.
- ``bytes``: the bytes that TCP carries for four peers in four processes, captured by the relay that all
  connections pass (see ``scripts/soak/wires.py``), against what ledgers count: tensors, framing and joining.
  Letters are told apart from the rest by what each process hands to Zenoh.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from csv import DictReader
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "soak")]

from runs import forked  # noqa: E402  # in the folder that was just named
from wires import Wires, alone  # noqa: E402

from mmkd.callbacks.round_checkpoints import RoundCheckpoints  # noqa: E402
from mmkd.cli import MmkdCLI  # noqa: E402
from mmkd.network import peer  # noqa: E402

FILES = [f"configs/{name}.yaml" for name in ("data/digits", "method/mhd")]
PROCESSES = 4
HEADS = 3
FLEETS = ("cameras", "microphones", "phones")
TRAINER = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "callbacks": [{"class_path": "rounds.Rounds"}],
}


def quiet(folder: Path, i: int, cores: int) -> None:
    """Make this process one of those that are measured."""
    log = os.open(folder / f"log-{i}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(1)
    os.environ |= {"SOAK_ROUNDS": str(folder / f"rounds-{i}.txt"), "SOAK_PAUSE": "0"}


def settings(folder: Path, files: Sequence[str], more: dict[str, Any], epochs: int) -> list[str]:
    """Arguments of ``mmkd fit``."""
    trainer = {**TRAINER, "max_epochs": epochs, "check_val_every_n_epoch": epochs}
    path = folder / "more.yaml"
    path.write_text(yaml.safe_dump({"trainer": trainer, **more}))
    return [*(f"--config={ROOT / file}" for file in files), f"--config={path}"]


def ended(folder: Path, pids: Sequence[int]) -> None:
    """Wait for processes.

    Raises:
        SystemExit: one has failed.
    """
    for i, pid in enumerate(pids):
        if os.waitpid(pid, 0)[1]:
            raise SystemExit((folder / f"log-{i}.txt").read_text()[-2000:])


# --- cost -----------------------------------------------------------------------------------------


class Round(NamedTuple):
    """What a round takes: medians over a run's rounds."""

    wall: float  # seconds
    cpu: float  # seconds of computing, of all processes and their threads


def taken(folder: Path) -> Round:
    """What a round took, from one's end to the next one's."""
    times = [float(line.split()[0]) for line in (folder / "rounds-0.txt").read_text().splitlines()]
    used = [[float(line) for line in path.read_text().split()] for path in folder.glob("rounds-*.txt.cpu")]
    return Round(_between(times), sum(map(_between, used)))


def _between(times: Sequence[float]) -> float:
    return median(b - a for a, b in pairwise(times))


def students() -> dict[str, Any]:
    """Settings of the twelve peers, with auxiliary heads."""
    model: dict[str, Any] = yaml.safe_load((ROOT / "configs/peers/trio.yaml").read_text())["model"]
    for fleet in model["peers"].values():
        fleet["student"]["init_args"]["heads"] = HEADS
    return {"model": {**model, "vectorize": "never"}}


def in_one(folder: Path, rounds: int, cores: int, *, saved: bool) -> Round:
    """What a round of one process takes."""

    def work() -> None:
        quiet(folder, 0, cores)
        arguments = settings(folder, FILES, students(), rounds)
        callbacks = [RoundCheckpoints(folder / "checkpoints")] if saved else []
        cli: Any = MmkdCLI(
            [*arguments, f"--recorder.folder={folder / 'run'}"],
            run=False,
            callbacks=callbacks,
            enable_checkpointing=saved,
        )
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)

    ended(folder, [forked(work)])
    return taken(folder)


def in_four(folder: Path, rounds: int, cores: int, *, saved: bool) -> Round:
    """What a round of four processes takes."""
    ports = free(PROCESSES)
    ends = [f"tcp/127.0.0.1:{port}" for port in ports]

    def work(i: int) -> None:
        quiet(folder, i, cores)
        if not saved:
            RoundCheckpoints.on_train_batch_end = lambda *_: None  # type: ignore[method-assign]  # in this child alone
        arguments = settings(folder, FILES, students(), rounds)
        own = [f"{fleet}/{i}" for fleet in FLEETS]
        place = peer.Place("bench", own, [ends[i]], ends[:i], i == 0, gather=120.0)
        peer.run(arguments, place, folder / str(i))

    ended(folder, [forked(work, i) for i in range(PROCESSES)])
    return taken(folder)


def free(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def cost(pairs: int, rounds: int, cores: int) -> None:
    """Time both in turn, and print ratios."""
    for saved in (False, True):
        ones, walls, cpus = list[float](), list[float](), list[float]()
        for _ in range(pairs):
            found = []
            for way in (in_one, in_four):
                with tempfile.TemporaryDirectory() as text:
                    found.append(way(Path(text), rounds, cores, saved=saved))
            one, four = found
            ones.append(one.wall)
            walls.append(four.wall / one.wall)
            cpus.append(four.cpu / one.cpu)
        spread = [f"{median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in (walls, cpus)]
        print(
            f"{cores} core(s), checkpoints {'every round' if saved else 'never'}, {pairs} pairs: one process"
            f" {median(ones):.2f} s a round, four {spread[0]} times that; computing {spread[1]} times;"
            f" load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


# --- bytes ----------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Messages of a size."""

    name: str
    decentralized: dict[str, Any]
    width: int = 16  # of the student


def weights(topology: str, aggregation: str) -> dict[str, Any]:
    """A method that exchanges weights, once a round."""
    return {
        "topology": {"class_path": topology},
        "aggregation": {"class_path": aggregation, "init_args": {"among": "all"}},
        "schedule": {"local_steps": 2, "rounds_per_epoch": 10},
    }


def logits(kind: str, every: int) -> dict[str, Any]:
    """A method that exchanges what students say."""
    return {
        "topology": {"class_path": "Complete"},
        "knowledge": {"class_path": kind},
        "schedule": {"local_steps": 25, "rounds_per_epoch": 10, "knowledge_every": every},
    }


CASES = [
    Case("weights, gossip on a ring", weights("Ring", "Gossip")),
    Case("weights, FedAvg through a hub", weights("Star", "FedAvg")),
    Case("weights, a narrow student", weights("Ring", "Gossip"), 4),
    Case("multi-headed, every step", logits("MultiHeadDistillation", 1)),
    Case("logits, every step", logits("SharedLogits", 1)),
]


def count(case: Case, rounds: int) -> None:
    """Print what crosses the wire of a case."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        wires = Wires(PROCESSES, relayed=True)
        pids = []
        for i in range(PROCESSES):
            wires.before(i)
            pids.append(forked(counted, i, wires, case, folder, rounds))
            wires.after(i)
        wires.connected()
        begun = time.monotonic()
        ended(folder, pids)
        took = time.monotonic() - begun
        carried = wires.bytes()
        wires.end()
        ledger: dict[str, int] = {}
        for i in range(PROCESSES):
            for row in DictReader((folder / str(i) / "ledger.csv").read_text().splitlines()):
                ledger[row["kind"]] = ledger.get(row["kind"], 0) + int(row["bytes"])
        handed = [json.loads((folder / f"handed-{i}.json").read_text()) for i in range(PROCESSES)]
        letters, empty, keys, slips, messages = (sum(column) for column in zip(*handed, strict=True))
        stated = sum(ledger.values())
        rest = carried - messages - keys - slips
        crossed = messages + ledger["joining"]  # not what stays in a process
        print(
            f"{case.name}: {letters - empty} letters of {messages / (letters - empty):.0f} bytes, and {empty}"
            f" empty ones, in {took:.0f} s\n  TCP carried {carried}, ledgers state {stated} ({ledger}): ratio"
            f" {carried / stated:.4f}, to those that leave a process {carried / crossed:.4f}\n"
            f"  messages {messages}, slips {slips}, keys at full length {keys}, rest {rest}",
            flush=True,
        )


def counted(i: int, wires: Wires, case: Case, folder: Path, rounds: int) -> None:
    """One process, which notes what it hands to Zenoh."""
    quiet(folder, i, os.cpu_count() or 1)
    wires.inside(i)
    from mmkd.transport import zenoh
    from mmkd.transport.session import opened

    handed = [0, 0, 0, 0, 0]  # letters, of these empty, bytes of keys, of slips, of messages

    def watched(*arguments: Any, **more: Any) -> Any:
        session = opened(*arguments, **more)
        return Watched(session, handed)

    setattr(zenoh, "opened", watched)  # noqa: B010  # a name that it imports
    listen, hosts = wires.endpoints(i)
    place = peer.Place("bench", [f"peers/{i}"], listen, hosts, i == 0, gather=120.0, open=True)
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    student = {"class_path": "VisionStudent", "init_args": {"width": case.width, "optimizer": optimizer}}
    if "knowledge" in case.decentralized and "Multi" in case.decentralized["knowledge"]["class_path"]:
        student["init_args"]["heads"] = HEADS  # type: ignore[index]  # a table of tables
    more = {
        "model": {"vectorize": "never", "peers": {"peers": {"count": PROCESSES, "student": student}}},
        "decentralized": case.decentralized,
    }
    peer.run(settings(folder, FILES[:1], more, rounds // 10), place, folder / str(i))
    (folder / f"handed-{i}.json").write_text(json.dumps(handed))


class Watched:
    """A session of Zenoh that notes the letters that are put.

    Args:
        session: of Zenoh.
        handed: where to.
    """

    def __init__(self, session: Any, handed: list[int]) -> None:
        self._session, self._handed = session, handed

    def put(self, key: str, encoded: bytes, *, attachment: bytes, **more: Any) -> None:
        """Send a letter."""
        for place, size in enumerate((1, not encoded, len(key), len(attachment), len(encoded))):
            self._handed[place] += size
        self._session.put(key, encoded, attachment=attachment, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("what", nargs="*", default=["cost", "bytes"], choices=("cost", "bytes"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8, help="of a run that is timed")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
    options = parser.parse_args()
    do: dict[str, Callable[[], object]] = {
        "cost": lambda: [cost(options.pairs, options.rounds, cores) for cores in options.cores],  # type: ignore[func-returns-value]  # prints
        "bytes": lambda: [count(case, 20) for case in CASES if case.name in options.cases],  # type: ignore[func-returns-value]  # prints
    }
    if "bytes" in options.what:
        alone()
    for what in options.what:
        do[what]()


if __name__ == "__main__":
    main()
