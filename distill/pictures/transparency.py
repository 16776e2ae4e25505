"""Pixels that alpha hides: a network would spread their colours into the visible ones beside them."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from distill.data.pixels import AnyPixels

# Pixels are filled in squares of this side, with this margin around, which bounds the memory to 30 MB. The margin is more than
# most U-Nets see from a visible pixel: 94 pixels with five levels of two convolutions.
_SIDE, _MARGIN = 768, 256


def filled(pixels: AnyPixels, alpha: AnyPixels | None) -> AnyPixels:
    """(H, W, C) with the colour of the nearest visible pixel where alpha (H, W) is 0. A hidden pixel that is far from all visible
    ones may stay as it is. Returns `pixels` itself if nothing is hidden."""
    if alpha is None or alpha.all():
        return pixels
    result = pixels.copy()
    height, width = alpha.shape
    for top in range(0, height, _SIDE):
        for left in range(0, width, _SIDE):
            first_row, first_column = max(0, top - _MARGIN), max(0, left - _MARGIN)
            rows, columns = slice(first_row, top + _SIDE + _MARGIN), slice(first_column, left + _SIDE + _MARGIN)
            hidden = alpha[rows, columns] == 0
            square = hidden[top - first_row :, left - first_column :][:_SIDE, :_SIDE]
            if hidden.all() or not square.any():
                continue
            nearest = distance_transform_edt(hidden, return_distances=False, return_indices=True)
            nearest = nearest[:, top - first_row :, left - first_column :][:, :_SIDE, :_SIDE][:, square]
            inner = result[top : top + _SIDE, left : left + _SIDE]
            inner[square] = pixels[rows, columns][nearest[0], nearest[1]]
    return result


def with_hidden(restored: AnyPixels, original: AnyPixels, alpha: AnyPixels | None) -> AnyPixels:
    """The restored picture, whose hidden pixels have their original colours again. Changes `restored`."""
    if alpha is not None:
        np.copyto(restored, original, where=(alpha == 0)[:, :, None])
    return restored
