"""Pictures of what detectors find: what is drawn where, and where pictures go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from PIL.ImageColor import getrgb
from torchvision.io import decode_jpeg, read_file

from mmkd.callbacks import DecentralizedCallback
from mmkd.callbacks.recorder import Recorder
from mmkd.callbacks.snapshots import LEAST, Snapshots, draw
from mmkd.cohort import Cohort, Fleet
from mmkd.palette import DETECTIONS, OBJECTS
from mmkd.schedule import Schedule
from mmkd.students import DetectionStudent
from tests.frames import HEIGHT, SLOTS, WIDTH, Frames

SMALL = {"backbone": "mobilenetv3_small_050", "channels": 16, "convs": 1, "strides": [8, 16]}


def rows(*boxes: tuple[float, ...], columns: int) -> torch.Tensor:
    blank = torch.zeros(SLOTS, columns)
    blank[:, -1] = -1
    for i, box in enumerate(boxes):
        blank[i] = torch.tensor(box)
    return blank


def test_boxes_stand_where_they_are_in_a_picture_of_whole_pixels() -> None:
    frame = torch.zeros(3, 100, 160, dtype=torch.uint8)  # three times as large is LEAST wide
    times = LEAST // 160
    y = rows((10, 20, 50, 60, 0), columns=5)
    said = rows((80, 20, 120, 60, 0.9, 0), (130, 70, 150, 90, 0.49, 0), columns=6)
    picture = draw(frame, y, said, 0.5)
    assert picture.shape == (3, times * 100, times * 160)
    assert tuple(picture[:, 20 * times, 30 * times].tolist()) == getrgb(OBJECTS)
    assert tuple(picture[:, 20 * times, 100 * times].tolist()) == getrgb(DETECTIONS)
    assert not picture[:, 62 * times :].any()  # below both, and what is not sure is not drawn


def test_a_box_that_leaves_the_frame_or_has_no_area_breaks_nothing() -> None:
    frame = torch.zeros(3, 100, 160)
    said = rows((-30, -30, 20, 20, 0.9, 0), (200, 200, 300, 300, 0.9, 0), (40, 40, 40, 60, 0.9, 0), columns=6)
    assert draw(frame, rows(columns=5), said, 0.5)[0].any()


class Album(Logger):
    """A logger that takes images."""

    name, version = "album", 0

    def __init__(self) -> None:
        super().__init__()
        self.images: dict[str, Any] = {}

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        return

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        return

    def log_image(self, key: str, images: list[Any]) -> None:
        self.images[key] = images


def test_one_picture_a_peer_in_the_folder_and_in_the_logger(tmp_path: Path) -> None:
    cohort = Cohort(
        {"cameras": Fleet(lambda n: DetectionStudent(n, settings=SMALL), 2)}, 1, vectorize="never"
    )
    album = Album()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=album,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            DecentralizedCallback(schedule=Schedule(local_steps=1)),
            Recorder(tmp_path),
            Snapshots(),
        ],
    )
    data = Frames(batch_size=4)
    trainer.fit(cohort, datamodule=data)
    trainer.test(cohort, datamodule=data, verbose=False)
    assert set(album.images) == {"detections/cameras/0", "detections/cameras/1"}
    for number in range(2):
        picture = decode_jpeg(read_file(str(tmp_path / "pictures" / f"cameras_{number}.jpg")))
        times = -(-LEAST // WIDTH)
        assert picture.shape == (3, times * HEIGHT, times * WIDTH)
        (image,) = album.images[f"detections/cameras/{number}"]
        assert image.size == (times * WIDTH, times * HEIGHT)
