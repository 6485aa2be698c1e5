"""Which slots of a car park are to be seen from a place, and where in the frame."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from datamodules.parking_geometry import NEAR, Pinhole, nominal
from datamodules.parking_sites import Site

SMALLEST = 1 / 60
"""Width, as a share of the frame's, that a slot must have to be annotated."""


def annotated(site: Site, camera: Pinhole) -> dict[int, tuple[float, float, float, float]]:
    """Slots that are to be seen in a frame, and their boxes in it, from 0 to 1.

    A slot's box holds the car that the slot is made for. Left out is what is small, mostly outside of the
    frame or mostly behind trees and posts.
    """
    corners = nominal(site.slots)
    uv, ahead = camera.project(corners)
    whole = np.concatenate([uv.min(1), uv.max(1)], 1)
    boxes = np.clip(whole, 0, 1)
    area, seen = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (whole, boxes))
    good = (ahead.min(1) > NEAR) & (seen > 0.6 * area) & (boxes[:, 2] - boxes[:, 0] >= SMALLEST)
    eye = np.array(camera.place[:2])
    far = np.hypot(*(site.slots[:, :2] - eye).T)
    size = 400
    hidden = Image.new("L", (size, size))
    draw = ImageDraw.Draw(hidden)
    things = [(float(np.hypot(*(tree[:2] - eye))), 0, i) for i, tree in enumerate(site.trees)]
    things += [(float(np.hypot(*(post[:2] - eye))), 1, i) for i, post in enumerate(site.posts)]
    things += [(float(far[i]), 2, int(i)) for i in np.flatnonzero(good)]
    found = {}
    for _, kind, i in sorted(things):
        if kind == 2:
            x1, y1, x2, y2 = boxes[i].tolist()
            covered = hidden.crop((int(x1 * size), int(y1 * size), int(x2 * size) + 1, int(y2 * size) + 1))
            if np.asarray(covered).mean() < 255 / 2:
                found[i] = (x1, y1, x2, y2)
            continue
        if kind == 0:
            x, y, radius, high = site.trees[i]
            at, depth = camera.project(np.array([x, y, high]))
            rx = 0.95 * radius * camera.focal / max(float(depth), NEAR)
            ry = rx * 4 / 3
            span = [at[0] - rx, at[1] - ry, at[0] + rx, at[1] + ry]
        else:
            x, y, top = site.posts[i]
            at, depth = camera.project(np.array([(x, y, 0.0), (x, y, top)]))
            depth = depth.min()
            rx = 0.07 * camera.focal / max(float(depth), NEAR)
            span = [at[:, 0].min() - rx, at[:, 1].min(), at[:, 0].max() + rx, at[:, 1].max()]
        if depth > NEAR:
            draw.ellipse([float(v) * size for v in span], fill=255)
    return dict(sorted(found.items()))
