"""Writes a picture with everything its format can hold."""

from __future__ import annotations

import io
import struct
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import ExifTags, Image, TiffImagePlugin, TiffTags

from distill.data.pixels import AnyPixels, reduce_to_8_bits
from distill.pictures.formats import FORMATS, WITH_16_BITS, WITH_ALPHA, Picture, profile_for
from distill.pictures.metadata import Metadata, descriptive

DEFAULT_QUALITY = 95
_PNG_LEVEL = 1  # of compression: higher levels take several times as long, for a few percent fewer bytes
_PNG_HEADER_BYTES = 33  # signature and IHDR
_TIFF_STRIP_ROWS = 64


def encode_picture(picture: Picture, suffix: str, quality: int = DEFAULT_QUALITY) -> memoryview:
    """The bytes of a file of this suffix. `quality`, 1 to 100, is for JPEG, WebP and AVIF only.

    Raises ValueError or OSError if the format cannot hold the picture, such as a WebP of more than 16383 pixels a side.
    """
    kind = FORMATS[suffix.lower()]
    pixels = _joined(picture, alpha=kind in WITH_ALPHA)
    if pixels.dtype == np.uint16 and kind not in WITH_16_BITS:
        pixels = reduce_to_8_bits(pixels)
    metadata = picture.metadata
    icc = profile_for(picture, kind)
    if kind == "TIFF":
        return _encode_tiff(pixels, metadata, icc)
    if pixels.dtype == np.uint16:
        return _encode_deep_png(pixels, metadata.save_options(kind, icc))
    options: dict[str, Any] = {"PNG": {"compress_level": _PNG_LEVEL}, "BMP": {}}.get(kind, {"quality": quality})
    # Full colour resolution, so that the format does not blur restored edges.
    if kind in ("JPEG", "AVIF"):
        options["subsampling"] = "4:4:4"
    shape = pixels if pixels.shape[2] > 1 else pixels[:, :, 0]
    return _save(Image.fromarray(shape), kind, **options, **metadata.save_options(kind, icc))


def _save(image: Image.Image, kind: str, **options: Any) -> memoryview:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getbuffer()


def _joined(picture: Picture, alpha: bool) -> AnyPixels:
    """(H, W, 1 to 4): the pixels, and alpha as the last channel if it is wanted and the picture has it."""
    if picture.alpha is None or not alpha:
        return picture.pixels
    pixels: AnyPixels = np.concatenate([picture.pixels, picture.alpha[:, :, None]], axis=2)
    return pixels


def _encode_deep_png(pixels: AnyPixels, save_options: dict[str, Any]) -> memoryview:
    """imagecodecs writes the 16-bit pixels, but no metadata. The metadata chunks come from a one-pixel PNG that Pillow writes."""
    deep = memoryview(imagecodecs.png_encode(np.squeeze(pixels, 2) if pixels.shape[2] == 1 else pixels, level=_PNG_LEVEL))
    small = bytes(_save(Image.new("L", (1, 1)), "PNG", **save_options))
    chunks = small[_PNG_HEADER_BYTES : small.rindex(b"IDAT") - 4]  # a chunk's 4 bytes of length precede its name
    return memoryview(b"".join([deep[:_PNG_HEADER_BYTES], chunks, deep[_PNG_HEADER_BYTES:]]))


def _encode_tiff(pixels: AnyPixels, metadata: Metadata, icc: bytes | None) -> memoryview:
    """A deflate-compressed TIFF. Its EXIF and GPS directories follow the pixels."""
    exif = descriptive(metadata.exif)
    directories = {tag: exif.get_ifd(tag) for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)}
    directories = {tag: entries for tag, entries in directories.items() if entries}
    # (tag, type, count, value, first page only). `tag - 1` keeps a place for the directory's offset: see `_append_directory`.
    tags: list[tuple[int, str, int, Any, bool]] = [(tag - 1, "I", 1, 0, True) for tag in directories]
    tags += [(tag, "s", 0, value, True) for tag, value in exif.items() if isinstance(value, str)]
    if metadata.xmp:
        tags.append((TiffImagePlugin.XMP, "B", len(metadata.xmp), metadata.xmp, True))
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels if pixels.shape[2] > 1 else pixels[:, :, 0],
        byteorder="<",
        photometric="rgb" if pixels.shape[2] > 2 else "minisblack",
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        extrasamples=["unassalpha"] if pixels.shape[2] in (2, 4) else None,
        rowsperstrip=_TIFF_STRIP_ROWS,
        compression="zlib",
        predictor=True,
        iccprofile=icc,
        resolution=metadata.dpi,
        resolutionunit="inch" if metadata.dpi else None,
        extratags=tags,
        metadata=None,
        software=False,
    )
    for tag, entries in directories.items():
        _append_directory(file, tag, entries)
    return file.getbuffer()


def _append_directory(file: io.BytesIO, tag: int, entries: dict[int, Any]) -> None:
    """Appends an EXIF or GPS directory to a little-endian TIFF, and points to it from the TIFF's first directory.

    tifffile refuses to write `tag` itself. `_encode_tiff` has therefore written a placeholder entry with the number `tag - 1`,
    because the entries must be in the order of their numbers. This function overwrites the placeholder.
    """
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        entry = tiff.pages.first.tags[tag - 1].offset
    directory = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\x08\0\0\0")
    for key, value in entries.items():
        directory[key] = value
    end = file.seek(0, io.SEEK_END)
    offset = file.seek(end + end % 2)  # a directory must begin at an even offset
    file.write(directory.tobytes(offset))
    file.seek(entry)
    file.write(struct.pack("<HHII", tag, TiffTags.LONG, 1, offset))  # tag, type, count, value
