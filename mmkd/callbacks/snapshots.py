"""A callback that draws detections: one test frame a peer, for the report and for the logger."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision.io import encode_jpeg
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes

from mmkd.bounds import Share, bounded
from mmkd.callbacks.recorder import Recorder
from mmkd.cohort.cohort import Cohort
from mmkd.files import replacing
from mmkd.palette import DETECTIONS, OBJECTS
from mmkd.types import Detections

LEAST = 480
"""Least width of a picture in pixels; smaller frames are enlarged."""


@bounded
class Snapshots(Callback):
    """Draws the middle test frame of every peer after a test: objects in green, detections in orange.

    Writes ``pictures/<peer>.jpg`` in the recorder's folder, and logs them if the logger takes images.

    Args:
        threshold: least score of a detection that is drawn.
    """

    def __init__(self, threshold: Share = 0.5) -> None:
        self.threshold = threshold

    @torch.no_grad()
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and log the picture of every peer."""
        if not isinstance(pl_module, Cohort):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning types it too late
        recorder = next(c for c in trainer.callbacks if isinstance(c, Recorder))  # type: ignore[attr-defined]  # untyped in Lightning
        assert recorder.folder is not None
        folder = recorder.folder / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        for group in pl_module.peers.groups:
            for row, name in enumerate(group.names):
                reader = data.reader(name, "test")
                if not len(reader):
                    continue
                batch = reader.batch(torch.tensor([len(reader) // 2]), 0)
                predictions = group.predict([row], pl_module.peers.to_device(batch.x))
                assert isinstance(predictions, Detections)
                assert batch.y is not None
                picture = draw(batch.x[0], batch.y[0], predictions.boxes[0, 0].cpu(), self.threshold)
                with replacing(folder / f"{name.replace('/', '_')}.jpg") as part:
                    part.write_bytes(bytes(encode_jpeg(picture, 88)))
                for logger in pl_module.loggers:
                    if hasattr(logger, "log_image"):
                        logger.log_image(f"detections/{name}", [to_pil_image(picture)])


def draw(frame: Tensor, y: Tensor, said: Tensor, threshold: float) -> Tensor:
    """A frame with boxes, ``[3, height, width]`` bytes.

    Args:
        frame: ``[3, height, width]``, bytes or 0 to 1.
        y: ``[slots, 5]`` corners and class of objects.
        said: ``[slots, 6]`` corners, score and class of detections.
        threshold: least score of a detection that is drawn.
    """
    times = max(1, -(-LEAST // frame.shape[-1]))
    if frame.is_floating_point():
        frame = (255 * frame).to(torch.uint8)
    large = frame.repeat_interleave(times, 1).repeat_interleave(times, 2)
    height, width = large.shape[1:]
    limit = torch.tensor([width - 1, height - 1, width - 1, height - 1])
    found = said[(said[:, 5] >= 0) & (said[:, 4] >= threshold), :4]
    for boxes, colour, thick in ((y[y[:, 4] >= 0, :4], OBJECTS, 1), (found, DETECTIONS, 2)):
        boxes = (boxes * times).clamp(min=0).minimum(limit)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
        if len(boxes):
            large = draw_bounding_boxes(large, boxes, colors=colour, width=thick)
    return large
