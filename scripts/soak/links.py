"""Train over bad links, and compare what comes out with what comes out over good ones.

    .venv/bin/python scripts/soak/links.py

Eight peers that see digits, each in a process of its own, with weights that go round a ring (gossip), with
FedAvg through a hub, and with shared logits. Links hold every byte back by 100 ms, lose 5 % of packets, carry
1 Mbit/s, or part for a while, either silently (packets are dropped) or by closing connections. Even
processes are then apart from odd ones, so every edge of the ring is cut.

- ``late: stop``, with a deadline longer than any of this: final weights are those of good links, bit for bit.
- ``late: go_on``, with a deadline that is shorter than the partition: accuracy is within two points.

Needs ``ip``, ``tc`` and, for what drops packets, ``nft``; what cannot be tried is said. Processes are where
``wires.py`` puts them. The status is 1 if anything differs that should not, or a process does not end well.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
import yaml
from runs import forked
from wires import Wires, alone, can_drop

from mmkd.callbacks.round_checkpoints import found, path_of
from mmkd.network import peer
from mmkd.transport import Mail

PEERS = 8
METHODS: dict[str, dict[str, Any]] = {
    "gossip": {"topology": {"class_path": "Ring"}, "aggregation": {"class_path": "Gossip"}},
    "FedAvg": {"topology": {"class_path": "Star"}, "aggregation": {"class_path": "FedAvg"}},
    "shared logits": {"topology": {"class_path": "Ring"}, "knowledge": {"class_path": "SharedLogits"}},
}
POINTS = 0.02
"""By how much an accuracy may differ where weights do."""
DEADLINES = {"stop": 60.0, "go_on": 3.0}
CUT = {"stop": 14.0, "go_on": 7.0}
"""Seconds of a partition: longer than Zenoh believes in a silent link (10) where all wait for it to heal, and
longer than the deadline where they do not."""
AT = 4
"""The round after which links part."""


class Links(NamedTuple):
    """How links are."""

    relayed: bool = False
    delay: float = 0.0
    rate: str | None = None
    loss: float = 0.0
    parts: str = ""  # "packets" are dropped for a while, or connections are "closed"

    @property
    def needs_nft(self) -> bool:
        """Whether packets are dropped."""
        return self.loss > 0 or self.parts == "packets"


WAYS = {
    "good": Links(),
    "100 ms delay": Links(relayed=True, delay=0.1),
    "5 % loss": Links(loss=0.05),
    "1 Mbit/s": Links(rate="1mbit"),
    "parted, silently": Links(parts="packets"),
    "parted, closed": Links(relayed=True, parts="closed"),
}


def configuration(folder: Path, method: str, rounds: int) -> Path:
    """The file of a configuration of eight small students."""
    factors: Any = json.loads(json.dumps(METHODS[method]))
    if "aggregation" in factors:
        factors["aggregation"]["init_args"] = {"among": "all"}
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    student = {"class_path": "VisionStudent", "init_args": {"width": 8, "optimizer": optimizer}}
    content = {
        "data": {
            "class_path": "datamodules.digits.TrimodalDigits",
            "init_args": {
                "batch_size": 16,
                "public_batch_size": 32,
                "partition": {"class_path": "IID"},
            },
        },
        "model": {"vectorize": "never", "peers": {"peers": {"count": PEERS, "student": student}}},
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "callbacks": [{"class_path": "rounds.Rounds"}],
        },
        "decentralized": {"schedule": {"local_steps": 10, "rounds_per_epoch": rounds}, **factors},
    }
    (folder / "network.yaml").write_text(yaml.safe_dump(content))
    return folder / "network.yaml"


class Outcome(NamedTuple):
    """What became of a network."""

    seconds: float  # of training: between the ends of the first round and of the last
    accuracy: float
    weights: Mapping[str, torch.Tensor]
    heard: int  # messages that were handed over in time, of all processes
    dropped: int  # packets
    problem: str = ""


def trained(file: Path, folder: Path, late: str, links: Links, pause: float) -> Outcome:
    """Train all processes over links that are so, and look at what they leave."""
    wires = Wires(PEERS, relayed=links.relayed, delay=links.delay, rate=links.rate, loss=links.loss)
    pids = {}
    for i in range(PEERS):
        wires.before(i)
        pids[i] = forked(process, i, wires, file, folder, late, pause)
        wires.after(i)
    wires.connected()
    parting = threading.Thread(target=part, args=(wires, folder, links.parts, CUT[late]), daemon=True)
    if links.parts:
        parting.start()
    statuses = {i: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for i, pid in pids.items()}
    if links.parts:
        parting.join()
    dropped = wires.dropped()
    wires.end()
    if any(statuses.values()):
        bad = next(i for i, status in statuses.items() if status)
        return Outcome(0, 0, {}, 0, dropped, f"{statuses}: {(folder / f'log-{bad}.txt').read_text()[-600:]}")
    accuracies, heard, weights = list[float](), 0, dict[str, torch.Tensor]()
    for i in range(PEERS):
        outcome = json.loads((folder / str(i) / "outcome.json").read_text())
        accuracies += [scores["shared_accuracy"] for scores in outcome["test"].values()]
        heard += int((folder / f"heard-{i}.txt").read_text())
        checkpoints = folder / str(i) / "checkpoints"
        state = torch.load(path_of(checkpoints, max(found(checkpoints))), weights_only=False)["state_dict"]
        weights |= {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    times = [float(line.split()[0]) for line in (folder / "rounds-0.txt").read_text().splitlines()]
    return Outcome(times[-1] - times[0], fmean(accuracies), weights, heard, dropped)


def process(i: int, wires: Wires, file: Path, folder: Path, late: str, pause: float) -> None:
    """One process, with one peer."""
    log = os.open(folder / f"log-{i}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    wires.inside(i)
    torch.set_num_threads(1)
    os.environ |= {"SOAK_ROUNDS": str(folder / f"rounds-{i}.txt"), "SOAK_PAUSE": str(pause)}
    listen, hosts = wires.endpoints(i)
    place = peer.Place(
        "links", [f"peers/{i}"], listen, hosts, i == 0, DEADLINES[late], late, gather=120.0, open=True
    )
    from mmkd.transport.zenoh import ZenohTransport  # not before this is a process of its own

    heard, deliver = [0], ZenohTransport.deliver

    def counted(self: ZenohTransport, mail: Mail) -> Mail:
        out = deliver(self, mail)
        heard[0] += len(out.messages)
        return out

    ZenohTransport.deliver = counted  # type: ignore[method-assign]  # in this child alone
    try:
        peer.run([f"--config={file}"], place, folder / str(i))
        (folder / f"heard-{i}.txt").write_text(str(heard[0]))
    except Exception as error:  # whatever ends a process is in its log
        print(f"{type(error).__name__}: {error}", flush=True)
        raise


def part(wires: Wires, folder: Path, how: str, seconds: float) -> None:
    """Part links after some rounds, and let them heal."""
    path = folder / "rounds-0.txt"
    until = time.monotonic() + 120
    while time.monotonic() < until and (not path.exists() or path.read_text().count("\n") < AT):
        time.sleep(0.02)
    wires.part(packets=how == "packets")
    time.sleep(seconds)
    wires.heal(packets=how == "packets")


def differ(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not the same in every bit."""
    return [n for n in one.keys() | two.keys() if n not in one or n not in two or not one[n].equal(two[n])]


def main() -> int:
    """Try all, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--late", nargs="+", choices=DEADLINES, default=list(DEADLINES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds that a round takes longer")
    options = parser.parse_args()
    alone()
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    if not can_drop():
        print("nft is not here: no packet is dropped, so loss and silent partitions are not tried")
    head = ("method", "late", "links", "seconds", "accuracy", "differ", "heard", "dropped")
    print(" ".join(f"{text:>16}" for text in head))
    wrong = 0
    for method in options.methods:
        good: Outcome | None = None
        for late in options.late:
            for name in dict.fromkeys(["good", *options.ways]):
                if WAYS[name].needs_nft and not can_drop():
                    continue
                with tempfile.TemporaryDirectory() as text:
                    folder = Path(text)
                    file = configuration(folder, method, options.rounds)
                    got = trained(file, folder, late, WAYS[name], options.pause)
                good = good or got
                other = differ(good.weights, got.weights)
                row = [f"{got.seconds:.1f}", f"{got.accuracy:.4f}", len(other), got.heard, got.dropped]
                bad = bool(got.problem) or abs(got.accuracy - good.accuracy) > POINTS
                bad |= late == "stop" and bool(other)
                print(
                    " ".join(f"{cell!s:>16}" for cell in (method, late, name, *row)),
                    "BAD " + got.problem if bad else "",
                    flush=True,
                )
                wrong += bad
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
