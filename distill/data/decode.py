"""Decodes image files to upright pixels of 8 or 16 bits. Training, `distill.prepare` and `distill.restore` read with it.

Pillow decodes most files. It reduces 16-bit colour to 8 bits, misreads some TIFF files and loses some transparent colours: these
files are decoded by tifffile and imagecodecs.
"""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms
from tifffile import PHOTOMETRIC, SAMPLEFORMAT

from distill.data.pixels import BAND_ROWS, AnyPixels, reduce_to_8_bits, turned

PNG_SIGNATURE, PNG_GREY = b"\x89PNG\r\n\x1a\n", 0
# Chunks that describe colours and change no pixel value. A PNG is read without those that are damaged.
_COLOUR_CHUNKS = frozenset({b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI", b"sBIT"})
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# The colour channels of the TIFF kinds that are read with tifffile.
_CHANNELS: dict[int, int] = {PHOTOMETRIC.MINISWHITE: 1, PHOTOMETRIC.MINISBLACK: 1, PHOTOMETRIC.RGB: 3, PHOTOMETRIC.SEPARATED: 4}
_ASSOCIATED_ALPHA, _ALPHA = 1, (1, 2)  # values of the TIFF tag ExtraSamples
_ICC_TAG, _XMP_TAG = 34675, 700
ORIENTATION = ExifTags.Base.Orientation
# XMP holds the orientation as an attribute, tiff:Orientation="6", or as an element, <tiff:Orientation>6</tiff:Orientation>.
XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)([1-8])""")
# What `colour_space` returns for a profile of each kind.
RGB_SPACE, GREY_SPACE, CMYK_SPACE = b"RGB ", b"GRAY", b"CMYK"
FLOATING_POINT = "floating-point pixels have no defined white; convert the file to 8 or 16 bits"

for _name in ("tifffile", "imagecodecs"):  # they log what they raise, and what they can do without
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)


class TooLargeError(ValueError):
    """An image with more pixels than the caller allows."""


@dataclass
class Decoded:
    """An image file's pixels as a person sees them."""

    pixels: AnyPixels
    """(H, W, 1 to 4): grey or RGB, and alpha if there are 2 or 4 channels. Upright; alpha is not multiplied into the colours."""
    header: Image.Image
    """What Pillow knows of the file except its pixels: format, EXIF, profile, resolution."""
    orientation: int
    """The EXIF orientation from which the pixels were turned upright."""
    notes: list[str] = field(default_factory=list)
    """Messages for the user about what was not kept."""


def decode(data: bytes, max_pixels: int | None, alpha: bool = True) -> Decoded:
    """Decodes the first page or frame of an image file. `max_pixels` None allows any number. Without `alpha`, files that Pillow
    decodes come without it.

    Raises TooLargeError; ValueError for pixels that have no equivalent of 8 or 16 unsigned bits; and what the decoders raise for
    damaged files.
    """
    notes: list[str] = []
    data = _without_damaged_colours(data, notes)
    page = _deep_page(data)
    if page is not None:
        _check_size(page.imagewidth, page.imagelength, max_pixels)
        header = _tiff_header(page, data)
        pixels = _read_tiff(page, data, header, notes)
        orientation = orientation_of(header)
        return Decoded(turned(pixels, orientation), header, orientation, notes)
    with _pillow(data) as image:
        _check_size(image.width, image.height, max_pixels)
        _note_frames(getattr(image, "n_frames", 1), image.format, notes)
        # Pillow turns a TIFF itself when it loads the pixels, as far as it finds the orientation.
        turned_by_pillow = image.format == "TIFF" and ORIENTATION in image.getexif()
        orientation = orientation_of(image) if turned_by_pillow else 1
        image.load()
        if not turned_by_pillow:
            orientation = orientation_of(image)  # a PNG's metadata can follow its pixels
        pixels = imagecodecs.png_decode(data) if is_deep_png(data) else _read_with_pillow(image, alpha, notes)
        pixels = pixels.reshape(*pixels.shape[:2], -1)
    return Decoded(pixels if turned_by_pillow else turned(pixels, orientation), image, orientation, notes)


def is_deep_png(data: bytes) -> bool:
    """Whether a file is a PNG of 16 bits, or of a kind whose transparent colour Pillow loses."""
    if data[:8] != PNG_SIGNATURE or len(data) < 26:
        return False
    depth, colour = data[24:26]
    return depth == 16 or (colour == PNG_GREY and depth in (2, 4) and b"tRNS" in data)


def orientation_of(image: Image.Image) -> int:
    """The orientation that the file's EXIF gives, or its XMP if its EXIF gives none."""
    value = image.getexif().get(ORIENTATION)
    if value is None:
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
        found = XMP_ORIENTATION.search(xmp.encode(errors="replace") if isinstance(xmp, str) else xmp)
        value = int(found[2]) if found else 1
    return value if value in range(1, 9) else 1


def colour_space(profile: bytes) -> bytes:
    """The colour space in an ICC profile's header: four bytes, padded with spaces."""
    return profile[16:20]


@contextmanager
def _pillow(data: bytes) -> Iterator[Image.Image]:
    """Opens an image with Pillow. Python's warnings about it and libtiff's messages do not reach the terminal, and Pillow's limit
    on pixels is lifted: it would refuse pictures that the caller allows."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    terminal = os.dup(2) if data[:4] in _TIFF_SIGNATURES else None
    try:
        if terminal is not None:  # libtiff writes to the file descriptor
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit
        if terminal is not None:
            os.dup2(terminal, 2)
            os.close(terminal)


def _check_size(width: int, height: int, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise TooLargeError(f"{width}x{height} pixels are more than {max_pixels / 1e6:.0f} megapixels")


def _note_frames(count: int, kind: str | None, notes: list[str]) -> None:
    if count > 1 and kind == "GIF":
        raise ValueError(f"an animation of {count} frames; save the frame that is meant as a picture of its own")
    if count > 1:
        notes.append(f"only the first of its {count} pages or frames is read")


def _without_damaged_colours(data: bytes, notes: list[str]) -> bytes:
    """A PNG file without those chunks about its colours that are damaged: Pillow would refuse the whole picture."""
    if data[:8] != PNG_SIGNATURE:
        return data
    kept, damaged, at = [data[:8]], [], 8
    while at + 12 <= len(data) and (kind := data[at + 4 : at + 8]) != b"IDAT":
        end = at + 12 + struct.unpack_from(">I", data, at)[0]
        checksum = struct.unpack(">I", data[end - 4 : end])[0] if end <= len(data) else None
        if kind in _COLOUR_CHUNKS and checksum != zlib.crc32(data[at + 4 : end - 4]):
            damaged.append(kind.decode())
        else:
            kept.append(data[at:end])
        at = end
    if not damaged:
        return data
    notes.append(f"what it says about its colours is damaged, and is left out ({', '.join(damaged)})")
    return b"".join([*kept, data[at:]])


# TIFF


def _deep_page(data: bytes) -> tifffile.TiffPage | None:
    """The first page of a TIFF that Pillow cannot read, or would not read as what it is. None for any other file."""
    if data[:4] not in _TIFF_SIGNATURES:
        return None
    try:
        page = tifffile.TiffFile(io.BytesIO(data)).pages.first
        unsigned = page.sampleformat == SAMPLEFORMAT.UINT and page.bitspersample in (1, 2, 4, 8)
        wide_grey = page.sampleformat != SAMPLEFORMAT.IEEEFP and page.bitspersample == 32 and page.samplesperpixel == 1
        separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
        plain = (unsigned or wide_grey) and not separate and not page.extrasamples
        return None if plain else page
    except Exception:  # noqa: BLE001 (tifffile raises anything for a damaged header; Pillow then says what is wrong)
        return None


def _read_tiff(page: tifffile.TiffPage, data: bytes, header: Image.Image, notes: list[str]) -> AnyPixels:
    """(H, W, 1 to 4), not turned."""
    colours, bits = _CHANNELS.get(page.photometric), page.bitspersample
    if page.sampleformat == SAMPLEFORMAT.IEEEFP:
        raise ValueError(FLOATING_POINT)
    if page.sampleformat == SAMPLEFORMAT.INT:
        raise ValueError("signed pixels have no defined black; convert the file to unsigned 8 or 16 bits")
    if colours is None or page.sampleformat != SAMPLEFORMAT.UINT or not 1 <= bits <= 16:
        what = getattr(page.photometric, "name", page.photometric)
        raise ValueError(f"a TIFF of a kind that is not read ({what}, {bits} bits); convert it to RGB or grey of 8 or 16 bits")
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if min(page.databytecounts, default=0) == 0 or max(ends) > len(data):
        raise ValueError("the file is truncated")
    _note_frames(len(page.parent.pages), "TIFF", notes)
    samples = page.asarray(squeeze=False, maxworkers=1)  # (planes, depth, H, W, channels), one of planes and channels is 1
    if samples.shape[1] != 1:
        raise ValueError("a TIFF of a volume; save the slice that is meant as a picture of its own")
    samples = np.moveaxis(samples[:, 0], 0, -1).reshape(*samples.shape[2:4], -1)
    kinds = page.extrasamples + (0,) * (samples.shape[2] - colours - len(page.extrasamples))
    alpha = next((index for index, kind in enumerate(kinds) if kind in _ALPHA), None)
    if (others := len(kinds) - (alpha is not None)) > 0:
        notes.append(f"{others} of its channels are neither colour nor alpha, and are left out")
    kept = [*range(colours), *([] if alpha is None else [colours + alpha])]
    pixels = _scaled(samples if len(kept) == samples.shape[2] else samples[:, :, kept], bits)
    if alpha is not None and kinds[alpha] == _ASSOCIATED_ALPHA:
        pixels = _divided_by_alpha(pixels)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        pixels = np.concatenate([np.iinfo(pixels.dtype).max - pixels[:, :, :1], pixels[:, :, 1:]], axis=2)
    return _rgb_of_cmyk(pixels, header, notes) if colours == 4 else pixels


def _scaled(samples: NDArray[np.unsignedinteger], bits: int) -> AnyPixels:
    """Scales samples of up to 8 bits to 8, and others to 16: white stays white."""
    dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
    if bits in (8, 16):
        return samples.astype(dtype, copy=False)
    white, levels = (1 << bits) - 1, np.empty(samples.shape, dtype)
    for top in range(0, len(samples), BAND_ROWS):
        # tifffile undoes a predictor without wrapping round at the samples' own number of bits.
        band = (samples[top : top + BAND_ROWS] & white).astype(np.uint32)
        levels[top : top + BAND_ROWS] = (band * np.iinfo(dtype).max + white // 2) // white
    return levels


def _divided_by_alpha(pixels: AnyPixels) -> AnyPixels:
    """Colours that alpha was multiplied into -> the colours themselves. Where alpha is 0, they stay as they are."""
    white, divided = int(np.iinfo(pixels.dtype).max), np.empty_like(pixels)
    for top in range(0, len(pixels), BAND_ROWS):
        band = pixels[top : top + BAND_ROWS].astype(np.uint32)
        colours, alpha = band[:, :, :-1], band[:, :, -1:]
        quotient = (np.minimum(colours, alpha) * white + alpha // 2) // np.maximum(alpha, 1)
        band[:, :, :-1] = np.where(alpha > 0, quotient, colours)
        divided[top : top + BAND_ROWS] = band
    return divided


def _rgb_of_cmyk(pixels: AnyPixels, header: Image.Image, notes: list[str]) -> NDArray[np.uint8]:
    """(H, W, 4 or 5) CMYK, and alpha if there are 5 channels -> (H, W, 3 or 4)."""
    if pixels.dtype == np.uint16:
        notes.append("CMYK of 16 bits is read as 8 bits")
    reduced = reduce_to_8_bits(pixels)
    image = Image.fromarray(np.ascontiguousarray(reduced[:, :, :4]), "CMYK")
    image.info = header.info
    return np.concatenate([np.asarray(_cmyk_to_rgb(image, notes)), reduced[:, :, 4:]], axis=2)


def _tiff_header(page: tifffile.TiffPage, data: bytes) -> Image.Image:
    """A stand-in for the image that Pillow would open, with the metadata of the page and without its pixels."""
    header = Image.new("L", (1, 1))
    header.format = "TIFF"
    found = {"icc_profile": page.tags.valueof(_ICC_TAG), "xmp": page.tags.valueof(_XMP_TAG)}
    if page.tags.valueof(ExifTags.Base.XResolution) and page.tags.valueof(ExifTags.Base.ResolutionUnit) in (2, 3):
        found["dpi"] = page.get_resolution(unit="INCH")
    if not page.parent.is_bigtiff:
        found["exif"] = data  # Pillow's EXIF reader takes a TIFF file, since EXIF has the form of one
    header.info = {key: value for key, value in found.items() if value}
    return header


# What Pillow decodes


def _read_with_pillow(image: Image.Image, alpha: bool, notes: list[str]) -> AnyPixels:
    """(H, W, 1 to 4), as Pillow has it. Converts in bands: copies of the whole image would take gigabytes."""
    if image.mode == "F":
        raise ValueError(FLOATING_POINT)
    if image.mode == "CMYK":
        image = _cmyk_to_rgb(image, notes)
    if image.mode.startswith("I"):  # Pillow's modes of 16-bit grey
        return _deep_grey(image)
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    mode += "A" if alpha and image.has_transparency_data else ""
    pixels = np.empty((image.height, image.width, len(mode)), np.uint8)
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(image.height, top + BAND_ROWS))).convert(mode)
        pixels[top : top + BAND_ROWS] = np.asarray(band).reshape(band.height, band.width, len(mode))
    return pixels


def _deep_grey(image: Image.Image) -> NDArray[np.uint16]:
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("its pixels are outside the range of 16 bits; convert the file to 8 or 16 bits")
    return levels.astype(np.uint16)


def _cmyk_to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
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
