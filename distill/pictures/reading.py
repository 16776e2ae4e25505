"""Reads a user's picture with everything its file holds."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kornia_rs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from distill.data.image_files import BAND_ROWS, ImageError, unreadable
from distill.pictures.formats import CMYK_SPACE, AnyPixels, Picture, colour_space
from distill.pictures.metadata import Metadata


@contextmanager
def _pixels_unlimited() -> Iterator[None]:
    """Lifts Pillow's limit on pixels, which would refuse pictures that the caller allows."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def read_picture(path: Path, max_pixels: int | None) -> Picture:
    """Reads a picture of at most `max_pixels` pixels (None: any), rotated as its EXIF orientation says.

    16 bits stay 16, except in grey with an alpha channel, which becomes 8-bit. Grey stays grey. Palettes become RGB. CMYK becomes
    RGB through its profile if it has one. Raises ImageError if the file cannot be decoded to the end, has floating-point pixels,
    or has more than `max_pixels` pixels.
    """
    try:
        with _pixels_unlimited(), Image.open(path) as image:
            if max_pixels is not None and image.width * image.height > max_pixels:
                size = f"{image.width}x{image.height} pixels are more than {max_pixels / 1e6:.0f} megapixels"
                raise ImageError(f"{size}; --allow-large restores such a picture", path)
            return _read(path, image)
    except ImageError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error


def _read(path: Path, image: Image.Image) -> Picture:
    notes = []
    if (frames := getattr(image, "n_frames", 1)) > 1:
        notes.append(f"only the first of its {frames} pages or frames is restored")
    pixels: AnyPixels | None = _read_deep_colour(path, image, notes)  # before `load`, which empties `image.tile`
    image.load()
    metadata = Metadata.of(image)
    if image.mode == "CMYK":
        image = _cmyk_to_rgb(image, metadata, notes)
    if pixels is None:
        # Modes of integers, I and I;16, are 16-bit grey.
        pixels = _read_deep_grey(image) if image.mode.startswith("I") else _read_8_bit(image)
    pixels = np.ascontiguousarray(metadata.upright(pixels))
    colours = 1 if pixels.shape[2] < 3 else 3
    alpha = pixels[:, :, colours] if pixels.shape[2] > colours else None
    return Picture(pixels[:, :, :colours], alpha, metadata, notes)


def _read_deep_colour(path: Path, image: Image.Image, notes: list[str]) -> NDArray[np.uint16] | None:
    """16-bit colour pixels, (H, W, 3 or 4), which Pillow would reduce to 8 bits. None for any other picture."""
    layout = str(getattr(image, "tile", ""))  # includes the file's bit depth, such as RGB;16B; the mode does not
    if ";16" not in layout or image.mode not in ("RGB", "RGBA", "LA"):
        return None
    if "LA;16" in layout:
        notes.append("16-bit grey with alpha is read as 8 bits")
        return None
    size = (image.height, image.width)
    if image.format == "PNG":
        pixels = kornia_rs.io.decode_image_png_u16(path.read_bytes(), size, image.mode.lower())
    elif image.mode == "RGB":
        pixels = kornia_rs.io.read_image_tiff_u16(str(path), "rgb")
    else:  # kornia_rs reads no TIFF with alpha
        pixels = _read_tiff(path)
    if pixels.shape[:2] != size or pixels.dtype != np.uint16:
        raise ValueError(f"decoded as {pixels.shape} {pixels.dtype}, its header says {size}")
    return _with_transparent_colour(pixels, image)


def _read_tiff(path: Path) -> NDArray[np.uint16]:
    """The first page, (H, W, C). A TIFF can store each channel as a separate plane, which tifffile returns as (C, H, W)."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        pixels = page.asarray()
        separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    return np.moveaxis(pixels, 0, -1) if separate else pixels


def _with_transparent_colour(pixels: NDArray[np.uint16], image: Image.Image) -> NDArray[np.uint16]:
    """Adds an alpha channel if a PNG names one colour as transparent."""
    if "transparency" not in image.info:
        return pixels
    opaque = np.any(pixels != np.asarray(image.info["transparency"]), axis=2, keepdims=True)
    return np.concatenate([pixels, opaque * np.uint16(65535)], axis=2)


def _read_deep_grey(image: Image.Image) -> NDArray[np.uint16]:
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("pixels outside the 16-bit range")
    return _with_transparent_colour(levels.astype(np.uint16)[:, :, None], image)


def _read_8_bit(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 1 to 4). Converts in bands: intermediate copies of the whole picture would take gigabytes."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white; convert the file to 8 or 16 bits")
    mode = ("L" if image.mode in ("1", "L", "LA", "La") else "RGB") + ("A" if image.has_transparency_data else "")
    pixels = np.empty((image.height, image.width, len(mode)), np.uint8)
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(image.height, top + BAND_ROWS))).convert(mode)
        pixels[top : top + BAND_ROWS] = np.asarray(band).reshape(band.height, band.width, len(mode))
    return pixels


def _cmyk_to_rgb(image: Image.Image, metadata: Metadata, notes: list[str]) -> Image.Image:
    """Converts to sRGB through the CMYK profile, or approximately without one. Drops the profile: the result is not CMYK."""
    profile, metadata.icc = metadata.icc, None
    if profile is None or colour_space(profile) != CMYK_SPACE:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        notes.append(f"its CMYK profile cannot be used, and its colours are approximate: {error}")
        return image.convert("RGB")
    assert converted is not None, "not converted in place"
    return converted
