"""Frames of many places with all their cars, pooled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.ops import box_iou

from datamodules.cnr_ext import CnrExt
from datamodules.parking import GeneralScenes, render_general
from datamodules.parking.car_parks import place
from mmkd.functional.detection.boxes import EMPTY
from mmkd.types import ConfigError
from tests.datamodules.parking.small import SIZE


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("general") / "places"
    render_general(root, places=5, days=2, frames_per_day=1, seed=1, **SIZE)
    return root


def test_general_scenes_pool_places_and_share_none(general: Path) -> None:
    data = GeneralScenes(root=str(general), **SIZE, peers={"oracle": "image", "other": "image"})
    assert len(data.trees) == 5
    # 0.75 of 5 places is one, 1.25 is one, and three are left.
    sizes = {"train": 3 * 2, "val": 2, "test": 2}
    shapes = set()
    for split, size in sizes.items():
        samples = data.private("oracle", split)
        assert samples.x.shape == (size, 3, 60, 80)
        assert samples is data.private("other", split)
        shapes.add(samples.y.shape[1:])
    assert len(shapes) == 1
    train, cars, annotated_, found, free = data.private("oracle", "train"), 0, 0, 0, 0
    for k, tree in enumerate(data.trees[:3]):
        alone = CnrExt(root=str(tree.root), cameras=[1], **SIZE, peers={"one": "image"})
        own = alone.private("one", "train")
        assert torch.equal(train.x[2 * k : 2 * k + 2], own.x)
        park = place(k, days=2, frames_per_day=1, seed=1, **SIZE)
        for n, moment in enumerate(park.moments):
            y = train.y[2 * k + n]
            boxes = y[y[:, 4] == 0, :4]
            cars += len(boxes)
            assert (y[len(boxes) :, 4] == EMPTY).all()  # and nothing is KNOWN: the whole frame is
            # A car in an annotated slot has a label, unless one that waits in the aisle hides it.
            slots = own.y[n][own.y[n, :, 4] == 0, :4]
            annotated_ += len(slots)
            found += int((box_iou(slots, boxes).amax(1) > 0.99).sum()) if len(slots) else 0
            # A label is where a car is, and cars in no slot have labels, too.
            shot, where = park.shot(0, moment)
            overlap = box_iou(boxes, torch.from_numpy(shot.boxes).float())
            assert (overlap.amax(1) > 0.5).all()
            free += int((torch.tensor(where)[overlap.argmax(1)] == -1).sum())
    assert annotated_ > 20
    assert found >= 0.9 * annotated_
    assert free > 0
    assert data.label_counts("oracle").tolist() == [cars]
    assert cars > 0
    with pytest.raises(ConfigError, match="has no public frames"):
        data.public("train")
