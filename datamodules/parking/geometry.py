"""Pinhole cameras, and cars as solids with flat faces.

Lengths are in metres; x and y lie on the ground, where z is 0, and z points up.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

ASPECT = 4 / 3
"""Width by height of what a camera sees, whatever the size of its frames."""
NEAR = 1.0
"""Distance ahead of a camera, in metres, within which nothing is drawn."""


class Pinhole(NamedTuple):
    """A pinhole camera; coordinates in its frame run from 0 to 1, to the right and down."""

    place: tuple[float, float, float]
    yaw: float  # radians; 0 looks along x, pi / 2 along y
    pitch: float  # radians below the horizon
    focal: float  # in widths of the frame

    def axes(self) -> Float[ndarray, "3 3"]:
        """Unit vectors of the camera that point to the right, down and ahead."""
        cy, sy, cp, sp = np.cos(self.yaw), np.sin(self.yaw), np.cos(self.pitch), np.sin(self.pitch)
        return np.array([[sy, -cy, 0.0], [-cy * sp, -sy * sp, -cp], [cy * cp, sy * cp, -sp]])

    def project(
        self, points: Float[ndarray, "*shape 3"]
    ) -> tuple[Float[ndarray, "*shape 2"], Float[ndarray, "*shape"]]:
        """Coordinates of points in the frame, and how many metres ahead of the camera they are.

        A point behind the camera, whose distance is negative, has no coordinates in the frame: those that are
        returned for it mean nothing.
        """
        seen = (points - np.array(self.place)) @ self.axes().T
        ahead = seen[..., 2]
        scale = np.array([self.focal, self.focal * ASPECT]) / np.maximum(ahead, 1e-6)[..., None]
        return 0.5 + seen[..., :2] * scale, ahead

    def ground(self) -> Float[ndarray, "3 3"]:
        """The matrix that takes ``(u, v, 1)`` in the frame to ``(x w, y w, w)``, w > 0 below the horizon."""
        right, down, ahead = self.axes()
        # The ray through (u, v), as a linear function of (u, v, 1).
        ray = np.stack([right / self.focal, down / (self.focal * ASPECT)], 1)
        ray = np.concatenate([ray, (ahead - ray.sum(1) / 2)[:, None]], 1)
        fall = -ray[2]
        x, y, z = self.place
        return np.stack([x * fall + z * ray[0], y * fall + z * ray[1], fall])


class Car(NamedTuple):
    """A car: where it stands, its shape, size and colour, and whether its lights are on."""

    x: float  # of its middle
    y: float
    heading: float  # radians; 0 along x
    shape: int  # position in SHAPES
    scale: tuple[float, float, float]  # its length, width and height, divided by those of its shape
    colour: tuple[int, int, int]
    lights: bool = False


BODY, GLASS, TYRE, FRONT, REAR, TRIM, PLATE = range(7)
"""Materials of faces."""


class Shape(NamedTuple):
    """The faces of a car that heads along x, in the order in which they are painted."""

    faces: Float[ndarray, "faces 8 3"]  # shorter ones repeat a corner
    normals: Float[ndarray, "faces 3"]
    material: Int[ndarray, " faces"]
    solid: Bool[ndarray, " faces"]  # whether it is one of the faces that close the body or the cabin


def _shape(
    length: float,
    width: float,
    height: float,
    heights: tuple[float, float, float],
    cabin: tuple[float, float, float, float],
    *,
    windows: tuple[float, float] = (0.06, 0.94),
    bed: bool = False,
) -> Shape:
    """The shape of a car that consists of a body and a cabin on top of it.

    Args:
        length: length of the car in metres.
        width: width of the car in metres.
        height: height of the car in metres.
        heights: heights in metres of the tail, of the belt between body and cabin, and of the nose.
        cabin: where the cabin begins and ends at the belt, then at the roof, as shares of the length; the
            tail is at -0.5.
        windows: where the side windows begin and end, as shares of the cabin from the front.
        bed: whether the car has an open cargo bed behind the cabin.
    """
    tail, belt, nose = heights
    back, front, top_back, top_front = (share * length for share in cabin)
    half, side, roof = length / 2, width / 2, 0.78 * width / 2
    faces: list[tuple[list[tuple[float, float, float]], int, bool]] = []

    def both(points: list[tuple[float, float]], y: float, material: int, solid: bool = False) -> None:
        faces.extend(([(x, sign * y, z) for x, z in points], material, solid) for sign in (-1, 1))

    def across(a: tuple[float, float], b: tuple[float, float], y: float, material: int, solid: bool) -> None:
        faces.append(
            ([(a[0], -y, a[1]), (a[0], y, a[1]), (b[0], y, b[1]), (b[0], -y, b[1])], material, solid)
        )

    low = 0.28
    outline = [(-half, low), (-half, tail), (back, belt), (front, belt), (half, nose), (half, low)]
    both(outline, side, BODY, True)
    for a, b in pairwise(outline):
        across(a, b, side, BODY, True)
    both([(-half, low), (half, low), (half, low + 0.13), (-half, low + 0.13)], side, TRIM)
    for x in (-0.3 * length, 0.31 * length):
        for radius, material in ((0.34, TYRE), (0.2, PLATE)):
            turn = np.arange(8) * np.pi / 4
            rim = [(x + radius * float(np.cos(t)), 0.33 + radius * float(np.sin(t))) for t in turn]
            both(rim, side + 0.01, material)
    for x, high, material in ((half, nose, FRONT), (-half, tail, REAR)):
        for y in (-0.72 * side, 0.72 * side):
            z = high - 0.16
            corners = [(x, y - 0.17, z - 0.09), (x, y + 0.17, z - 0.09), (x, y + 0.17, z + 0.09)]
            faces.append(([*corners, (x, y - 0.17, z + 0.09)], material, False))
        across((x, low + 0.12), (x, low + 0.26), 0.26, PLATE, False)
    across((half, nose - 0.36), (half, nose - 0.16), 0.45 * side, TRIM, False)  # the grille
    if bed:
        across((-half + 0.1, tail), (back - 0.05, belt), 0.86 * side, TRIM, False)

    base, rest = 0.95 * side, height
    walls = {
        "front": [
            (front, -base, belt),
            (front, base, belt),
            (top_front, roof, rest),
            (top_front, -roof, rest),
        ],
        "back": [(back, -base, belt), (back, base, belt), (top_back, roof, rest), (top_back, -roof, rest)],
        "left": [(front, base, belt), (back, base, belt), (top_back, roof, rest), (top_front, roof, rest)],
        "right": [
            (front, -base, belt),
            (back, -base, belt),
            (top_back, -roof, rest),
            (top_front, -roof, rest),
        ],
    }
    for name, wall in walls.items():
        faces.append((wall, BODY, True))
        spans = [(0.06, 0.94)]
        if name in ("left", "right"):
            begin, end = windows
            middle = (begin + end) / 2
            spans = [(begin, middle - 0.02), (middle + 0.02, end)]
        faces.extend((_pane(wall, *span), GLASS, False) for span in spans)
    across((top_back, rest), (top_front, rest), roof, BODY, True)
    return _closed(faces)


def _pane(
    wall: list[tuple[float, float, float]], begin: float, end: float
) -> list[tuple[float, float, float]]:
    """Corners of a window in a wall whose own corners are two at the belt, then two at the roof."""
    a, b, c, d = (np.array(p) for p in wall)
    places = ((begin, 0.1), (end, 0.1), (end, 0.88), (begin, 0.88))
    points = [(1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * d + s * c) for s, t in places]
    return [(float(p[0]), float(p[1]), float(p[2])) for p in points]


def _closed(faces: list[tuple[list[tuple[float, float, float]], int, bool]]) -> Shape:
    """The shape that has these faces, with normals that point out of the car."""
    middle = np.array([0.0, 0.0, 0.7])
    corners = np.array([face + [face[-1]] * (8 - len(face)) for face, _, _ in faces])
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    inward = ((corners.mean(1) - middle) * normals).sum(1) < 0
    normals[inward] *= -1
    return Shape(corners, normals, np.array([m for _, m, _ in faces]), np.array([s for _, _, s in faces]))


SHAPES = {
    "sedan": _shape(4.6, 1.82, 1.45, (0.95, 1.0, 0.8), (-0.36, 0.2, -0.2, 0.03)),
    "hatchback": _shape(4.0, 1.76, 1.5, (0.95, 1.0, 0.82), (-0.47, 0.24, -0.4, 0.05)),
    "wagon": _shape(4.7, 1.84, 1.5, (0.95, 1.0, 0.8), (-0.47, 0.2, -0.42, 0.04)),
    "suv": _shape(4.5, 1.9, 1.72, (1.1, 1.14, 1.02), (-0.47, 0.22, -0.41, 0.08)),
    "van": _shape(4.9, 1.95, 2.05, (1.1, 1.15, 0.98), (-0.49, 0.36, -0.475, 0.22), windows=(0.04, 0.5)),
    "pickup": _shape(5.1, 1.88, 1.72, (1.0, 1.04, 0.98), (-0.12, 0.24, -0.1, 0.1), bed=True),
}
SHARES = (0.24, 0.33, 0.14, 0.17, 0.07, 0.05)
"""Shares of the shapes among all cars."""
_FACES = list(SHAPES.values())

NOMINAL = (4.35, 1.8, 1.5)
"""Length, width and height in metres of the car that a slot is made for."""


class Solids(NamedTuple):
    """The faces of many cars, at the places where the cars stand."""

    corners: Float[ndarray, "faces 8 3"]
    normals: Float[ndarray, "faces 3"]
    material: Int[ndarray, " faces"]
    solid: Bool[ndarray, " faces"]
    car: Int[ndarray, " faces"]  # position of the car that has the face


def solids(cars: list[Car]) -> Solids:
    """All faces of at least one car, car by car."""
    shapes = [_FACES[car.shape] for car in cars]
    which = np.repeat(np.arange(len(cars)), [len(shape.material) for shape in shapes])
    scale = np.array([car.scale for car in cars])[which]
    turn = np.array([car.heading for car in cars])[which]
    place = np.array([(car.x, car.y) for car in cars])[which]
    corners = np.concatenate([shape.faces for shape in shapes]) * scale[:, None]
    normals = np.concatenate([shape.normals for shape in shapes])
    corners = _turned(corners, turn[:, None])
    corners[..., :2] += place[:, None]
    material = np.concatenate([shape.material for shape in shapes])
    return Solids(corners, _turned(normals, turn), material, np.concatenate([s.solid for s in shapes]), which)


def _turned(
    points: Float[ndarray, "*shape 3"], turn: Float[ndarray, "*#shape"]
) -> Float[ndarray, "*shape 3"]:
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = points[..., 0], points[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y, points[..., 2]], -1)


def nominal(slots: Float[ndarray, "slots 3"]) -> Float[ndarray, "slots 16 3"]:
    """Corners of the car that each slot (x, y, heading) is made for: eight of the body, eight of the cabin.

    The car is alike at both ends, for nobody knows which way one will park.
    """
    length, width, height = NOMINAL
    body = [(x * length / 2, y * width / 2, z) for x in (-1, 1) for y in (-1, 1) for z in (0.05, 0.9)]
    cabin = [(x, y * 0.4 * width, z) for x in (-1.3, 1.3) for y in (-1, 1) for z in (1.0, height)]
    corners = np.broadcast_to(np.array(body + cabin), (len(slots), 16, 3))
    corners = _turned(corners, slots[:, 2:])
    return np.asarray(corners + np.concatenate([slots[:, :2], np.zeros((len(slots), 1))], 1)[:, None])
