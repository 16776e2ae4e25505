"""Synthetic sharp images by the dead-leaves model, in which opaque textured shapes fall on one another.

Shape sizes follow a power law, which gives the edges, occlusions and scale invariance of natural images (Lee, Mumford and
Huang, IJCV 2001). Restoration networks trained on such images work on photographs (Achddou, Gousseau and Ladjal, SSVM 2021).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float32]

# Leaves are drawn at twice the size and averaged. This antialiases edges, as a camera's pixels do.
SUPERSAMPLING = 2
# A leaf has one of these numbers of corners, 4 twice as often as each other one. 24 corners pass for an ellipse.
CORNERS = np.array([3, 4, 4, 5, 6, 24])
# Mean area of a leaf of radius 1, a polygon whose corners lie on a circle of this radius.
UNIT_AREA = float(np.mean(CORNERS / 2 * np.sin(2 * np.pi / CORNERS)))
# Total area of the leaves, as a multiple of the area they fall on. About 0.2 % of that area, exp(-6), stays bare ground.
COVERS = 6
# At most this many leaves fall in one layer. One layer of small leaves is not enough for COVERS in a large image. One of the
# largest leaves always is: it needs less than 400.
MAX_LEAVES = 1500


def dead_leaves(side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image, (side, side, 3) RGB uint8."""
    canvas = side * SUPERSAMPLING
    leaf = _draw_leaves(canvas, rng)
    image = _paint(leaf, rng)
    # The mean of each cell of SUPERSAMPLING x SUPERSAMPLING pixels. numpy's mean over two axes takes four times as long.
    offsets = range(SUPERSAMPLING)
    image = np.add.reduce([image[y::SUPERSAMPLING, x::SUPERSAMPLING] for y in offsets for x in offsets]) / SUPERSAMPLING**2
    return (image.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _draw_leaves(canvas: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """The number of the topmost leaf at each pixel, (canvas, canvas). 0 is the ground."""
    margin = canvas / 4  # centres also lie beside the canvas, up to this distance: their leaves can reach into it
    radius = _radii(canvas, COVERS * (canvas + 2 * margin) ** 2, rng)
    count = len(radius)
    centre = rng.uniform(-margin, canvas + margin, (count, 2))
    angle = rng.uniform(0, 2 * np.pi, count)
    stretch = np.exp(rng.normal(0, 0.35, count))  # a leaf is this much longer and this much narrower, with the same area
    corners = rng.choice(CORNERS, count)

    # Half of the leaves fall beside the canvas and are not drawn. The outlines of the others are computed together for all leaves
    # with the same number of corners: leaf by leaf, the outlines would take most of the time. No leaf reaches farther from its
    # centre than `reach`.
    reach = (radius * np.maximum(stretch, 1 / stretch))[:, None] + 1
    lands = ((centre > -reach) & (centre < canvas + reach)).all(axis=1)
    outlines: dict[int, list[float]] = {}
    for length in np.unique(corners):
        leaves = np.flatnonzero((corners == length) & lands)
        a, r, s = (of[leaves, None] for of in (angle, radius, stretch))
        turn = a + np.arange(length) * (2 * np.pi / length)
        x, y = np.cos(turn) * r * s, np.sin(turn) * r / s
        points = np.stack([np.cos(a) * x - np.sin(a) * y, np.sin(a) * x + np.cos(a) * y], axis=2) + centre[leaves, None]
        outlines |= zip(leaves.tolist(), points.reshape(len(leaves), -1).tolist(), strict=True)

    image = Image.new("I", (canvas, canvas), 0)
    draw = ImageDraw.Draw(image)
    for number in np.flatnonzero(lands).tolist():
        draw.polygon(outlines[number], fill=number + 1)
    return np.asarray(image, dtype=np.int32)


def _radii(canvas: int, area: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Radii of leaves with this total area, in pixels of the canvas, in the order in which the leaves fall.

    They follow a power law, with density proportional to r**-3: each octave of radii has the same total area. If that takes more
    than MAX_LEAVES leaves, the rest of the area falls first, as a layer of leaves whose smallest radius is twice as large, and so
    on. Between small leaves, larger leaves then show and not the ground.
    """
    smallest = SUPERSAMPLING * np.exp(rng.uniform(np.log(1.0), np.log(8.0)))
    largest = max(canvas * rng.uniform(0.3, 0.8), 2 * smallest)
    layers: list[NDArray[np.float64]] = []
    while True:
        mean_area = 2 * UNIT_AREA * np.log(largest / smallest) / (smallest**-2 - largest**-2)
        needed = math.ceil(area / mean_area)
        count = min(needed, MAX_LEAVES)
        # By inversion of the distribution function.
        layers.insert(0, (smallest**-2 - rng.random(count) * (smallest**-2 - largest**-2)) ** -0.5)
        if count == needed:
            return np.concatenate(layers)
        area -= count * mean_area
        smallest *= 2


def _paint(leaf: NDArray[np.int32], rng: np.random.Generator) -> Floats:
    """(canvas, canvas) leaf numbers -> (canvas, canvas, 3): each leaf's colour, shading and texture."""
    canvas = leaf.shape[0]
    count = int(leaf.max()) + 1
    y, x = np.mgrid[0:canvas, 0:canvas].astype(np.float32)

    # The channels of natural images differ little. Leaves therefore vary much in luminance and little in colour, around one tone
    # of the whole image.
    contrast = rng.uniform(0.3, 1.0)
    tone = rng.uniform(0.5 * contrast, 1 - 0.5 * contrast) + rng.normal(0, 0.06, 3)
    colour = tone + contrast * (rng.beta(0.9, 0.9, (count, 1)) - 0.5 + rng.normal(0, 0.09, (count, 3)))

    # Shading: each leaf has a brightness gradient of its own, which is 0 at the centre of the canvas.
    shading = rng.normal(0, 0.5 / canvas, (count, 2)).astype(np.float32)
    shade = shading[:, 0].take(leaf) * (x - canvas / 2) + shading[:, 1].take(leaf) * (y - canvas / 2)

    # Grating: 30 % of the leaves have parallel stripes, with a period of 2.5 to 24 pixels of the final image.
    period = SUPERSAMPLING * np.exp(rng.uniform(np.log(2.5), np.log(24.0), count))
    direction = rng.uniform(0, 2 * np.pi, count)
    wave = np.stack([np.cos(direction), np.sin(direction)]) * (2 * np.pi / period)
    wave = wave.astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    depth = (rng.random(count) < 0.3) * rng.uniform(0.02, 0.25, count)
    grating = depth.astype(np.float32).take(leaf) * np.sin(wave[0].take(leaf) * x + wave[1].take(leaf) * y + phase.take(leaf))

    # Grain: noise at two scales, one and three pixels of the final image. A leaf has each with probability 0.45.
    roughness = ((rng.random((2, count)) < 0.45) * rng.exponential(0.06, (2, count))).astype(np.float32)
    grain = sum(roughness[i].take(leaf) * _noise(canvas, cell, rng) for i, cell in enumerate((SUPERSAMPLING, 3 * SUPERSAMPLING)))

    texture = (shade + grating + grain)[:, :, None]
    return colour.astype(np.float32).take(leaf, axis=0) + texture


def _noise(canvas: int, cell: int, rng: np.random.Generator) -> Floats:
    """Smooth Gaussian noise, (canvas, canvas). The canvas is divided into cells of `cell` x `cell` pixels. One value of unit
    variance is drawn for the centre of each cell, and the pixels between the centres are interpolated."""
    cells = canvas // cell + 2
    image = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(image.resize((cells * cell, cells * cell), Image.Resampling.BICUBIC))[:canvas, :canvas]
