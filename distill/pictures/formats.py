"""A user's picture with everything its file holds: bit depth, grey or colour, alpha, profile and metadata.

`distill/data/image_files.py` reads every image as 8-bit RGB, as networks are trained on it, and drops the rest. The modules of
`distill/pictures` keep the rest, and drop only what the written format cannot hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distill.data.image_files import BAND_ROWS
from distill.pictures.metadata import Metadata

AnyPixels = NDArray[np.uint8] | NDArray[np.uint16]
# Suffix -> Pillow's name for the format. A variable `kind` holds such a name.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
WITH_ALPHA = frozenset({"PNG", "WEBP", "TIFF"})
WITH_16_BITS = frozenset({"PNG", "TIFF"})
# What `colour_space` returns for a profile of each kind.
RGB_SPACE, GREY_SPACE, CMYK_SPACE = b"RGB ", b"GRAY", b"CMYK"


@dataclass
class Picture:
    """Upright pixels, and what their file says about them."""

    pixels: AnyPixels
    """(H, W, 1) grey or (H, W, 3) RGB, uint8 or uint16."""
    alpha: AnyPixels | None = None
    """(H, W), of the same type as `pixels`."""
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)
    """Messages for the user about what reading did not keep."""


def dropped(picture: Picture, suffix: str) -> list[str]:
    """Messages for the user if a file of this suffix cannot hold the picture's alpha or its 16 bits."""
    kind = FORMATS[suffix.lower()]
    messages = []
    if picture.alpha is not None and kind not in WITH_ALPHA:
        messages.append(f"{kind} holds no alpha, which is dropped")
    if picture.pixels.dtype == np.uint16 and kind not in WITH_16_BITS:
        messages.append(f"{kind} holds 8 bits, to which its 16 are reduced")
    return messages


def reduce_to_8_bits(pixels: AnyPixels) -> NDArray[np.uint8]:
    """Scales 16 bits to 8 (65535 -> 255) and rounds. Works in bands of rows to save memory. 8-bit pixels stay as they are."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    reduced = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), BAND_ROWS):
        reduced[top : top + BAND_ROWS] = (pixels[top : top + BAND_ROWS].astype(np.uint32) * 255 + 32767) // 65535
    return reduced


def colour_space(profile: bytes) -> bytes:
    """The colour space in an ICC profile's header: four bytes, padded with spaces."""
    return profile[16:20]
