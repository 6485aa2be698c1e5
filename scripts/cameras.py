"""Prepare the study of smart cameras: drawn scenes, and three detectors that were trained on other places.

The script draws a car park with nine cameras, and many other places. On the other places it trains a large
detector for a short time (the weak oracle) and for a long one (the strong oracle), and a small detector, with
which every camera begins. It prints how precise each of the three is on places that it has not seen, and how
many parameters it has. Then ``mmkd tradeoff configs/study/cameras.yaml --out results/cameras/study`` trains
the cameras.

    python scripts/cameras.py --out results/cameras
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from datamodules.parking import GeneralScenes, car_park, render, render_general
from mmkd.evaluation.precision import Detections
from mmkd.students import DetectionStudent

HEIGHT, WIDTH = 150, 200
LARGE = {"backbone": "resnet18", "channels": 128, "convs": 3, "strides": [8, 16, 32]}
SMALL = {"backbone": "mobilenetv3_small_100", "channels": 64, "convs": 2, "strides": [8, 16], "nms": 0.55}


def draw(folder: Path, render_into: Callable[[Path], object]) -> None:
    """Draw into a folder, unless it is there; what an interrupted run left is removed and drawn again."""
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        render_into(part)
        part.rename(folder)


def train(
    settings: dict[str, Any], data: GeneralScenes, path: Path, steps: int, rate: float, precision: Any
) -> None:
    """Train a detector from random weights, on frames that are mirrored and brightened at random; save it."""
    torch.manual_seed(0)
    student = DetectionStudent(
        1,
        settings=settings,
        flip=True,
        jitter=0.3,
        optimizer=partial(torch.optim.AdamW, lr=rate, weight_decay=1e-4),
        scheduler=partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=rate, total_steps=steps, pct_start=0.1),
    ).to(memory_format=torch.channels_last)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        gradient_clip_val=10.0,
        precision=precision,
    )
    trainer.fit(student, datamodule=data.only("oracle"))
    trainer.save_checkpoint(path, weights_only=True)


def judge(path: Path, settings: dict[str, Any], data: GeneralScenes) -> dict[str, float]:
    """The average precision of a checkpoint on test places, and its number of parameters."""
    student = DetectionStudent(1, settings=settings, weights=str(path)).eval()
    samples: Any = data.private("oracle", "test")
    metrics = Detections()
    with torch.no_grad():
        metrics.update(["it"], student.predict(samples.x).boxes[None], samples.y)
    found = metrics.compute()["it"]
    return {"parameters": sum(p.numel() for p in student.parameters()), **found}


def main() -> None:
    """Draw the scenes, train the detectors and write how precise they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/cameras"))
    parser.add_argument("--cameras", type=int, default=9)
    parser.add_argument("--days", type=int, default=48, help="how many days of the car park are drawn")
    parser.add_argument("--frames", type=int, default=20, help="how many frames a camera takes on a day")
    parser.add_argument("--places", type=int, default=1000, help="how many other places are drawn")
    parser.add_argument("--weak", type=int, default=1000, help="steps of the weak oracle; 0 for none")
    parser.add_argument("--strong", type=int, default=3000, help="steps of the strong oracle")
    parser.add_argument("--student", type=int, default=2500, help="steps of the student")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="bf16-mixed", help="of large detectors; 32-true without bf16")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    asked, marker = {k: v for k, v in vars(options).items() if k != "out"}, out / "options.json"
    if marker.exists() and json.loads(marker.read_text()) != asked:
        parser.error(f"{out} was made with the options in {marker}; give those, or move the folder away")
    marker.write_text(json.dumps(asked, indent=1))
    took, start = {}, time.monotonic()
    size: dict[str, Any] = {"height": HEIGHT, "width": WIDTH}
    processes = os.cpu_count() or 1
    park = car_park(cameras=options.cameras, days=options.days, frames_per_day=options.frames, **size)
    draw(out / "scenes", partial(render, park=park, processes=processes))
    size |= {"days": 2, "frames_per_day": 2, "processes": processes}
    draw(out / "general", partial(render_general, places=options.places, **size))
    took["draw"] = time.monotonic() - start
    data = GeneralScenes(
        root=str(out / "general"),
        batch_size=options.batch,
        peers={"oracle": "image"},
        height=HEIGHT,
        width=WIDTH,
    )
    found = {}
    for name, settings, steps, rate, precision in (
        ("weak", LARGE, options.weak, 1e-3, options.precision),
        ("strong", LARGE, options.strong, 1e-3, options.precision),
        ("student", SMALL, options.student, 3e-3, "32-true"),
    ):
        if not steps:
            continue
        start, path = time.monotonic(), out / f"{name}.ckpt"
        if not path.exists():
            train(settings, data, path, steps, rate, precision)
        took[name] = time.monotonic() - start
        found[name] = judge(path, settings, data)
        print(json.dumps({name: found[name]}, indent=1), flush=True)
    (out / "prepared.json").write_text(json.dumps({"general places": found, "seconds": took}, indent=1))


if __name__ == "__main__":
    main()
