"""Time a prediction and a local step of each kind of student on one core, and count their memory.

    python scripts/bench/edge.py

Samples are random, of the sizes of TrimodalDigits or of a small camera; a local step is of 32 of them (four
frames), with the student's own optimizer. Memory is counted from tensors and is that of the student alone.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch

from mmkd.cost.footprint import footprint, step_footprint
from mmkd.students import AudioStudent, DetectionStudent, MotionStudent, TextStudent, VisionStudent
from mmkd.students.adapting import Lora
from mmkd.types import Batch

BATCH = 32
BERT = {
    "model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 512, "max_position_embeddings": 128,
}  # fmt: skip
SMALL: dict[str, Any] = {"backbone": "mobilenetv3_small_050", "channels": 32}
BIG = partial(VisionStudent, backbone="resnet18", in_chans=3)
TEXT = partial(TextStudent, vocabulary=8192, transformers=BERT)
STUDENTS: dict[str, tuple[Any, Any]] = {
    "VisionStudent, 8 x 8": (VisionStudent, torch.rand(BATCH, 1, 8, 8)),
    "VisionStudent, 32 x 32, colour": (partial(VisionStudent, in_chans=3), torch.rand(BATCH, 3, 32, 32)),
    "resnet18, 64 x 64": (BIG, torch.rand(BATCH, 3, 64, 64)),
    "the same, frozen": (partial(BIG, trained="head"), torch.rand(BATCH, 3, 64, 64)),
    "AudioStudent, 0.5 s at 8 kHz": (AudioStudent, torch.randn(BATCH, 4096)),
    "TextStudent, 12 letters": (TextStudent, torch.randint(1, 27, (BATCH, 12))),
    "BERT of two layers, 64 tokens": (TEXT, torch.randint(1, 8192, (BATCH, 64))),
    "the same, adapters of rank 8": (partial(TEXT, trained=Lora()), torch.randint(1, 8192, (BATCH, 64))),
    "MotionStudent, 100 moments": (MotionStudent, torch.randn(BATCH, 6, 100)),
}


def line(name: str, student: Any, x: Any, y: torch.Tensor) -> str:
    """Time and memory of one student, in words."""
    once, step = footprint(student, x), step_footprint(student, Batch(x, y, torch.arange(len(x)), 0))
    learned = sum(p.numel() for p in student.parameters() if p.requires_grad)
    return (
        f"{name:32} {once.parameters:11,} parameters, {learned:11,} trained;"
        f" predicts {once.milliseconds:8.2f} ms {once.mebibytes:7.2f} MiB;"
        f" a step {step.milliseconds:8.1f} ms {step.mebibytes:8.2f} MiB"
    )


def main() -> None:
    """Print a line a student."""
    torch.manual_seed(0)
    for name, (make, x) in STUDENTS.items():
        print(line(name, make(10), x, torch.randint(10, (BATCH,))), flush=True)
    frames, boxes = torch.rand(4, 3, 128, 192), torch.tensor([[[10.0, 10, 40, 30, 0]]]).repeat(4, 1, 1)
    print(line("DetectionStudent, 128 x 192, 4", DetectionStudent(1, settings=SMALL), frames, boxes))
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
