"""Kill processes of a network at random, start them again, and look at what becomes of the others.

    .venv/bin/python scripts/soak/network.py --kills 50

Eight peers, each in a process of its own, joined over the loopback interface, with gossip and with FedAvg
(whose hub is in one of those that may be killed).

- ``late: go_on``: three of eight are killed with SIGKILL at a random moment and started again. The others
  must never take longer for a round than the deadline and a second, those that were killed must come back,
  and no checkpoint may be unreadable.
- ``late: stop``: the same, and all are started again as their status asks for: the final weights must be
  those of a network that nobody has disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from runs import forked

from mmkd.callbacks.round_checkpoints import found, path_of
from mmkd.cohort.checkpoints import whole
from mmkd.network import peer

PEERS = 8
DEADLINE = 2.0
METHODS = {
    "gossip": {"topology": {"class_path": "Ring"}, "aggregation": {"class_path": "Gossip"}},
    "FedAvg": {"topology": {"class_path": "Star"}, "aggregation": {"class_path": "FedAvg"}},
}


def configuration(folder: Path, method: str, epochs: int) -> Path:
    """The file of a tiny configuration, whose peers take two local steps a round."""
    factors: Any = json.loads(json.dumps(METHODS[method]))
    factors["aggregation"]["init_args"] = {"among": "all"}
    content = {
        "data": {"class_path": "mmkd.testing.aggregations.PointData", "init_args": {"batch_size": 4}},
        "model": {
            "vectorize": "never",
            "peers": {
                "peers": {"count": PEERS, "student": {"class_path": "mmkd.testing.aggregations.Points"}}
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": epochs,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "check_val_every_n_epoch": epochs,
            "callbacks": [{"class_path": "rounds.Rounds"}],
        },
        "decentralized": {"schedule": {"local_steps": 2, "rounds_per_epoch": 10}, **factors},
    }
    (folder / "network.yaml").write_text(yaml.safe_dump(content))
    return folder / "network.yaml"


class Network:
    """Processes of a network in a folder, each a fork of this one.

    Args:
        folder: of the network.
        file: its configuration.
        late: what they do about silence.
        port: of the first.
    """

    def __init__(self, folder: Path, file: Path, late: str, port: int) -> None:
        self.folder, self._file, self._late = folder, file, late
        self._ends = [f"tcp/127.0.0.1:{port + i}" for i in range(PEERS)]
        self.pids: dict[int, int] = {}
        self.statuses: dict[int, int] = {}

    def start(self, i: int) -> None:
        """Start process ``i``, which knows where all others are."""
        others = [end for j, end in enumerate(self._ends) if j != i]
        place = peer.Place(
            "soak",
            [f"peers/{i}"],
            [self._ends[i]],
            others,
            i == 0,
            DEADLINE,
            self._late,
            0,
            60.0,
            None,
            False,
        )
        self.statuses.pop(i, None)
        self.pids[i] = forked(self._run, i, place)

    def _run(self, i: int, place: peer.Place) -> None:
        torch.set_num_threads(1)
        log = os.open(self.folder / f"log-{i}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["SOAK_ROUNDS"] = str(self.folder / f"rounds-{i}.txt")
        try:
            peer.run([f"--config={self._file}"], place, self.folder / str(i))
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            raise

    def kill(self, i: int) -> None:
        """Kill process ``i``."""
        os.kill(self.pids[i], signal.SIGKILL)
        os.waitpid(self.pids.pop(i), 0)

    def look(self) -> None:
        """Note who has ended, and how."""
        for i, pid in list(self.pids.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del self.pids[i]
                self.statuses[i] = os.waitstatus_to_exitcode(status)

    def end(self, seconds: float) -> None:
        """Wait until all have ended."""
        until = time.monotonic() + seconds
        while self.pids and time.monotonic() < until:
            self.look()
            time.sleep(0.01)
        for i in list(self.pids):
            self.kill(i)
            self.statuses[i] = -signal.SIGKILL

    def rounds(self, i: int) -> list[tuple[float, int]]:
        """When process ``i`` has ended which round."""
        path = self.folder / f"rounds-{i}.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(a), int(b)) for a, b in (line.split() for line in lines if line.count(" ") == 1)]

    def weights(self, i: int) -> str:
        """The last weights of process ``i``."""
        folder = self.folder / str(i) / "checkpoints"
        if not found(folder):
            return ""
        return str(torch.load(path_of(folder, max(found(folder))), weights_only=False)["state_dict"])

    def unreadable(self) -> int:
        """Checkpoints that cannot be read."""
        folders = [self.folder / str(i) / "checkpoints" for i in range(PEERS)]
        broken = [path_of(f, r) for f in folders for r in found(f) if whole(path_of(f, r)) is not None]
        return sum(path.exists() for path in broken)  # others were too old, and are gone


def going_on(name: str, kills: int, draw: random.Random, found_: Counter[str]) -> None:
    """Kill three of eight at a time; the others go on, and those come back."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        network = Network(folder, configuration(folder, name, 100_000), "go_on", draw.randint(20_000, 50_000))
        for i in range(PEERS):
            network.start(i)
        wait(lambda: all(len(network.rounds(i)) > 3 for i in range(PEERS)), 120)
        for _ in range(kills):
            time.sleep(draw.uniform(0, 1))
            chosen = draw.sample(range(PEERS), 3)
            at = time.time()
            for i in chosen:
                network.kill(i)
            time.sleep(draw.uniform(0, 2 * DEADLINE))
            back = time.time()
            for i in chosen:
                network.start(i)
            came = wait(lambda c=chosen, b=back: all(any(t > b for t, _ in network.rounds(i)) for i in c), 60)
            stalled = max(longest(network.rounds(i), at) for i in range(PEERS) if i not in chosen)
            found_[f"kills of three, {name}"] += 1
            found_["came back"] += came
            found_["stalled too long"] += stalled > DEADLINE + 1
            network.look()
            found_["survivors that ended"] += len(network.statuses)
            if not came or stalled > DEADLINE + 1 or network.statuses:
                print(f"{name}: {chosen} came back {came}, stalled {stalled:.1f}, ended {network.statuses}")
                for i in network.statuses:
                    print((folder / f"log-{i}.txt").read_text()[-1500:])
                break
            found_["unreadable checkpoints"] += network.unreadable()
        for i in list(network.pids):
            network.kill(i)


def longest(rounds: list[tuple[float, int]], since: float) -> float:
    """The longest time between the ends of two rounds, from shortly before a moment on."""
    times = [t for t, _ in rounds if t > since - 1]
    return max([b - a for a, b in pairwise(times)], default=0.0)


def stopping(name: str, kills: int, draw: random.Random, found_: Counter[str]) -> None:
    """Kill three of eight at a time, let the others stop, and start all again."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        file = configuration(folder, name, 6)
        (folder / "whole").mkdir()
        whole_ = Network(folder / "whole", file, "stop", draw.randint(20_000, 50_000))
        begun = time.monotonic()
        for i in range(PEERS):
            whole_.start(i)
        whole_.end(120)
        if any(whole_.statuses.values()):
            raise SystemExit(
                f"{name}: {whole_.statuses}\n" + (folder / "whole" / "log-0.txt").read_text()[-1500:]
            )
        first = min(t for t, _ in whole_.rounds(0))
        start, seconds = first - begun, max(t for t, _ in whole_.rounds(0)) - first
        for _ in range(kills):
            cut = Network(folder / "cut", file, "stop", draw.randint(20_000, 50_000))
            shutil.rmtree(folder / "cut", ignore_errors=True)
            (folder / "cut").mkdir()
            for _ in range(draw.randint(1, 2)):
                for i in range(PEERS):
                    if i not in cut.pids:
                        cut.start(i)
                wait(lambda c=cut: all(c.rounds(i) for i in range(PEERS)), 60)
                time.sleep(draw.uniform(0, seconds))
                for i in draw.sample(range(PEERS), 3):
                    if i in cut.pids:
                        cut.kill(i)
                cut.end(4 * DEADLINE)
            for i in range(PEERS):
                cut.start(i)
            cut.end(120)
            found_[f"restarts of all, {name}"] += 1
            equal = all(cut.weights(i) == whole_.weights(i) for i in range(PEERS))
            found_["equal in the end"] += equal and not any(cut.statuses.values())
            if not equal or any(cut.statuses.values()):
                print(f"{name}: {cut.statuses}", file=sys.stderr)
                for i in range(PEERS):
                    print(i, cut.rounds(i)[-4:], file=sys.stderr)
                    print(i, (folder / "cut" / f"log-{i}.txt").read_text(), file=sys.stderr)
        del start


def wait(what: Any, seconds: float) -> bool:
    """Wait until something holds; returns whether it does."""
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def main() -> int:
    """Soak, and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=50, help="of three processes, for each method")
    parser.add_argument("--restarts", type=int, default=5, help="of all, for each method")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, found_ = random.Random(options.seed), Counter[str]()
    sys.path.insert(0, str(Path(__file__).parent))
    for name in options.methods:
        stopping(name, options.restarts, draw, found_)
        going_on(name, options.kills, draw, found_)
    for what, number in found_.items():
        print(f"{number:6} {what}")
    tried = sum(number for what, number in found_.items() if what.startswith(("kills", "restarts")))
    good = found_["came back"] + found_["equal in the end"]
    bad = found_["stalled too long"] + found_["unreadable checkpoints"] + found_["survivors that ended"]
    return int(good != tried or bad > 0)


if __name__ == "__main__":
    sys.exit(main())
