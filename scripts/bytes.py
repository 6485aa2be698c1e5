"""Count the bytes of one exchange of knowledge and of weights over a hub, a ring and a complete graph.

Every number is read from the ledger of a short run of the quickstart's peers. Beside them are the bytes that
it takes once to hand every peer its view of the public set, and those of raw private samples sent to a
teacher. The bytes of a peer in a whole run of the headline study follow from these, and so do the ratios.

    python scripts/bytes.py --out docs
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from lightning.pytorch import Trainer
from torch import Tensor

from datamodules.digits import TrimodalDigits
from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.data.partition import IID
from mmkd.encoding import Quantise, TopK
from mmkd.federated import FedAvg, Gossip
from mmkd.knowledge import EightBits, Floats, SharedLogits, TopClasses
from mmkd.ledger import FRAMING, Ledger
from mmkd.palette import BLUE, GREEN, VERMILION
from mmkd.schedule import Schedule
from mmkd.students import AudioStudent, TextStudent, VisionStudent
from mmkd.tables import write_rows
from mmkd.topology import Complete, Ring, Star, Topology

TOPOLOGIES: dict[str, type[Topology]] = {"hub": Star, "ring": Ring, "complete": Complete}
SIZES = {"small": 1, "large": 4}
EXCHANGES = {"predictions": 9, "weights": 60}
"""Exchanges in a run of the headline study, which has 500 and 1,500 local steps with these two."""


def knowledge(wire: Any) -> dict[str, Any]:
    """Arguments of a callback that exchanges predictions on the whole public set."""
    return {"knowledge": SharedLogits(samples="all", wire=wire)}


def weights(**compression: Any) -> dict[str, Any]:
    """Arguments of a callback that averages weights within a modality."""
    return {"aggregation": FedAvg(**compression)}


SAID: dict[str, Callable[[bool], dict[str, Any]]] = {
    "predictions, 32 bits": lambda hub: knowledge(Floats()),
    "predictions, 16 bits": lambda hub: knowledge(Floats("float16")),
    "predictions, 8 bits": lambda hub: knowledge(EightBits()),
    "predictions, two classes": lambda hub: knowledge(TopClasses(2)),
    "weights, 32 bits": lambda hub: weights() if hub else {"aggregation": Gossip()},
    "weights, 8 bits": lambda hub: (
        weights(compression=Quantise(8), answers=Quantise(8))
        if hub
        else {"aggregation": Gossip(compression=Quantise(8))}
    ),
    "weights, top 1 %": lambda hub: (
        weights(compression=TopK(0.01), answers=TopK(0.01))
        if hub
        else {"aggregation": Gossip(compression=TopK(0.01))}
    ),
}
"""Arguments of a callback by what peers send; the argument says whether there is a hub."""
WEIGHTS = [said.partition(", ")[2] for said in SAID if said.startswith("weights")]
"""Ways to encode weights."""


def ledger_of(said: str, topology: str, size: int, each: int, cache: str) -> tuple[Ledger, int]:
    """The ledger of a run with one exchange or two, and how many there were."""
    fleets = {
        "cameras": Fleet(lambda n: VisionStudent(n, width=16 * size), each),
        "microphones": Fleet(lambda n: AudioStudent(n, width=40 * size), each),
        "phones": Fleet(lambda n: TextStudent(n, width=32 * size), each),
    }
    method = SAID[said](topology == "hub")
    callback = DecentralizedCallback(
        topology=TOPOLOGIES[topology](), schedule=Schedule(local_steps=1, block=1), **method
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    data = TrimodalDigits(batch_size=2, partition=IID(), cache=cache)
    trainer.fit(Cohort(fleets, 10, vectorize="never"), datamodule=data)
    return callback.ledger, 1 if said.startswith("predictions") else 2


def nbytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements."""
    return tensor.numel() * tensor.element_size()


def busiest(ledger: Ledger) -> float:
    """Bytes sent and received by the participant who sends and receives the most."""
    traffic: dict[str, int] = defaultdict(int)
    for entry in ledger.entries():
        if entry.kind != FRAMING:
            traffic[entry.sender] += entry.bytes
            traffic[entry.receiver] += entry.bytes
    return max(traffic.values())


def table(cache: str, out: Path) -> list[dict[str, Any]]:
    """Write ``bytes.csv``: bytes of an exchange for each of twelve peers, in every encoding and topology."""
    rows = []
    for said in SAID:
        for size, factor in SIZES.items():
            if size == "large" and said.startswith("predictions"):
                continue  # predictions do not grow with the student
            row: dict[str, Any] = {"said": said, "students": size if said.startswith("weights") else "any"}
            for topology in TOPOLOGIES:
                ledger, times = ledger_of(said, topology, factor, 4, cache)
                row[topology] = round(ledger.bytes_per_peer() / times)
            rows.append(row)
            print(row)
    fleets = {"cameras": "image", "microphones": "audio", "phones": "text"}
    peers = {f"{fleet}/{i}": modality for fleet, modality in fleets.items() for i in range(4)}
    data = TrimodalDigits(partition=IID(), cache=cache, peers=peers)
    raw = Ledger(peers)
    for peer in peers:
        own = data.private(peer, "train")
        raw.send(0, peer, "teacher", "samples", nbytes(own.x) + nbytes(own.y))
    for modality in data.modalities:
        told = [entry.bytes for entry in raw.entries() if peers[entry.sender] == modality]
        once = {
            "public set": nbytes(data.public("train").views[modality]),
            "raw private samples": round(fmean(told)),
        }
        for what, cost in once.items():
            rows.append({"said": f"{what}, once: {modality}", "students": "any", "hub": cost})
            print(rows[-1])
    with (out / "bytes.csv").open("w", newline="") as file:
        head = ["said", "students", *TOPOLOGIES]
        write_rows(file, [head, *([row[name] for name in head] for row in rows)])
    return rows


def ratios(rows: list[dict[str, Any]], out: Path) -> None:
    """Write ``bytes_ratios.csv``: bytes of a peer in a run of FedAvg, divided by those of distillation."""
    public = fmean(row["hub"] for row in rows if row["said"].startswith("public set"))
    found = []
    for size, topology in product(SIZES, TOPOLOGIES):
        cost = {
            row["said"]: EXCHANGES[row["said"].partition(",")[0]] * row[topology]
            for row in rows
            if topology in row and row["students"] in (size, "any")
            if not row["said"].partition(", ")[2].startswith("once")
        }
        for said in ("predictions, 16 bits", "predictions, two classes"):
            for delivery in (0, round(public)):
                own = cost[said] + delivery
                found.append(
                    {
                        "students": size,
                        "topology": topology,
                        "said": said,
                        "public set": delivery,
                        "bytes": own,
                    }
                    | {f"FedAvg, {bits}": f"{cost[f'weights, {bits}'] / own:.1f}" for bits in WEIGHTS}
                )
    with (out / "bytes_ratios.csv").open("w", newline="") as file:
        write_rows(file, [found[0], *(row.values() for row in found)])


def bottleneck(cache: str, out: Path) -> None:
    """Draw ``bytes.png``: the busiest participant's bytes in an exchange against the number of peers."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts = (1, 2, 4, 8, 16, 32)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for said, dash in (("weights, 32 bits", "--"), ("predictions, 16 bits", "-")):
        for topology, colour in zip(TOPOLOGIES, (VERMILION, BLUE, GREEN), strict=True):
            found = []
            for each in counts:
                if said.startswith("weights") and each == 1:
                    found.append(float("nan"))  # a lone peer of a modality has nobody to average with
                    continue
                ledger, times = ledger_of(said, topology, 1, each, cache)
                found.append(busiest(ledger) / times)
            axes.plot(
                [3 * n for n in counts],
                found,
                dash,
                marker="o",
                ms=4,
                color=colour,
                label=f"{said}, {topology}",
            )
            print(said, topology, found)
    axes.set(xscale="log", yscale="log", xlabel="peers", ylabel="bytes in one exchange, busiest participant")
    axes.set_xticks([3 * n for n in counts], [str(3 * n) for n in counts])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(out / "bytes.png", dpi=150)


def main() -> None:
    """Write ``bytes.csv``, ``bytes_ratios.csv`` and ``bytes.png``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/bytes"))
    parser.add_argument("--cache", default=".cache/digits")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    ratios(table(options.cache, options.out), options.out)
    bottleneck(options.cache, options.out)


if __name__ == "__main__":
    main()
