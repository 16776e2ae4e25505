"""Crops, pads and joins decoded images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
COLUMN_GAP = 4


def cut(pixels: Pixels, side: int, top: int, left: int) -> Pixels:
    """Cuts a side x side patch. An image that is smaller is first reflected to that size."""
    return pad_to(pixels, side)[top : top + side, left : left + side]


def pad_to(pixels: Pixels, side: int) -> Pixels:
    """Reflects an image at its right and bottom until both sides are at least `side` pixels."""
    height, width = pixels.shape[:2]
    if min(height, width) >= side:
        return pixels
    return np.pad(pixels, ((0, max(0, side - height)), (0, max(0, side - width)), (0, 0)), mode="reflect")


def centre_crop(pixels: Pixels, side: int | None, block: int = 1) -> Pixels:
    """The central part of at most side x side pixels, beginning at multiples of `block`. None keeps the whole image."""
    if side is None:
        return pixels
    height, width = pixels.shape[:2]
    top, left = (max(0, (extent - side) // 2) // block * block for extent in (height, width))
    return pixels[top : top + side, left : left + side]


def side_by_side(columns: Sequence[Pixels]) -> Pixels:
    """Joins images of equal size from left to right, with white gaps between them."""
    white = np.full((columns[0].shape[0], COLUMN_GAP, 3), 255, np.uint8)
    row: list[Pixels] = []
    for column in columns:
        row += [column, white]
    return np.concatenate(row[:-1], axis=1)
