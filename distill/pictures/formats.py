"""A user's picture with everything its file holds: bit depth, grey or colour, alpha, profile and metadata.

`distill/data/image_files.py` reads every image as 8-bit RGB, as networks are trained on it, and drops the rest. The modules of
`distill/pictures` keep the rest, and drop only what the written format cannot hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from distill.data.decoding.colours import GREY_SPACE, RGB_SPACE, colour_space
from distill.data.decoding.kinds import JPEG
from distill.data.pixels import AnyPixels
from distill.pictures.metadata import Metadata

# Suffix -> Pillow's name for the format. A variable `kind` holds such a name.
FORMATS = {".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".avif": "AVIF", ".tif": "TIFF", ".tiff": "TIFF"}
FORMATS |= dict.fromkeys(JPEG, "JPEG")
WITH_ALPHA = frozenset({"PNG", "WEBP", "AVIF", "TIFF"})
WITHOUT_GREY = frozenset({"WEBP", "AVIF"})
WITH_16_BITS = frozenset({"PNG", "TIFF"})


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
    """Messages for the user if a file of this suffix cannot hold the picture's alpha, its 16 bits or its colour profile."""
    kind = FORMATS[suffix.lower()]
    messages = []
    if picture.alpha is not None and kind not in WITH_ALPHA:
        messages.append(f"{kind} holds no alpha, which is dropped")
    if picture.pixels.dtype == np.uint16 and kind not in WITH_16_BITS:
        messages.append(f"{kind} holds 8 bits, to which its 16 are reduced")
    if picture.metadata.icc is not None and kind != "BMP" and profile_for(picture, kind) is None:
        messages.append("its colour profile is not of the kind of colours written, and is left out")
    return messages


def profile_for(picture: Picture, kind: str) -> bytes | None:
    """The picture's profile if it is of the colours that a file of this format holds, grey or RGB."""
    profile, grey = picture.metadata.icc, picture.pixels.shape[2] == 1 and kind not in WITHOUT_GREY
    return profile if profile is not None and colour_space(profile) == (GREY_SPACE if grey else RGB_SPACE) else None
