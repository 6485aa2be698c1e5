"""Draws frames of a car park: ground, shadows, then cars, trees and lamps, the furthest first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from datamodules.parking.geometry import (
    BODY,
    FRONT,
    GLASS,
    NEAR,
    PLATE,
    REAR,
    TRIM,
    TYRE,
    Car,
    Pinhole,
    Solids,
    solids,
)
from datamodules.parking.optics import Lens, Light, sensed, streaks, vignette
from datamodules.parking.scenery import crowns, ground_of, surroundings
from datamodules.parking.sites import Colour, Site
from datamodules.parking.slots import annotated

FINER = 2
"""Factor by which frames are drawn finer in both directions before pixels are averaged."""
_MATERIALS = np.zeros((7, 3), dtype=np.float32)
_MATERIALS[GLASS], _MATERIALS[TYRE], _MATERIALS[TRIM] = (44, 50, 58), (30, 30, 32), (46, 46, 48)
_MATERIALS[FRONT], _MATERIALS[REAR], _MATERIALS[PLATE] = (225, 226, 220), (150, 28, 26), (165, 166, 168)


class Shot(NamedTuple):
    """A frame, and the box of each car in it."""

    image: UInt8[ndarray, "height width 3"]
    boxes: Float[ndarray, "cars 4"]  # corners x1, y1, x2, y2 in pixels, cut at the border; no area outside


class View:
    """The view that one camera has of a car park, which draws the frames of the camera.

    Args:
        site: the car park.
        camera: the camera, with its position and direction.
        lens: the faults of the camera.
        height: height of a frame in pixels.
        width: width of a frame in pixels.
        rng: generator of the leaves of trees.
    """

    def __init__(
        self, site: Site, camera: Pinhole, lens: Lens, height: int, width: int, rng: Generator
    ) -> None:
        self.site, self.camera, self.lens = site, camera, lens
        self.height, self.width = height, width
        self._size = (FINER * width, FINER * height)
        self._scale = np.array(self._size, dtype=np.float64)
        # Lines are thin: the ground is drawn finer than cars are, once and for all.
        plain = ground_of(site, camera, (2 * self._size[0], 2 * self._size[1]))
        self._scenery = {
            weather: surroundings(plain.copy(), site, camera, weather).reduce(2)
            for weather in ("SUNNY", "OVERCAST", "RAINY")
        }
        self._shade = {w: image.point(_darker) for w, image in self._scenery.items()}
        self._trees = crowns(site, camera, self._size, rng)
        self._vignette = vignette(lens, height, width)
        self._pools = self._lamplight()
        self.slots = annotated(site, camera)

    def draw(self, cars: list[Car], light: Light, rng: Generator) -> Shot:
        """A frame with these cars in this light; noise and rain come from ``rng``."""
        image = self._scenery[light.weather].copy()
        boxes, casting = np.zeros((len(cars), 4)), np.zeros((0, 8, 3))
        painted: list[tuple[float, list[tuple[list[float], Colour]]]] = []
        if cars:
            faces = solids(cars)
            uv, ahead = self.camera.project(faces.corners)
            starts = np.searchsorted(faces.car, np.arange(len(cars)))
            nearest = np.minimum.reduceat(ahead.min(1), starts)
            boxes = _bounds(uv, starts)
            boxes[nearest < NEAR] = 0
            inside = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
            casting = faces.corners[
                (nearest >= NEAR)[faces.car] & faces.solid & (faces.normals @ light.sun > 0)
            ]
            painted = self._faces(faces, uv, inside, cars, light)
        image = self._shadows(image, cars, casting, light)
        if cars and light.weather == "RAINY":
            image = self._mirrored(image, faces, inside[faces.car] & faces.solid, cars)
        self._paint(image, painted)
        if light.weather == "RAINY":
            image = streaks(image, rng)
        small = image.reduce(FINER)
        if (blur := self.lens.blur * self.width / 200) > 0:
            small = small.filter(ImageFilter.GaussianBlur(blur))
        glow = self._glow(cars, light) if light.level < 0.7 else None
        return Shot(
            sensed(small, self.lens, light, self._vignette, glow, self._pools, rng),
            boxes * np.tile((self.width, self.height), 2),
        )

    def _pixels(
        self, points: Float[ndarray, "*shape 3"]
    ) -> tuple[Float[ndarray, "*shape 2"], Float[ndarray, "*shape"]]:
        """Coordinates of points in the finer frame, and how many metres ahead of the camera they are."""
        uv, ahead = self.camera.project(points)
        return uv * self._scale, ahead

    def _shadows(
        self, image: Image.Image, cars: list[Car], casting: Float[ndarray, "faces 8 3"], light: Light
    ) -> Image.Image:
        """The image, darker under cars and in the shadows of trees, posts and ``casting`` faces of cars."""
        mask, soft = (Image.new("L", self._size) for _ in range(2))
        if light.direct > 0.05:
            draw, depth = ImageDraw.Draw(mask), round(230 * min(1.0, light.direct / 0.4))
            for standing in (casting, *self._standing(light.sun)):
                self._fill(draw, standing - light.sun * (standing[..., 2:] / light.sun[2]), depth)
        if cars:
            self._fill(ImageDraw.Draw(soft), _under(cars), 235)
        mask = ImageChops.lighter(mask.filter(ImageFilter.BoxBlur(0.7)), soft.filter(ImageFilter.BoxBlur(3)))
        return Image.composite(self._shade[light.weather], image, mask)

    def _standing(
        self, sun: Float[ndarray, " 3"]
    ) -> tuple[Float[ndarray, "trees 14 3"], Float[ndarray, "posts 4 3"]]:
        """Outlines of trees and posts as seen from the sun: uneven discs, and strips."""
        aside = np.array([-sun[1], sun[0], 0.0]) / np.hypot(sun[0], sun[1])
        turn = np.arange(14) * (2 * np.pi / 14)
        lumpy = 1 + 0.16 * np.sin(5 * turn) + 0.1 * np.cos(3 * turn)
        disc = np.outer(np.cos(turn) * lumpy, aside) + np.outer(np.sin(turn) * lumpy, np.cross(sun, aside))
        trees, posts = self.site.trees, self.site.posts
        discs = trees[:, None, [0, 1, 3]] + trees[:, None, 2:3] * disc
        strips = np.repeat(posts[:, None], 4, 1)
        strips[:, :2, 2] = 0
        return discs, strips + np.outer((-0.09, 0.09, 0.09, -0.09), aside)

    def _fill(self, draw: ImageDraw.ImageDraw, polygons: Float[ndarray, "many corners 3"], fill: int) -> None:
        """Fill those polygons that are ahead of the camera and reach into the frame."""
        at, ahead = self._pixels(polygons)
        kept = ahead.min(1) > NEAR
        kept &= np.all((at > 0).any(1) & (at < self._scale).any(1), axis=1)
        for points in at[kept].reshape(int(kept.sum()), 2 * at.shape[1]).tolist():
            draw.polygon(points, fill=fill)

    def _mirrored(
        self, image: Image.Image, faces: Solids, shown: Bool[ndarray, " faces"], cars: list[Car]
    ) -> Image.Image:
        """The image with blurred reflections of the shown faces in the wet ground."""
        upside = image.copy()
        draw = ImageDraw.Draw(upside)
        at, _ = self._pixels(faces.corners[shown] * (1, 1, -1))
        for points, car in zip(at.reshape(len(at), 16).tolist(), faces.car[shown].tolist(), strict=True):
            r, g, b = cars[car].colour
            draw.polygon(points, fill=(r * 3 // 4, g * 3 // 4, b * 3 // 4))
        return Image.blend(image, upside.filter(ImageFilter.BoxBlur(3)), 0.4)

    def _faces(
        self,
        faces: Solids,
        uv: Float[ndarray, "faces 8 2"],
        inside: Bool[ndarray, " cars"],
        cars: list[Car],
        light: Light,
    ) -> list[tuple[float, list[tuple[list[float], Colour]]]]:
        """The distance of each car inside the frame, and its faces towards the camera with their colours."""
        eye = np.array(self.camera.place)
        sight = eye - faces.corners[:, 0]
        sight /= np.linalg.norm(sight, axis=1, keepdims=True)
        facing = (sight * faces.normals).sum(1)
        kept = np.flatnonzero((facing > 0) & inside[faces.car])
        normal, material, car = faces.normals[kept], faces.material[kept], faces.car[kept]
        base = _MATERIALS[material]
        colours = np.array([c.colour for c in cars], dtype=np.float32)
        base[material == BODY] = colours[car[material == BODY]]
        lit = np.array([c.lights for c in cars])[car]
        base[(material == FRONT) & lit] = (255, 255, 240)
        base[(material == REAR) & lit] = (255, 60, 50)
        toward = normal @ light.sun
        bright = light.diffuse * (0.66 + 0.34 * normal[:, 2]) + light.direct * np.maximum(toward, 0)
        # Paint and glass mirror the sky, more so at a flat angle; in the sun they glint.
        gloss = np.where(material == GLASS, 0.55, np.where(material == BODY, 0.16, 0.02))
        flat = 0.25 + 0.75 * (1 - facing[kept]) ** 3
        upward = np.clip(2 * facing[kept] * normal[:, 2] - sight[kept, 2] + 0.4, 0, 1)
        mirror = 2 * facing[kept][:, None] * normal - sight[kept]
        glint = np.maximum(mirror @ light.sun, 0) ** 24 * light.direct * gloss * 420
        colour = base * bright[:, None] + (205 * gloss * flat * upward * light.diffuse + glint)[:, None]
        tones = np.clip(colour, 0, 255).astype(int).tolist()
        points = (uv[kept] * self._scale).reshape(len(kept), 16).tolist()
        far = [float(np.hypot(c.x - eye[0], c.y - eye[1])) for c in cars]
        painted: dict[int, list[tuple[list[float], Colour]]] = {}
        for owner, place, tone in zip(car.tolist(), points, tones, strict=True):
            painted.setdefault(owner, []).append((place, (tone[0], tone[1], tone[2])))
        return [(far[owner], polygons) for owner, polygons in painted.items()]

    def _paint(self, image: Image.Image, cars: list[tuple[float, list[tuple[list[float], Colour]]]]) -> None:
        """Paint cars, trees and lamps into the image, the furthest first."""
        draw = ImageDraw.Draw(image)
        things: list[tuple[float, int, int]] = [(-far, 0, i) for i, (far, _) in enumerate(cars)]
        things += [(-tree.far, 1, i) for i, tree in enumerate(self._trees)]
        eye = np.array(self.camera.place[:2])
        things += [(-float(np.hypot(*(post[:2] - eye))), 2, i) for i, post in enumerate(self.site.posts)]
        for _, kind, i in sorted(things):
            if kind == 0:
                for points, colour in cars[i][1]:
                    draw.polygon(points, fill=colour)
            elif kind == 1:
                _, crown, corner, trunk = self._trees[i]
                draw.polygon(trunk, fill=(74, 62, 50))
                image.paste(crown, corner, crown)
            else:
                self._post(draw, *self.site.posts[i])

    def _post(self, draw: ImageDraw.ImageDraw, x: float, y: float, top: float) -> None:
        at, ahead = self._pixels(np.array([(x, y, 0.0), (x, y, top), (x, y + 1.2, top + 0.1)]))
        if ahead.min() < NEAR:
            return
        half = max(0.5, 0.07 * self.camera.focal * self._size[0] / float(ahead[0]))
        (ax, ay), (bx, by), (cx, cy) = at.tolist()
        draw.polygon([ax - half, ay, ax + half, ay, bx + half, by, bx - half, by], fill=(128, 130, 132))
        draw.line([bx, by, cx, cy], fill=(128, 130, 132), width=max(1, round(1.4 * half)))
        draw.ellipse([cx - 3 * half, cy - 1.3 * half, cx + 3 * half, cy + 1.3 * half], fill=(206, 206, 200))

    def _lamplight(self) -> Float[ndarray, "height width 1"]:
        """How much of the light of lamps falls on what each pixel shows, from 0 to 1."""
        lit = Image.new("L", (self.width, self.height))
        turn = np.arange(16) * (np.pi / 8)
        for x, y, _ in self.site.posts:
            for radius, fill in ((9.0, 60), (5.5, 140), (3.0, 220)):
                ring = np.stack([x + radius * np.cos(turn), y + 0.8 + radius * np.sin(turn), 0 * turn], 1)
                uv, ahead = self.camera.project(ring)
                if ahead.min() > NEAR:
                    one = Image.new("L", lit.size)
                    ImageDraw.Draw(one).polygon((uv * lit.size).flatten().tolist(), fill=fill)
                    lit = ImageChops.lighter(lit, one)
        soft = lit.filter(ImageFilter.GaussianBlur(self.width / 40))
        return np.asarray(soft, dtype=np.float32)[..., None] / 255

    def _glow(self, cars: list[Car], light: Light) -> Float[ndarray, "height width 3"]:
        """The light of lamps and headlights that shines into the camera in the dark."""
        glow, beams = (Image.new("RGB", (self.width, self.height)) for _ in range(2))
        draw = ImageDraw.Draw(glow)

        def dot(point: tuple[float, float, float], size: float, colour: Colour) -> None:
            uv, ahead = self.camera.project(np.array(point))
            if ahead > NEAR:
                r = max(0.7, size * self.camera.focal * self.width / float(ahead))
                u, v = uv * (self.width, self.height)
                draw.ellipse([u - r, v - r, u + r, v + r], fill=colour)

        for x, y, top in self.site.posts:
            dot((x, y + 1.2, top), 0.2, (255, 214, 150))
        for car in cars:
            if car.lights:
                ahead = np.array([np.cos(car.heading), np.sin(car.heading)])
                side = np.array([-ahead[1], ahead[0]])
                beam = np.array([car.x, car.y]) + np.outer((2.4, 9.0, 9.0, 2.4), ahead)
                beam += np.outer((0.8, 2.4, -2.4, -0.8), side)
                uv, depth = self.camera.project(np.concatenate([beam, np.zeros((4, 1))], 1))
                if depth.min() > NEAR:
                    ImageDraw.Draw(beams).polygon((uv * beams.size).flatten().tolist(), fill=(74, 72, 62))
                front = np.array([car.x, car.y]) + 2.2 * ahead
                eye = np.array(self.camera.place[:2]) - front
                if eye @ ahead > 0:
                    for s in (-0.6, 0.6):
                        x, y = front + s * side
                        dot((float(x), float(y), 0.65), 0.22, (255, 250, 230))
        wide = self.width / 100
        halo = ImageChops.add(glow, glow.filter(ImageFilter.GaussianBlur(wide)), 1.3)
        halo = ImageChops.add(halo, beams.filter(ImageFilter.GaussianBlur(2 * wide)))
        return np.asarray(halo, dtype=np.float32) * min(1.0, 1.4 * (1 - light.level))


def _under(cars: list[Car]) -> Float[ndarray, "cars 4 3"]:
    """The corners of the ground that each car covers."""
    x, y, turn, long, wide = np.array([(c.x, c.y, c.heading, *c.scale[:2]) for c in cars]).T[..., None]
    ahead, aside = 2.2 * long * (-1, 1, 1, -1), 0.95 * wide * (-1, -1, 1, 1)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([x + ahead * cos - aside * sin, y + ahead * sin + aside * cos, 0 * ahead], -1)


def _darker(value: int) -> float:
    return 0.42 * value


def _bounds(uv: Float[ndarray, "faces 8 2"], starts: Int[ndarray, " cars"]) -> Float[ndarray, "cars 4"]:
    """The box of each car, cut at the border of the frame, whose corners are 0 and 1."""
    low = np.minimum.reduceat(uv.min(1), starts)
    high = np.maximum.reduceat(uv.max(1), starts)
    return np.asarray(np.clip(np.concatenate([low, high], 1), 0, 1))
