"""What tests of picture files share."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from distill.data.decoding.png import PNG_SIGNATURE

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


def packed_tiff(samples: NDArray, bits: int, compression: int = 1, predictor: int = 1) -> bytes:
    """A grey TIFF whose samples (H, W) of `bits` bits follow one another without gaps. Compression 1 is none, 8 is deflate.
    Predictor 2 stores the differences along a row."""
    rows = samples.astype(np.int64)
    if predictor == 2:
        rows = np.diff(rows, axis=1, prepend=0) % 2**bits
    ones = (rows[:, :, None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)
    pixels = np.packbits(ones.reshape(len(rows), -1), axis=1).tobytes()
    pixels = zlib.compress(pixels) if compression == 8 else pixels
    height, width = samples.shape
    tags = {
        256: width,
        257: height,
        258: bits,
        259: compression,
        262: 1,
        273: 8,
        277: 1,
        278: height,
        279: len(pixels),
        317: predictor,
    }
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    padding = bytes(len(pixels) % 2)
    start = 8 + len(pixels) + len(padding)
    return b"II*\0" + struct.pack("<I", start) + pixels + padding + struct.pack("<H", len(tags)) + directory + bytes(4)
