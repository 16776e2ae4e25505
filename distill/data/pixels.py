"""Turns, reduces, crops, pads and joins decoded images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
AnyPixels = NDArray[np.uint8] | NDArray[np.uint16]
BAND_ROWS = 256
COLUMN_GAP = 4
# EXIF orientation -> function that turns pixels (H, W, ...) upright
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
}
# The EXIF orientations that swap height and width.
SWAPS_AXES = frozenset({5, 6, 7, 8})


def turned(pixels: AnyPixels, orientation: int) -> AnyPixels:
    """Turns pixels (H, W, C) upright."""
    return np.ascontiguousarray(_TURNS[orientation](pixels)) if orientation in _TURNS else pixels


def to_rgb(pixels: AnyPixels) -> Pixels:
    """(H, W, 1 to 4), grey or RGB, with or without alpha -> (H, W, 3) of 8 bits. Grey is repeated, alpha is dropped. Works in
    bands of rows to save memory."""
    colours = pixels[:, :, : 1 if pixels.shape[2] < 3 else 3]
    if colours.dtype == np.uint8 and pixels.shape[2] == 3:
        return colours.astype(np.uint8, copy=False)
    rgb = np.empty((*pixels.shape[:2], 3), np.uint8)
    for top in range(0, len(pixels), BAND_ROWS):
        rgb[top : top + BAND_ROWS] = reduce_to_8_bits(colours[top : top + BAND_ROWS])
    return rgb


def reduce_to_8_bits(pixels: AnyPixels) -> Pixels:
    """Scales 16 bits to 8 (65535 -> 255) and rounds. Works in bands of rows to save memory. 8-bit pixels stay as they are."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    reduced = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), BAND_ROWS):
        band = pixels[top : top + BAND_ROWS].astype(np.uint32)
        band *= 255
        band += 32767
        reduced[top : top + BAND_ROWS] = np.floor_divide(band, 65535, out=band)
    return reduced


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
