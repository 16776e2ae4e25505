"""What tests of picture files share."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from distill.data.image_files import PNG_SIGNATURE

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="1"/></x:xmpmeta>'


def levels(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> NDArray:
    """Random pixels of the type's whole range."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def exif_of(orientation: int) -> Image.Exif:
    """Of a photograph of 40x30 pixels, as a camera writes it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.IFD.Exif] = {
        ExifTags.Base.DateTimeOriginal: "2020:01:01 00:00:00",
        ExifTags.Base.ExifImageWidth: 40,
        ExifTags.Base.ExifImageHeight: 30,
    }
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (1.0, 2.0, 3.0)}
    copied = Image.Exif()
    copied.load(exif.tobytes())
    return copied


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file put together from (kind, data), with right checksums: of kinds that Pillow does not write."""
    parts = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return PNG_SIGNATURE + b"".join(parts)


def png_header(width: int, height: int, depth: int, colour: int, interlaced: bool = False) -> tuple[bytes, bytes]:
    """The first chunk."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
