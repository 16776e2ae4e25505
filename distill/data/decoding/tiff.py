"""TIFF files that Pillow cannot read, or would not read as what they are."""

from __future__ import annotations

from math import prod
from typing import BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image
from tifffile import PHOTOMETRIC, PLANARCONFIG, SAMPLEFORMAT

from distill.data.decoding.colours import rgb_of_cmyk
from distill.data.decoding.limits import FLOATING_POINT, note_frames
from distill.data.pixels import BAND_ROWS, AnyPixels

# What a TIFF may have at most: channels, and values in a tile that is larger than the picture.
MAX_CHANNELS, SMALL_TILE = 16, 2**24
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# The colour channels of the kinds that are read.
_CHANNELS: dict[int, int] = {PHOTOMETRIC.MINISWHITE: 1, PHOTOMETRIC.MINISBLACK: 1, PHOTOMETRIC.RGB: 3, PHOTOMETRIC.SEPARATED: 4}
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2  # values of the tag ExtraSamples
_ICC_TAG, _XMP_TAG = 34675, 700


def deep_page(file: BinaryIO) -> tifffile.TiffPage | None:
    """The first page of a TIFF that Pillow cannot read, or would not read as what it is. None for any other file, which is then
    at its beginning."""
    signature = file.read(4)
    file.seek(0)
    if signature not in TIFF_SIGNATURES:
        return None
    try:
        page = tifffile.TiffFile(file).pages.first
        unsigned = page.sampleformat == SAMPLEFORMAT.UINT and page.bitspersample in (1, 2, 4, 8)
        wide_grey = page.sampleformat != SAMPLEFORMAT.IEEEFP and page.bitspersample == 32 and page.samplesperpixel == 1
        separate = page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
        plain = (unsigned or wide_grey) and not separate and not page.extrasamples
        deep = not plain and not (unsigned and page.photometric not in _CHANNELS)
    except Exception:  # noqa: BLE001 (tifffile raises anything for a damaged header; Pillow then says what is wrong)
        deep = False
    file.seek(0)
    return page if deep else None


def read_tiff(page: tifffile.TiffPage, data: bytes, header: Image.Image, notes: list[str]) -> AnyPixels:
    """(H, W, 1 to 4), not turned."""
    colours, bits = _CHANNELS.get(page.photometric), page.bitspersample
    if page.sampleformat == SAMPLEFORMAT.IEEEFP:
        raise ValueError(FLOATING_POINT)
    if page.sampleformat == SAMPLEFORMAT.INT:
        raise ValueError("signed pixels have no defined black; convert the file to unsigned 8 or 16 bits")
    if colours is None or page.sampleformat != SAMPLEFORMAT.UINT or bits not in range(1, 17):
        what = getattr(page.photometric, "name", page.photometric)
        raise ValueError(f"a TIFF of a kind that is not read ({what}, {bits} bits); convert it to RGB or grey of 8 or 16 bits")
    note_frames(lambda: len(page.parent.pages), "TIFF", notes)
    samples = _samples(page, data)
    if samples.shape[1] != 1:
        raise ValueError("a TIFF of a volume; save the slice that is meant as a picture of its own")
    samples = np.moveaxis(samples[:, 0], 0, -1).reshape(*samples.shape[2:4], -1)
    others = samples.shape[2] - colours
    # If a file does not say what its fourth channel is, it is taken for alpha, as Pillow does.
    kinds = ((page.extrasamples or (_UNASSOCIATED_ALPHA,)) + (0,) * others)[:others]
    alpha = next((index for index, kind in enumerate(kinds) if kind in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA)), None)
    if (left_out := others - (alpha is not None)) > 0:
        notes.append(f"{left_out} of its channels are neither colour nor alpha, and are left out")
    kept = [*range(colours), *([] if alpha is None else [colours + alpha])]
    pixels = _scaled(samples if len(kept) == samples.shape[2] else samples[:, :, kept], bits)
    if alpha is not None and kinds[alpha] == _ASSOCIATED_ALPHA:
        pixels = _divided_by_alpha(pixels)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        pixels = np.concatenate([np.iinfo(pixels.dtype).max - pixels[:, :, :1], pixels[:, :, 1:]], axis=2)
    return rgb_of_cmyk(pixels, header, notes) if colours == 4 else pixels


def _samples(page: tifffile.TiffPage, data: bytes) -> NDArray[np.unsignedinteger]:
    """(planes, depth, H, W, channels), as stored: one of planes and channels is 1. Raises ValueError if some are missing."""
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    cut = max(ends, default=0) > len(data)
    # tifffile reads a strip of no bytes as black, and leaves memory uninitialised where a strip is missing. Decoders differ in
    # what they make of half a compressed strip. Without compression, a wrong count does no harm if the file has the pixels.
    missing = len(ends) < prod(page.chunked) or min(page.databytecounts, default=0) == 0
    if missing or (cut and page.compression != tifffile.COMPRESSION.NONE):
        raise ValueError("the file is truncated")
    # A damaged header may ask for gigabytes, or not say how channels are stored.
    largest = MAX_CHANNELS * page.imagewidth * page.imagelength
    unplaced = page.samplesperpixel > 1 and page.planarconfig not in (PLANARCONFIG.CONTIG, PLANARCONFIG.SEPARATE)
    if unplaced or page.size > largest or prod(page.chunks) > max(largest, SMALL_TILE):
        raise ValueError(f"its header is damaged, or names more than {MAX_CHANNELS} channels")
    try:
        return page.asarray(squeeze=False, maxworkers=1)
    except ValueError as error:
        raise ValueError("the file is truncated" if cut else "its pixels are damaged") from error


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


def tiff_header(page: tifffile.TiffPage, data: bytes) -> Image.Image:
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
