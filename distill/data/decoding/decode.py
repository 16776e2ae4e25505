"""Decodes image files to upright pixels of 8 or 16 bits. Training, `distill.prepare` and `distill.restore` read with it.

Pillow decodes most files. It reduces 16-bit colour to 8 bits, misreads some TIFF files and loses some transparent colours: these
files are decoded by tifffile and imagecodecs.
"""

from __future__ import annotations

import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

from distill.data.decoding import kinds  # noqa: F401 (registers Pillow's plugins)
from distill.data.decoding.colours import cmyk_to_rgb
from distill.data.decoding.limits import FLOATING_POINT, note_frames, refuse_too_large
from distill.data.decoding.png import is_deep_png, without_damaged_colours
from distill.data.decoding.tiff import deep_page, read_tiff, tiff_header
from distill.data.pixels import BAND_ROWS, AnyPixels, turned

_DEVNULL, _STDERR, _REDIRECTION = os.open(os.devnull, os.O_WRONLY), 2, threading.Lock()
BAND_PIXELS = 2**19
ORIENTATION = ExifTags.Base.Orientation
# XMP holds the orientation as an attribute, tiff:Orientation="6", or as an element, <tiff:Orientation>6</tiff:Orientation>.
XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)([1-8])""")

for _name in ("PIL.TiffImagePlugin", "tifffile", "imagecodecs"):  # they log what they also raise, and harmless oddities
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


@dataclass
class Decoded:
    """An image file's pixels as a person sees them."""

    pixels: AnyPixels
    """(H, W, 1 to 4): grey or RGB, and alpha if there are 2 or 4 channels. Upright; alpha is not multiplied into the colours."""
    kind: str | None
    """Pillow's name for the format."""
    exif: Image.Exif
    info: dict[str | tuple[int, int], Any]
    """Profile, XMP and resolution, under Pillow's names for them."""
    orientation: int
    """The EXIF orientation from which the pixels were turned upright."""
    notes: list[str] = field(default_factory=list)
    """Messages for the user about what was not kept."""


def decode(data: bytes, max_pixels: int | None, alpha: bool = True) -> Decoded:
    """Decodes the first page or frame of an image file. `max_pixels` None allows any number. Without `alpha`, files that Pillow
    decodes come without it, which saves memory.

    Raises TooLargeError; ValueError for pixels that have no equivalent of 8 or 16 unsigned bits; and what the decoders raise for
    damaged files.
    """
    notes: list[str] = []
    data = without_damaged_colours(data, notes)
    page = deep_page(io.BytesIO(data))
    if page is not None:
        refuse_too_large(page.imagewidth, page.imagelength, max_pixels)
        header = tiff_header(page, data)
        pixels = read_tiff(page, data, header, notes)
        orientation = orientation_of(header)
        return Decoded(turned(pixels, orientation), "TIFF", header.getexif(), header.info, orientation, notes)
    with open_with_pillow(io.BytesIO(data)) as image:
        refuse_too_large(image.width, image.height, max_pixels)
        note_frames(partial(getattr, image, "n_frames", 1), image.format, notes)
        _note_depth(image, data, notes)
        # Pillow turns a TIFF itself when it loads the pixels, as far as it finds the orientation.
        turned_by_pillow = (image.format == "TIFF" and ORIENTATION in image.getexif()) or _decoded_by_libjxl(image)
        orientation = orientation_of(image) if turned_by_pillow else 1
        with _libtiff_silenced() if image.format == "TIFF" else nullcontext():
            image.load()
        if not turned_by_pillow:
            orientation = orientation_of(image)  # a PNG's metadata can follow its pixels
        pixels = imagecodecs.png_decode(data) if is_deep_png(data, image) else _read_with_pillow(image, alpha, notes)
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        kind, exif, info = image.format, image.getexif(), image.info
    del image  # frees its pixels before `turned` makes a copy
    return Decoded(pixels if turned_by_pillow else turned(pixels, orientation), kind, exif, info, orientation, notes)


def _decoded_by_libjxl(image: Image.Image) -> bool:
    """Whether the pixels come from libjxl, which turns them as the file itself says, whatever EXIF says. If the file packs a JPEG
    without loss, they do not: the plugin gives back the JPEG, which is not turned yet."""
    return image.format == "JXL" and not getattr(image, "jpeg", False)


def _note_depth(image: Image.Image, data: bytes, notes: list[str]) -> None:
    """Notes that Pillow reduces an image to 8 bits, before it has done so."""
    bits = image.info.get("bit_depth", 8)  # of HEIC
    if image.format == "PPM" and image.mode == "RGB":
        assert isinstance(image, ImageFile.ImageFile)
        arguments: Any = image.tile[0].args
        bits = int(arguments[1]).bit_length() if image.tile[0].codec_name.startswith("ppm") else 8  # (mode, level of white)
    elif image.format == "JPEG2000" and not image.mode.startswith("I"):
        bits = (data[data.find(b"\xff\x4f\xff\x51") + 42] & 127) + 1  # the first channel's, in the marker SIZ
    elif image.format == "AVIF":
        bits = {0x40: 10, 0x60: 12}.get(data[data.find(b"av1C") + 6] & 0x60, 8)  # flags high_bitdepth and twelve_bit
    if bits > 8:
        notes.append(f"its {bits} bits are read as 8")
    elif _decoded_by_libjxl(image) and not image.mode.startswith("I"):
        notes.append("a JPEG XL is read as 8 bits")  # the plugin does not tell how many it has


def orientation_of(image: Image.Image) -> int:
    """The orientation that the file's EXIF gives, or its XMP if its EXIF gives none."""
    value = image.getexif().get(ORIENTATION)
    if value is None:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
        found = XMP_ORIENTATION.search(xmp.encode(errors="replace") if isinstance(xmp, str) else xmp)
        value = int(found[2]) if found else 1
    return value if value in range(1, 9) else 1


@contextmanager
def open_with_pillow(file: BinaryIO) -> Iterator[Image.Image]:
    """Opens an image with Pillow. Python's warnings about it do not reach the terminal. Pillow's limit on pixels is lifted: it
    would refuse pictures that the caller allows."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _libtiff_silenced() -> Iterator[None]:
    """Discards what is written to standard error, in one thread at a time. libtiff writes its messages past Python, to the file
    descriptor that all threads share."""
    with _REDIRECTION:
        try:
            saved = os.dup(_STDERR)
        except OSError:  # standard error is closed
            yield
            return
        os.dup2(_DEVNULL, _STDERR)
        try:
            yield
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)


def _read_with_pillow(image: Image.Image, alpha: bool, notes: list[str]) -> AnyPixels:
    """(H, W, 1 to 4), as Pillow has it. Converts in bands: copies of the whole image would take gigabytes."""
    if image.mode == "F":
        raise ValueError(FLOATING_POINT)
    if image.mode == "CMYK":
        image = cmyk_to_rgb(image, notes)
    if image.mode.startswith("I"):  # Pillow's modes of 16-bit grey
        return _deep_grey(image)
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    mode += "A" if alpha and image.has_transparency_data else ""
    pixels = np.empty((image.height, image.width, len(mode)), np.uint8)
    rows = max(BAND_ROWS, BAND_PIXELS // image.width)  # a band of Lab takes 8 ms however small it is
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(image.height, top + rows))).convert(mode)
        pixels[top : top + rows] = np.asarray(band).reshape(band.height, band.width, len(mode))
    return pixels


def _deep_grey(image: Image.Image) -> NDArray[np.uint16]:
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("its pixels are outside the range of 16 bits; convert the file to 8 or 16 bits")
    return levels.astype(np.uint16)
