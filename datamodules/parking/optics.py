"""Light, weather and the faults of cameras: what a sensor records of a scene."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageDraw


class Light(NamedTuple):
    """The light that falls on a car park."""

    weather: str
    sun: Float[ndarray, " 3"]  # a unit vector towards it
    direct: float  # strength of the light of the sun
    diffuse: float  # strength of the light of the sky; by day the two add up to about 1
    level: float  # brightness of the day, from 0 to 1; lamps are lit below 0.7


def light_of(weather: str, hour: float, north: float) -> Light:
    """The light at an hour of an autumn day, on which the sun is up from 6:45 to 17:45.

    Args:
        weather: SUNNY, OVERCAST or RAINY.
        hour: hours since midnight.
        north: angle in radians from the x axis to the east.
    """
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
    """The faults of a camera's lens and sensor."""

    cast: tuple[float, float, float]  # factors of red, green and blue
    blur: float  # radius in pixels of a frame that is 200 pixels wide
    vignette: float  # share of the light that the corners of a frame lack
    noise: float  # standard deviation in daylight, where white is 255
    contrast: float  # factor of the contrast


def lens_of(rng: Generator) -> Lens:
    """The faults of a random camera."""
    r, g, b = (float(c) for c in rng.normal(1, (0.035, 0.015, 0.04)))
    blur, vignette, noise, contrast = rng.uniform((0.2, 0.08, 2.0, 0.92), (0.5, 0.32, 6.0, 1.08)).tolist()
    return Lens((r, g, b), blur, vignette, noise, contrast)


def vignette(lens: Lens, height: int, width: int) -> Float[ndarray, "height width 1"]:
    """The share of the light that reaches each pixel of a frame, less at its corners."""
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
    """The frame that a camera records of a scene, with its exposure, colour, contrast, vignetting and noise.

    Args:
        image: the scene as if it were day, in the size of a frame.
        lens: the faults of the camera.
        light: the light that falls on the scene.
        edges: what ``vignette`` returns for this lens.
        glow: light of lamps that shines into the camera and is added; none by day.
        pools: how much of the light of lamps falls on what each pixel shows, from 0 to 1.
        rng: generator of the noise.
    """
    value = np.asarray(image, dtype=np.float32)
    dark = 1 - light.level
    # A camera exposes for longer in the dark, but frames are still darker; dusk is blue.
    tint = np.array(lens.cast, dtype=np.float32) * (1 - dark * np.array([0.30, 0.2, 0.06]))
    tint *= {"SUNNY": (1.03, 1.0, 0.95), "OVERCAST": (0.95,) * 3, "RAINY": (0.9,) * 3}[light.weather]
    value = value * (edges * (tint * light.level**0.7).astype(np.float32))
    if glow is not None:
        lamps = pools * np.array([0.8, 0.6, 0.34], dtype=np.float32) * dark
        value += np.asarray(image, dtype=np.float32) * lamps + glow
    contrast = lens.contrast * {"SUNNY": 1.1, "OVERCAST": 0.94, "RAINY": 0.78}[light.weather]
    value = (value - 110) * np.float32(contrast) + np.float32(110 + (8 if light.weather == "RAINY" else 0))
    value += rng.standard_normal(value.shape, dtype=np.float32) * np.float32(lens.noise * (1 + 2 * dark))
    return np.asarray((value + 0.5).clip(0, 255), dtype=np.uint8)


def streaks(image: Image.Image, rng: Generator) -> Image.Image:
    """The image with streaks of rain, painted into it."""
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
