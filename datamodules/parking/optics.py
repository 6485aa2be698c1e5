"""Light, weather and the faults of cameras: from a scene as it is to what a sensor says of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageDraw


class Light(NamedTuple):
    """What falls on a car park."""

    weather: str
    sun: Float[ndarray, " 3"]  # a unit vector towards it
    direct: float  # strength of the sun, and
    diffuse: float  # of the sky, where daylight is about 1 together
    level: float  # how bright the day is, from 0 to 1; lamps are lit where it is dark


def light_of(weather: str, hour: float, north: float) -> Light:
    """The light of an autumn day; the sun is up from a quarter to seven to a quarter to six."""
    passed = float(np.clip((hour - 6.75) / 11, 0.02, 0.98))
    height = np.radians(6 + 34 * np.sin(np.pi * passed))
    bearing = north - np.pi * passed
    sun = np.array([np.cos(height) * np.cos(bearing), np.cos(height) * np.sin(bearing), np.sin(height)])
    level = float(np.clip((18.75 - hour) / 1.6, 0.22, 1) * np.clip((hour - 6.2) / 1.2, 0.3, 1))
    direct, diffuse = {
        "SUNNY": (0.62, 0.6 + 0.35 * (1 - level)),
        "OVERCAST": (0.0, 1.0),
        "RAINY": (0.0, 0.9),
    }[weather]
    return Light(weather, sun, direct * min(1.0, float(np.sin(height)) * 4) * level, diffuse, level)


class Lens(NamedTuple):
    """The faults of a camera."""

    cast: tuple[float, float, float]
    blur: float  # pixels of a frame 200 pixels wide
    vignette: float
    noise: float  # standard deviation in daylight, of 255
    contrast: float


def lens_of(rng: Generator) -> Lens:
    """Some lens."""
    r, g, b = (float(c) for c in rng.normal(1, (0.035, 0.015, 0.04)))
    blur, vignette, noise, contrast = rng.uniform((0.2, 0.08, 2.0, 0.92), (0.5, 0.32, 6.0, 1.08)).tolist()
    return Lens((r, g, b), blur, vignette, noise, contrast)


def vignette(lens: Lens, height: int, width: int) -> Float[ndarray, "height width 1"]:
    """How much of the light reaches each place of a frame."""
    v, u = np.mgrid[0:height, 0:width]
    radius = np.hypot((u + 0.5) / width - 0.5, ((v + 0.5) / height - 0.5) * 0.75) / 0.625
    return np.asarray(1 - lens.vignette * radius**2, dtype=np.float32)[..., None]


def sensed(
    image: Image.Image,
    lens: Lens,
    light: Light,
    edges: Float[ndarray, "height width 1"],
    glow: Float[ndarray, "height width 3"] | None,
    pools: Float[ndarray, "height width 1"],
    rng: Generator,
) -> UInt8[ndarray, "height width 3"]:
    """What a camera makes of a scene: exposure, colour, contrast, vignetting and noise.

    Args:
        image: the scene as if it were day, in the size of a frame.
        lens: the faults of the camera.
        light: what falls on the scene.
        edges: of ``vignette``.
        glow: light that is added; nothing by day.
        pools: how much of the light of lamps falls on each place.
        rng: draws noise.
    """
    value = np.asarray(image, dtype=np.float32)
    dark = 1 - light.level
    # It exposes for longer in the dark, which does not make up for all of it; dusk is blue.
    tint = np.array(lens.cast, dtype=np.float32) * (1 - dark * np.array([0.30, 0.2, 0.06]))
    tint *= {"SUNNY": np.array([1.03, 1.0, 0.95]), "OVERCAST": 0.95, "RAINY": 0.9}[light.weather]
    value = value * (edges * (tint * light.level**0.7).astype(np.float32))
    if glow is not None:
        lamps = pools * np.array([0.8, 0.6, 0.34], dtype=np.float32) * dark
        value += np.asarray(image, dtype=np.float32) * lamps + glow
    contrast = lens.contrast * {"SUNNY": 1.1, "OVERCAST": 0.94, "RAINY": 0.78}[light.weather]
    value = (value - 110) * np.float32(contrast) + np.float32(110 + (8 if light.weather == "RAINY" else 0))
    value += rng.standard_normal(value.shape, dtype=np.float32) * np.float32(lens.noise * (1 + 2 * dark))
    return np.clip(value + 0.5, 0, 255).astype(np.uint8)


def streaks(image: Image.Image, rng: Generator) -> Image.Image:
    """Rain in the air."""
    fall = Image.new("L", image.size)
    draw = ImageDraw.Draw(fall)
    w, h = image.size
    many = 110
    start, long = rng.uniform(0, 1, (many, 2)) * (w, h), rng.uniform(0.03, 0.09, many) * h
    slant = float(rng.normal(0, 0.12))
    for (x, y), d in zip(start.tolist(), long.tolist(), strict=True):
        draw.line([x, y, x + slant * d, y + d], fill=70, width=max(1, w // 500))
    image.paste((206, 210, 216), (0, 0), fall)
    return image
