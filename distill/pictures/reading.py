"""Reads a user's picture with everything its file holds."""

from __future__ import annotations

import warnings
from pathlib import Path

from distill.data.decoding.decode import decode
from distill.data.decoding.limits import TooLargeError
from distill.data.image_files import ImageError, unreadable
from distill.pictures.formats import Picture
from distill.pictures.metadata import Metadata


def read_picture(path: Path, max_pixels: int | None) -> Picture:
    """Reads a picture of at most `max_pixels` pixels (None: any), rotated as its EXIF orientation says.

    16 bits stay 16. Grey stays grey. Palettes become RGB. CMYK becomes RGB through its profile if it has one. Raises ImageError
    if the file cannot be decoded to the end, has floating-point or signed pixels, or has more than `max_pixels` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about metadata
            decoded = decode(path.read_bytes(), max_pixels)
            metadata = Metadata.of(decoded)
    except TooLargeError as error:
        raise ImageError(f"{error}; --allow-large restores such a picture", path) from error
    except BaseException as error:
        raise unreadable(path, error) from error
    colours = 1 if decoded.pixels.shape[2] < 3 else 3
    alpha = decoded.pixels[:, :, colours] if decoded.pixels.shape[2] > colours else None
    return Picture(decoded.pixels[:, :, :colours], alpha, metadata, decoded.notes)
