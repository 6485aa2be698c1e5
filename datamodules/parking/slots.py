"""Which slots of a car park a camera sees, and where in its frame they are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageDraw

from datamodules.parking.geometry import NEAR, Pinhole, nominal
from datamodules.parking.sites import Site

SMALLEST = 1 / 60
"""Least width of an annotated slot in the frame, as a share of the frame's width."""
INSIDE = 0.6
"""Least share of a car's box inside the frame, for its slot to be annotated."""
SEEN = 0.4
"""Least share of a car that nothing hides, for its slot to be annotated."""
_SIZE = 400
_SIDES = np.array([(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)])
"""Corners around each side of a box, whose corners are in the order of ``itertools.product``."""


def annotated(site: Site, camera: Pinhole) -> dict[int, tuple[float, float, float, float]]:
    """The slots that a camera watches, and the corners of their boxes in its frame, from 0 to 1.

    A slot's box holds the car that the slot is made for. Slots are left out that are small or mostly outside
    of the frame, or whose car would be mostly behind trees, posts and other cars if the car park were full.
    """
    return seen(site, camera, site.slots)


def seen(
    site: Site,
    camera: Pinhole,
    cars: Float[ndarray, "cars 3"],
    *,
    inside: float = INSIDE,
    share: float = SEEN,
) -> dict[int, tuple[float, float, float, float]]:
    """The cars that a camera sees, by position, and the corners of their boxes in its frame, from 0 to 1.

    Cars narrower than ``SMALLEST`` are left out.

    Args:
        site: the car park, whose trees and posts may hide cars.
        camera: the camera.
        cars: x, y and heading of each car, all of which have the size that slots are made for.
        inside: share of a seen car's box that is in the frame, at least.
        share: share of a seen car's part in the frame that nothing hides, at least.
    """
    uv, ahead = camera.project(nominal(cars))
    whole = np.concatenate([uv.min(1), uv.max(1)], 1)
    boxes = np.clip(whole, 0, 1)
    area, part = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (whole, boxes))
    ahead_of = ahead.min(1) > NEAR
    good = ahead_of & (part > inside * area) & (boxes[:, 2] - boxes[:, 0] >= SMALLEST)
    eye = np.array(camera.place[:2])
    hidden = Image.new("L", (_SIZE, _SIZE))
    draw = ImageDraw.Draw(hidden)
    things = [(float(np.hypot(*(tree[:2] - eye))), 0, i) for i, tree in enumerate(site.trees)]
    things += [(float(np.hypot(*(post[:2] - eye))), 1, i) for i, post in enumerate(site.posts)]
    things += [(float(np.hypot(*(cars[i, :2] - eye))), 2, int(i)) for i in np.flatnonzero(ahead_of)]
    faces = (uv.reshape(-1, 2, 8, 2)[:, :, _SIDES] * _SIZE).reshape(-1, 12, 8).tolist()  # of body and cabin
    found = {}
    for _, kind, i in sorted(things):
        if kind == 0:
            _tree(draw, camera, site.trees[i])
        elif kind == 1:
            _post(draw, camera, site.posts[i])
        else:
            if good[i]:
                car = Image.new("L", (_SIZE, _SIZE))
                _car(ImageDraw.Draw(car), faces[i])
                x1, y1, x2, y2 = boxes[i].tolist()
                crop = (int(x1 * _SIZE), int(y1 * _SIZE), int(x2 * _SIZE) + 1, int(y2 * _SIZE) + 1)
                mask, covered = (np.asarray(image.crop(crop)) > 0 for image in (car, hidden))
                if (mask & ~covered).sum() >= share * mask.sum():
                    found[i] = (x1, y1, x2, y2)
            _car(draw, faces[i])
    return dict(sorted(found.items()))


def _car(draw: ImageDraw.ImageDraw, faces: list[list[float]]) -> None:
    for corners in faces:
        draw.polygon(corners, fill=255)


def _tree(draw: ImageDraw.ImageDraw, camera: Pinhole, tree: Float[ndarray, " 4"]) -> None:
    x, y, radius, high = tree
    at, depth = camera.project(np.array([x, y, high]))
    if depth > NEAR:
        reach = 0.95 * radius * camera.focal / float(depth) * np.array([1, 4 / 3])
        draw.ellipse([float(v) * _SIZE for v in (*(at - reach), *(at + reach))], fill=255)


def _post(draw: ImageDraw.ImageDraw, camera: Pinhole, post: Float[ndarray, " 3"]) -> None:
    x, y, top = post
    at, depth = camera.project(np.array([(x, y, 0.0), (x, y, top)]))
    if depth.min() > NEAR:
        wide = max(1, round(0.14 * camera.focal / float(depth.min()) * _SIZE))
        draw.line([(float(u) * _SIZE, float(v) * _SIZE) for u, v in at], fill=255, width=wide)
