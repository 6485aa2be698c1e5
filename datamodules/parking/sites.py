"""Car parks from above: slots in rows, aisles, islands with trees, lamps, a street, and painted lines."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

PER_METRE = 16
"""Pixels of the map of a car park in a metre."""
MARGIN = 10.0
"""Metres of street and grass around the slots that the map of a car park shows."""


class Site(NamedTuple):
    """A car park, with its middle at 0, 0; lengths are in metres, headings in radians from the x axis."""

    slots: Float[ndarray, "slots 3"]  # x, y, heading
    kerb: Float[ndarray, "places 3"]  # x, y, heading of places for cars in no slot
    aisles: list[tuple[float, float]]  # y of each, and the heading of cars that drive there
    half: tuple[float, float]  # half the width along x and half the depth along y, without the margin
    trees: Float[ndarray, "trees 4"]  # x, y, radius of the crown, height of the crown's middle
    posts: Float[ndarray, "posts 3"]  # x, y, height of the lamp
    blocks: list[
        tuple[float, float, float, float, float, Colour]
    ]  # x1, y1, x2, y2, height: houses and hedges
    leaves: Colour
    north: float  # radians from the x axis to the east
    ground: Image.Image  # map of the ground
    beyond: Colour  # colour of the ground outside of the map


class Style(NamedTuple):
    """How a car park is built and coloured."""

    rows: int = 6  # even: two to an aisle
    columns: int = 22
    angle: float = 90.0  # degrees between a slot and its aisle; 0 for one behind the other
    asphalt: Colour = (112, 112, 114)
    paint: Colour = (222, 222, 216)
    grass: Colour = (92, 108, 66)
    rough: float = 1.0  # how uneven the ground looks
    islands: float = 0.07  # share of the slots that are islands
    leaves: Colour = (66, 88, 48)


def lay_out(style: Style, rng: Generator) -> Site:
    """A car park in a style, with trees, houses and wear drawn at random."""
    length, wide = 5.0, 2.5
    turn = np.radians(style.angle)
    if style.angle == 0:
        pitch, depth, lane = 6.2, 2.4, 5.0
    else:
        pitch, depth = wide / np.sin(turn), length * np.sin(turn) + wide * np.cos(turn)
        lane = 4.2 + 2.6 * style.angle / 90
    half_x = style.columns * pitch / 2
    half_y = style.rows / 2 * (2 * depth + lane) / 2
    slots, lines, aisles = [], [], []
    axis = np.array([np.cos(turn), np.sin(turn)])
    for pair in range(style.rows // 2):
        first = -half_y + pair * (2 * depth + lane)
        aisles.append((first + depth + lane / 2, np.pi * (pair % 2)))
        for y, up in ((first + depth / 2, 1), (first + depth + lane + depth / 2, -1)):
            along = axis * (1, up)
            across = along if style.angle else np.array([0.0, 1.0])
            stroke = across * (length if style.angle else depth) / 2
            for i in range(style.columns + 1):
                x = -half_x + i * pitch
                lines.append((np.array([x, y]) - stroke, np.array([x, y]) + stroke))
                if i < style.columns:
                    slots.append((x + pitch / 2, y, float(np.arctan2(along[1], along[0]))))
    where = np.array(slots)
    island = rng.random(len(where)) < style.islands
    middles = where[island, :2]
    trees = np.concatenate(
        [middles + rng.normal(0, 0.3, middles.shape), rng.uniform(1.1, 2.2, (len(middles), 1))], 1
    )
    trees = np.concatenate([trees, trees[:, 2:] + rng.uniform(1.6, 2.8, (len(trees), 1))], 1)
    posts = [
        (x, -half_y + (k + 1) * (2 * depth + lane), 7.0)
        for k in range(style.rows // 2 - 1)
        for x in np.arange(-half_x + 2.5 * pitch, half_x, 7 * pitch)
    ]
    posts += [(x, half_y + 0.8, 7.0) for x in np.arange(-half_x + 5 * pitch, half_x, 9 * pitch)]
    street = half_y + 5.6
    kerb = np.array([(x, street, 0.0) for x in np.arange(-half_x + 3, half_x - 3, 6.5)])
    leave = where[~island]
    half = (half_x, half_y)
    ground = _map(style, half, leave, where[island], lines, aisles, (pitch, depth), street, rng)
    return Site(
        slots=leave,
        kerb=kerb,
        aisles=aisles,
        half=half,
        trees=trees,
        posts=np.array(posts).reshape(-1, 3),
        blocks=_around(half, rng),
        leaves=style.leaves,
        north=float(rng.uniform(0, 2 * np.pi)),
        ground=ground,
        beyond=style.grass,
    )


def _around(
    half: tuple[float, float], rng: Generator
) -> list[tuple[float, float, float, float, float, Colour]]:
    """Houses and hedges on all four sides, each some metres long, with gaps between them."""
    blocks = []
    palette = [(176, 160, 138), (150, 120, 100), (188, 184, 176), (120, 122, 128), (58, 74, 44), (66, 82, 48)]
    for side in range(4):
        across, out = (half[0], half[1]) if side % 2 == 0 else (half[1], half[0])
        sign = 1 if side < 2 else -1
        t = -across - 12.0
        while t < across + 12:
            long, kind = float(rng.uniform(5, 11)), int(rng.integers(len(palette)))
            deep = 5.0 if kind < 4 else 1.2
            height = float(rng.uniform(4, 9)) if kind < 4 else float(rng.uniform(1.2, 2.6))
            near = out + MARGIN + float(rng.uniform(1, 5))
            colour = tuple(int(c) for c in np.clip(np.array(palette[kind]) + rng.normal(0, 9), 20, 235))
            a, b = sorted((sign * near, sign * (near + deep)))
            box = (t, a, t + long, b) if side % 2 == 0 else (a, t, b, t + long)
            blocks.append((*box, height, (colour[0], colour[1], colour[2])))
            t += long + float(rng.choice([0.0, 0.0, 3.0, 7.0]))
    return blocks


def _map(
    style: Style,
    half: tuple[float, float],
    slots: Float[ndarray, "slots 3"],
    islands: Float[ndarray, "islands 3"],
    lines: list[tuple[ndarray, ndarray]],
    aisles: list[tuple[float, float]],
    size: tuple[float, float],
    street: float,
    rng: Generator,
) -> Image.Image:
    """The map of the ground: asphalt, grass, street, stains, painted lines and islands."""
    x0, y0 = half[0] + MARGIN, half[1] + MARGIN
    shape = (round(2 * x0 * PER_METRE), round(2 * y0 * PER_METRE))

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [((x + x0) * PER_METRE, (y0 - y) * PER_METRE) for x, y in points]

    def box(x1: float, y1: float, x2: float, y2: float) -> list[tuple[float, float]]:
        return at((x1, y1), (x2, y1), (x2, y2), (x1, y2))

    ground = Image.new("RGB", shape, style.grass)
    draw = ImageDraw.Draw(ground)
    darker = tuple(round(0.88 * c) for c in style.asphalt)
    draw.polygon(box(-x0, street - 1.3, x0, street + 4.4), fill=darker)
    draw.polygon(box(-half[0] - 4.5, -half[1] - 0.6, half[0] + 4.5, half[1] + 0.6), fill=style.asphalt)
    for x in (-half[0] - 2.2, half[0] + 2.2):
        draw.polygon(box(x - 2.2, half[1], x + 2.2, street), fill=style.asphalt)

    stains = Image.new("L", shape)
    pen = ImageDraw.Draw(stains)
    for y, _ in aisles:
        for lane in (-0.85, 0.85):
            pen.polygon(box(-half[0] - 3, y + lane - 0.35, half[0] + 3, y + lane + 0.35), fill=40)
    for x, y, _ in slots[rng.random(len(slots)) < 0.6]:
        r, (dx, dy) = float(rng.uniform(0.3, 0.8)), rng.normal(0, 0.5, 2)
        pen.ellipse([at((x + dx - r, y + dy + r))[0], at((x + dx + r, y + dy - r))[0]], fill=70)
    for _ in range(14):  # patches where the ground was mended
        x, y = rng.uniform(-half[0], half[0]), rng.uniform(-half[1], half[1])
        w, h = rng.uniform(0.8, 6, 2)
        pen.polygon(box(x, y, x + w, y + h), fill=int(rng.integers(20, 60)))
    stains = stains.filter(ImageFilter.BoxBlur(3))
    ground.paste(tuple(round(0.5 * c) for c in style.asphalt), (0, 0), stains)

    worn = _noise(shape, 1.2, 40.0, 205.0, rng)
    strokes = Image.new("L", shape)
    pen = ImageDraw.Draw(strokes)
    for a, b in lines:
        side = (b - a)[::-1] * (1, -1) / np.hypot(*(b - a)) * 0.065
        corners = [a + side, b + side, b - side, a - side]
        pen.polygon(at(*((float(p[0]), float(p[1])) for p in corners)), fill=255)
    for y, heading in aisles:
        ahead = 1.0 if heading == 0 else -1.0
        for x in np.arange(-half[0] + 6, half[0] - 4, 14.0):
            pen.polygon(box(x - 1.2, y - 0.08, x + 1.2, y + 0.08), fill=220)
            tip = x + 1.9 * ahead
            pen.polygon(at((tip, y), (tip - 0.9 * ahead, y + 0.4), (tip - 0.9 * ahead, y - 0.4)), fill=220)
    ground.paste(style.paint, (0, 0), ImageChops.multiply(strokes, worn))

    draw = ImageDraw.Draw(ground)
    for x, y, turn in islands:
        forward = np.array([np.cos(turn), np.sin(turn)])
        if abs(forward[1]) > 0.1:
            reach, breadth = forward * 2.4, np.array([size[0] / 2 - 0.1, 0.0])
        else:
            reach, breadth = np.array([2.9, 0.0]), np.array([0.0, size[1] / 2 - 0.1])
        for grow, fill in ((1.0, (168, 166, 160)), (0.9, style.grass)):
            corners = [np.array([x, y]) + grow * (s * reach + t * breadth) for s, t in _ROUND]
            draw.polygon(at(*((float(p[0]), float(p[1])) for p in corners)), fill=fill)

    for metres, spread in ((9.0, 9), (1.6, 9), (0.2, 7)):
        grain = _noise(shape, metres, spread * style.rough, 128.0, rng)
        ground = ImageChops.add(ground, Image.merge("RGB", [grain] * 3), 1, -128)
    return ground


_ROUND = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def _noise(
    shape: tuple[int, int], metres: float, spread: float, middle: float, rng: Generator
) -> Image.Image:
    """An image of smooth noise with lumps of about so many metres."""
    lumps = [max(2, round(n / PER_METRE / metres)) for n in shape]
    values = np.clip(rng.normal(middle, spread, (lumps[1], lumps[0])), 0, 255).astype(np.uint8)
    return Image.fromarray(values).resize(shape, Image.Resampling.BICUBIC)
