"""Pictures of discs, rectangles and triangles over textured noise, drawn from a seed, with the class of each pixel.

Notation: S extent of a picture; r radius of a shape's circumscribed circle (a disc's own); (u, v) coordinates of a
pixel from the shape's centre, turned by the shape's angle.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch.workloads.base import Samples

CLASSES = ("background", "disc", "rectangle", "triangle")

Plane = NDArray[np.float64]


def draw(count: int, seed: int, size: int = 32) -> Samples:
    """``count`` pictures: inputs uint8 (count, 3, S, S), targets int64 (count, S, S), indices into :data:`CLASSES`.

    Each has one to three shapes, of which a later one hides what is below; all may reach over the edge.
    """
    generator = np.random.default_rng(seed)
    pictures = [_picture(generator, size) for _ in range(count)]
    images, classes = (np.stack(part) for part in zip(*pictures, strict=True))
    return Samples(torch.from_numpy(images), torch.from_numpy(classes))


def _picture(generator: np.random.Generator, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One picture, (3, S, S), and its classes, (S, S)."""
    image = np.broadcast_to(generator.uniform(60, 196, (3, 1, 1)), (3, size, size)).copy()
    classes = np.zeros((size, size), dtype=np.int64)
    for _ in range(generator.integers(1, 4)):
        kind = int(generator.integers(1, len(CLASSES)))
        inside = _shape(kind, generator, size)
        # against what is there, by an amount that noise alone does not reach
        image[:, inside] += (generator.choice([-1, 1], 3) * generator.uniform(25, 60, 3))[:, None]
        classes[inside] = kind
    noisy = image + _texture(generator, size)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), classes


def _shape(kind: int, generator: np.random.Generator, size: int) -> NDArray[np.bool_]:
    """Pixels of a shape somewhere in the picture, (S, S)."""
    radius = generator.uniform(size / 7, size / 3.5)
    centre = generator.uniform(size / 8, size * 7 / 8, 2)
    angle, flatness = generator.uniform(0, 2 * math.pi), generator.uniform(0.35, 1)
    down, right = np.mgrid[:size, :size] - centre[:, None, None]
    u = math.cos(angle) * right + math.sin(angle) * down
    v = math.cos(angle) * down - math.sin(angle) * right
    return (_disc, _rectangle, _triangle)[kind - 1](u, v, radius, flatness)


def _disc(u: Plane, v: Plane, radius: float, _: float) -> NDArray[np.bool_]:
    return u**2 + v**2 <= radius**2


def _rectangle(u: Plane, v: Plane, radius: float, flatness: float) -> NDArray[np.bool_]:
    """Sides in the proportion ``flatness``."""
    half = radius / math.hypot(1, flatness)
    return (np.abs(u) <= half) & (np.abs(v) <= half * flatness)


def _triangle(u: Plane, v: Plane, radius: float, _: float) -> NDArray[np.bool_]:
    """Equilateral: within r / 2 of the centre along three directions."""
    turns = (2 * math.pi * corner / 3 for corner in range(3))
    sides = [math.cos(turn) * u + math.sin(turn) * v <= radius / 2 for turn in turns]
    return sides[0] & sides[1] & sides[2]


def _texture(generator: np.random.Generator, size: int) -> Plane:
    """Noise of three scales, (3, S, S): squares of 8, 4 and 1 pixels."""
    total = np.zeros((3, size, size))
    for side, deviation in ((8, 10.0), (4, 10.0), (1, 14.0)):
        cells = -(-size // side)
        coarse = generator.normal(0, deviation, (3, cells, cells))
        total += coarse.repeat(side, axis=1).repeat(side, axis=2)[:, :size, :size]
    return total
