"""The scenery that is the same in all frames of a camera: ground, houses, hedges, the sky and trees."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw

from datamodules.parking.geometry import NEAR, Pinhole
from datamodules.parking.sites import MARGIN, PER_METRE, Colour, Site


def ground_of(site: Site, camera: Pinhole, size: tuple[int, int]) -> Image.Image:
    """The ground as a camera sees it, in a picture of that width and height."""
    # From pixels of the picture to those of the map.
    x0, y0 = site.half[0] + MARGIN, site.half[1] + MARGIN
    to_map = np.array([[PER_METRE, 0, PER_METRE * x0], [0, -PER_METRE, PER_METRE * y0], [0, 0, 1]])
    warp = to_map @ camera.ground() @ np.diag([1 / size[0], 1 / size[1], 1.0])
    warp = warp / warp[2, 2]  # negative where the corner shows the sky, which cancels
    return site.ground.transform(
        size,
        Image.Transform.PERSPECTIVE,
        warp.flatten()[:8].tolist(),
        Image.Resampling.BILINEAR,
        fillcolor=site.beyond,
    )


def surroundings(picture: Image.Image, site: Site, camera: Pinhole, weather: str) -> Image.Image:
    """The picture of the ground with houses, hedges and sky painted into it."""
    size = picture.size
    if weather == "RAINY":
        picture = ImageChops.multiply(picture, Image.new("RGB", size, (158, 166, 178)))
    sky = {"SUNNY": (176, 202, 232), "OVERCAST": (196, 200, 206), "RAINY": (168, 174, 182)}[weather]
    horizon = 0.5 - camera.focal * (4 / 3) * np.tan(camera.pitch)
    draw = ImageDraw.Draw(picture)
    if horizon > 0:
        draw.rectangle([0, 0, size[0], horizon * size[1]], fill=sky)
    eye = np.array(camera.place)
    boxes = sorted(
        site.blocks, key=lambda b: -np.hypot((b[0] + b[2]) / 2 - eye[0], (b[1] + b[3]) / 2 - eye[1])
    )
    for x1, y1, x2, y2, top, colour in boxes:
        ring = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
        corners = np.array([[(*p, 0.0) for p in ring], [(*p, top) for p in ring]])
        uv, ahead = camera.project(corners)
        if ahead.min() < NEAR:
            continue
        at = uv * size
        for i in range(4):
            j = (i + 1) % 4
            out = np.array([ring[j][1] - ring[i][1], ring[i][0] - ring[j][0]])
            if (eye[:2] - ring[i]) @ out <= 0:
                continue
            tone = (0.82, 0.95, 0.88, 1.0)[i]
            fill = (round(colour[0] * tone), round(colour[1] * tone), round(colour[2] * tone))
            draw.polygon([*at[0, i], *at[0, j], *at[1, j], *at[1, i]], fill=fill)
            if top > 3.5:  # a house has windows
                _windows(draw, at, i, j, top)
        if eye[2] > top:
            roof = (round(colour[0] * 0.75), round(colour[1] * 0.72), round(colour[2] * 0.7))
            draw.polygon([float(c) for p in at[1] for c in p], fill=roof)
    return picture


def _windows(draw: ImageDraw.ImageDraw, at: ndarray, i: int, j: int, top: float) -> None:
    a, b, c, d = at[0, i], at[0, j], at[1, j], at[1, i]
    for floor in range(int(top // 3)):
        low, high = (floor * 3 + 1.0) / top, (floor * 3 + 2.4) / top
        for k in range(4):
            s, t = (k + 0.25) / 4, (k + 0.75) / 4
            corners = [
                (1 - h) * ((1 - w) * a + w * b) + h * ((1 - w) * d + w * c)
                for w, h in ((s, low), (t, low), (t, high), (s, high))
            ]
            draw.polygon([float(v) for p in corners for v in p], fill=(62, 70, 80))


class Crown(NamedTuple):
    """A tree as it is painted into a frame."""

    far: float  # metres from the camera
    image: Image.Image  # the crown, transparent beside the leaves
    corner: tuple[int, int]  # pixel at which the image has its upper left corner
    trunk: list[float]  # corners x, y, x, y, ... of the trunk in pixels


def crowns(site: Site, camera: Pinhole, size: tuple[int, int], rng: Generator) -> list[Crown]:
    """The trees that a camera sees, for a picture of that width and height."""
    found = []
    for x, y, radius, high in site.trees:
        uv, ahead = camera.project(np.array([(x, y, high), (x, y, 0.0), (x, y, high - radius / 2)]))
        uv = uv * size
        reach = radius * camera.focal * size[0] / max(float(ahead[0]), NEAR)
        seed = int(rng.integers(2**31))
        if ahead.min() < NEAR or not (
            -reach < uv[0, 0] < size[0] + reach and -reach < uv[0, 1] < size[1] + reach
        ):
            continue
        crown = _crown(reach, site.leaves, np.random.default_rng(seed))
        thick = max(1.0, 0.09 * reach)
        (bx, by), (tx, ty) = uv[1], uv[2]
        trunk = [bx - thick, by, bx + thick, by, tx + thick / 2, ty, tx - thick / 2, ty]
        corner = (round(uv[0, 0] - crown.width / 2), round(uv[0, 1] - crown.height / 2))
        far = float(np.hypot(x - camera.place[0], y - camera.place[1]))
        found.append(Crown(far, crown, corner, trunk))
    return found


def _crown(radius: float, leaves: Colour, rng: Generator) -> Image.Image:
    """An image of the crown of a tree, lighter at the top; the radius is in pixels."""
    size = max(3, round(2.3 * radius))
    crown = Image.new("RGBA", (size, size), (*leaves, 0))
    draw = ImageDraw.Draw(crown)
    many = 150
    angle, out = rng.uniform(0, 2 * np.pi, many), np.sqrt(rng.uniform(0, 1, many))
    order = np.argsort(-out * np.sin(angle))  # from below to above
    for a, o, r, tone in zip(
        angle[order], out[order], rng.uniform(0.07, 0.2, many), rng.normal(0, 0.13, many), strict=True
    ):
        x, y = size / 2 + 0.86 * radius * o * np.cos(a), size / 2 - 0.86 * radius * o * np.sin(a)
        shade = np.clip(0.8 + 0.38 * o * np.sin(a) + tone, 0.3, 1.6)
        fill = (round(leaves[0] * shade), round(leaves[1] * shade), round(leaves[2] * shade), 255)
        draw.ellipse([x - r * radius, y - r * radius, x + r * radius, y + r * radius], fill=fill)
    return crown
