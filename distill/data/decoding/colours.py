"""Colour spaces, and CMYK as RGB."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from distill.data.pixels import AnyPixels, reduce_to_8_bits

# What `colour_space` returns for a profile of each kind.
RGB_SPACE, GREY_SPACE, CMYK_SPACE = b"RGB ", b"GRAY", b"CMYK"


def colour_space(profile: bytes) -> bytes:
    """The colour space in an ICC profile's header: four bytes, padded with spaces."""
    return profile[16:20]


def cmyk_to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Converts to sRGB through the CMYK profile, or approximately without one."""
    profile = image.info.get("icc_profile")
    if not profile or colour_space(profile) != CMYK_SPACE:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        notes.append(f"its CMYK profile cannot be used, and its colours are approximate: {error}")
        return image.convert("RGB")
    assert converted is not None, "not converted in place"
    return converted


def rgb_of_cmyk(pixels: AnyPixels, header: Image.Image, notes: list[str]) -> NDArray[np.uint8]:
    """(H, W, 4 or 5) CMYK, and alpha if there are 5 channels -> (H, W, 3 or 4)."""
    if pixels.dtype == np.uint16:
        notes.append("CMYK of 16 bits is read as 8 bits")
    reduced = reduce_to_8_bits(pixels)
    image = Image.fromarray(np.ascontiguousarray(reduced[:, :, :4]), "CMYK")
    image.info = header.info
    return np.concatenate([np.asarray(cmyk_to_rgb(image, notes)), reduced[:, :, 4:]], axis=2)
