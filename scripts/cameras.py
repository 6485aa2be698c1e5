"""What the study of smart cameras begins with: drawn scenes, two oracles and a student of other places.

Draws a car park with nine cameras, and many other places; trains a large detector on the other places and
keeps it twice, early (a weak oracle) and late (a strong one); trains a small one there, too, with which every
camera begins. Says how good each of the three is on places that it has not seen, and how large. Then
``mmkd tradeoff configs/study/cameras.yaml --out results/cameras/study`` trains the cameras.

    python scripts/cameras.py --out results/cameras
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.parking_scenes import GeneralScenes, render, render_general
from mmkd.cohort.detection_metrics import Detections
from mmkd.students import DetectionStudent

HEIGHT, WIDTH = 150, 200
LARGE = {"backbone": "resnet18", "channels": 128, "convs": 3, "strides": [8, 16, 32]}
SMALL = {"backbone": "mobilenetv3_small_050", "channels": 32, "convs": 2, "strides": [8, 16, 32]}


class Keep(Callback):
    """Writes a checkpoint of a lone student after some steps.

    Args:
        steps: after which; the file that each goes to.
    """

    def __init__(self, steps: dict[int, Path]) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Write, if it is due."""
        path = self.steps.get(trainer.global_step)
        if path is not None:
            torch.save(
                {
                    "state_dict": {n: t.clone() for n, t in pl_module.state_dict().items()},
                    pl_module.CHECKPOINT_HYPER_PARAMS_KEY: dict(pl_module.hparams),
                    "pytorch-lightning_version": lightning.__version__,
                },
                path,
            )


def train(settings: dict[str, Any], data: GeneralScenes, kept: dict[int, Path], rate: float) -> None:
    """A detector on other places, from random weights; frames are mirrored and lit at random."""
    torch.manual_seed(0)
    steps = max(kept)
    student = DetectionStudent(
        1,
        settings=settings,
        flip=True,
        jitter=0.3,
        optimizer=partial(torch.optim.AdamW, lr=rate, weight_decay=1e-4),
        scheduler=partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=rate, total_steps=steps, pct_start=0.1),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        gradient_clip_val=10.0,
        callbacks=[Keep(kept)],
    )
    trainer.fit(student, datamodule=data.only("oracle"))


def judge(path: Path, settings: dict[str, Any], data: GeneralScenes) -> dict[str, float]:
    """How good a checkpoint is on test places, and how large."""
    student = DetectionStudent(1, settings=settings, weights=str(path)).eval()
    samples: Any = data.private("oracle", "test")
    metrics = Detections()
    with torch.no_grad():
        metrics.update(["it"], student.predict(samples.x).logits[None], samples.y)
    found = metrics.compute()["it"]
    return {"parameters": sum(p.numel() for p in student.parameters()), **found}


def main() -> None:
    """Draw, train, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/cameras"))
    parser.add_argument("--cameras", type=int, default=9)
    parser.add_argument("--days", type=int, default=12, help="of the car park")
    parser.add_argument("--frames", type=int, default=12, help="of a camera and day")
    parser.add_argument("--places", type=int, default=150, help="other places")
    parser.add_argument("--weak", type=int, default=500, help="steps after which the weak oracle is kept")
    parser.add_argument("--steps", type=int, default=1500, help="of the strong oracle")
    parser.add_argument("--student", type=int, default=800, help="steps of the student")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    out: Path = options.out
    took, size = {}, {"height": HEIGHT, "width": WIDTH}
    start = time.monotonic()
    if not (out / "scenes").exists():
        render(
            out / "scenes", cameras=options.cameras, days=options.days, frames_per_day=options.frames, **size
        )
        render_general(out / "general", places=options.places, **size)
    took["draw"] = time.monotonic() - start
    data = GeneralScenes(
        root=str(out / "general"), batch_size=options.batch, peers={"oracle": "image"}, **size
    )
    strong, weak, small = (out / f"{name}.ckpt" for name in ("strong", "weak", "student"))
    for name, path, settings, kept, rate in (
        ("oracles", strong, LARGE, {options.weak: weak, options.steps: strong}, 1e-3),
        ("student", small, SMALL, {options.student: small}, 3e-3),
    ):
        start = time.monotonic()
        if not path.exists():
            train(settings, data, kept, rate)
        took[name] = time.monotonic() - start
    found = {p.stem: judge(p, s, data) for p, s in ((weak, LARGE), (strong, LARGE), (small, SMALL))}
    (out / "prepared.json").write_text(json.dumps({"general places": found, "seconds": took}, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
