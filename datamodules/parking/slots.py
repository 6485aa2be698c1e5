"""Which slots of a car park are to be seen from a place, and where in the frame."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageDraw

from datamodules.parking.geometry import NEAR, Pinhole, nominal
from datamodules.parking.sites import Site

SMALLEST = 1 / 60
"""Width, as a share of the frame's, that a slot must have to be annotated."""
INSIDE = 0.6
"""Share of a car's box that must be in the frame."""
SEEN = 0.4
"""Share of a car that nothing may hide."""
_SIZE = 400
_SIDES = np.array([(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)])
"""Corners of a box, ``product``'s order, that are around each of its sides."""


def annotated(site: Site, camera: Pinhole) -> dict[int, tuple[float, float, float, float]]:
    """Slots that are to be seen in a frame, and their boxes in it, from 0 to 1.

    A slot's box holds the car that the slot is made for. Left out is what is small, mostly outside of the
    frame, or would be mostly behind trees, posts and other cars if the car park were full: another camera
    watches those.
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
    """Which of the cars at some places (x, y, heading) are to be seen, and their boxes: see ``annotated``.

    Args:
        site: what else may hide them.
        camera: that sees them.
        cars: their places.
        inside: share of a car's box that must be in the frame, at least.
        share: share of what is in the frame that nothing may hide.
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
    found = {}
    for _, kind, i in sorted(things):
        if kind == 0:
            _tree(draw, camera, site.trees[i])
        elif kind == 1:
            _post(draw, camera, site.posts[i])
        else:
            car = Image.new("L", (_SIZE, _SIZE))
            _car(ImageDraw.Draw(car), uv[i])
            if good[i]:
                x1, y1, x2, y2 = boxes[i].tolist()
                crop = (int(x1 * _SIZE), int(y1 * _SIZE), int(x2 * _SIZE) + 1, int(y2 * _SIZE) + 1)
                mask, covered = (np.asarray(image.crop(crop)) > 0 for image in (car, hidden))
                if (mask & ~covered).sum() >= share * mask.sum():
                    found[i] = (x1, y1, x2, y2)
            _car(draw, uv[i])
    return dict(sorted(found.items()))


def _car(draw: ImageDraw.ImageDraw, uv: Float[ndarray, "16 2"]) -> None:
    for box in (uv[:8], uv[8:]):
        for side in box[_SIDES] * _SIZE:
            draw.polygon([(float(x), float(y)) for x, y in side], fill=255)


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
