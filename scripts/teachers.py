"""Measure what students gain from teachers of different accuracy, size, domain gap and cost.

A teacher is trained alone on all private samples of a modality and is then fixed. It speaks to the peers of a
cohort of three modalities, who hear nobody else, on the public samples; their gain is their shared test
accuracy above that of the same peers without a teacher. Teachers differ in width, in local steps and in the
domain that they were trained in: a *clean* teacher of sound never heard noise, a *monoglot* teacher of text
reads English only.

    python scripts/teachers.py --out docs
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer, seed_everything

from datamodules.digits import TrimodalDigits
from mmkd.callbacks import DecentralizedCallback
from mmkd.cohort import Cohort, Fleet
from mmkd.knowledge import SharedLogits
from mmkd.schedule import Schedule
from mmkd.students import AudioStudent, TextStudent, VisionStudent
from mmkd.students.base import Classifier
from mmkd.tables import write_rows
from mmkd.topology import EdgeList

STUDENTS = 4


class Teacher(NamedTuple):
    """A recipe of a teacher: its modality, its student, its epochs and what differs in its data."""

    modality: str
    build: Callable[[int], Classifier]
    epochs: int
    domain: dict[str, Any]


def seeing(width: int) -> Callable[[int], Classifier]:
    """A recipe of students that see, of this width."""
    return lambda classes: VisionStudent(classes, width=width, prior_correction=1.0, optimizer=adam)


def hearing(width: int = 40) -> Callable[[int], Classifier]:
    """A recipe of students that hear, of this width."""
    return lambda classes: AudioStudent(classes, width=width, prior_correction=1.0, optimizer=adam)


def reading(width: int = 32) -> Callable[[int], Classifier]:
    """A recipe of students that read, of this width."""
    return lambda classes: TextStudent(classes, width=width, prior_correction=1.0, optimizer=adam)


def adam(parameters: Any) -> torch.optim.Optimizer:
    """The optimizer of all students and teachers."""
    return torch.optim.Adam(parameters, lr=0.004)


TEACHERS = {
    "image, 25 steps": Teacher("image", seeing(16), 1, {}),
    "image, 100 steps": Teacher("image", seeing(16), 4, {}),
    "image, 1000 steps": Teacher("image", seeing(16), 40, {}),
    "image, width 4": Teacher("image", seeing(4), 40, {}),
    "image, width 64": Teacher("image", seeing(64), 40, {}),
    "sound": Teacher("audio", hearing(), 40, {}),
    "sound, clean": Teacher("audio", hearing(), 40, {"snr": (50.0, 50.0)}),
    "text": Teacher("text", reading(), 40, {}),
    "text, monoglot": Teacher("text", reading(), 40, {"languages": ["en"]}),
}


def trainer(callback: DecentralizedCallback, epochs: int) -> Trainer:
    """A trainer that prints and keeps nothing."""
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )


def make(teacher: Teacher, seed: int, cache: str) -> tuple[dict[str, Any], float, float]:
    """The weights of a teacher, its test accuracy in its own domain, and the FLOPs of its training."""
    seed_everything(seed)
    cohort = Cohort({"teacher": Fleet(teacher.build, 1)}, 10, vectorize="never")
    callback = DecentralizedCallback(schedule=Schedule(local_steps=25))
    data = TrimodalDigits(batch_size=32, seed=seed, cache=cache, **teacher.domain)
    run = trainer(callback, teacher.epochs)
    run.fit(cohort, datamodule=data)
    run.test(cohort, datamodule=data, verbose=False)
    return (
        cohort.state_dict(),
        cohort.metrics["teacher/0"]["shared_accuracy"],
        callback.ledger.flops_per_peer(),
    )


def teach(
    teacher: Teacher, weights: dict[str, Any] | None, seed: int, cache: str
) -> tuple[float, float, float]:
    """Shared accuracy of students and teacher, and FLOPs of a student; without weights nobody teaches."""
    seed_everything(seed)
    fleets = {
        "teacher": Fleet(teacher.build, 1),
        "cameras": Fleet(seeing(16), STUDENTS),
        "microphones": Fleet(hearing(), STUDENTS),
        "phones": Fleet(reading(), STUDENTS),
    }
    cohort = Cohort(fleets, 10, vectorize="never")
    students = [name for name in cohort.names if name != "teacher/0"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(f"teacher/0 {name}" for name in students))
        file.flush()
        knowledge = SharedLogits(samples="all", include_self=False) if weights is not None else None
        callback = DecentralizedCallback(
            topology=EdgeList(file.name, directed=True),
            knowledge=knowledge,
            schedule=Schedule(
                local_steps={"teacher": 0, **dict.fromkeys(("cameras", "microphones", "phones"), 25)},
                knowledge_every=25,  # the whole public set is spoken about every so many steps
            ),
        )
        if weights is not None:
            cohort.load_state_dict(weights, strict=False)
        data = TrimodalDigits(batch_size=32, public_batch_size=32, seed=seed, cache=cache)
        run = trainer(callback, 20)
        run.fit(cohort, datamodule=data)
        run.test(cohort, datamodule=data, verbose=False)
    found = {name: m["shared_accuracy"] for name, m in cohort.metrics.items()}
    cost = fmean(callback.ledger.flops[name] for name in students)
    return fmean(found[name] for name in students), found["teacher/0"], cost


def main() -> None:
    """Write ``teachers.csv``, with a row for each teacher."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/teachers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", default=".cache/digits")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    alone = {
        (seed, teacher.modality): teach(teacher, None, seed, options.cache)[0]
        for seed in options.seeds
        for teacher in {t.modality: t for t in TEACHERS.values()}.values()
    }
    rows = []
    for name, teacher in TEACHERS.items():
        found = []
        for seed in options.seeds:
            weights, home, cost = make(teacher, seed, options.cache)
            taught, here, each = teach(teacher, weights, seed, options.cache)
            size = sum(p.numel() for p in teacher.build(10).parameters())
            gain = taught - alone[seed, teacher.modality]
            found.append((size, home, here, home - here, taught, gain, cost / 1e9, each / 1e9))
        columns = (
            "parameters", "accuracy_at_home", "accuracy_here", "domain_gap", "students", "gain",
            "gflops_of_the_teacher", "gflops_of_a_student",
        )  # fmt: skip
        means = [fmean(one[i] for one in found) for i in range(len(columns))]
        rows.append({"teacher": name, **{c: round(m, 4) for c, m in zip(columns, means, strict=True)}})
        print(rows[-1], flush=True)
        with (options.out / "teachers.csv").open("w", newline="") as file:
            write_rows(file, [rows[0], *(row.values() for row in rows)])


if __name__ == "__main__":
    main()
