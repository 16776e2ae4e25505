"""Reads an image file as 8-bit RGB, which networks are trained on, and writes PNG and JPEG."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import kornia_rs
import numpy as np
from PIL import ExifTags, Image, ImageOps

from distill.data.pixels import Pixels
from distill.errors import UserError
from distill.runtime.files import write_bytes

MIN_SIDE = 16
PNG_SIGNATURE, PNG_RGB = b"\x89PNG\r\n\x1a\n", 2
BAND_ROWS = 256
# The EXIF tag for a picture's orientation, and the values that swap its height and width.
ORIENTATION = ExifTags.Base.Orientation
SWAPS_AXES = frozenset({5, 6, 7, 8})
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)  # Pillow refuses an image with more pixels


class ImageError(UserError):
    """An image file, or a set of image files, cannot be used. The message is one line that begins with the path."""

    def __init__(self, reason: str, path: Path | None = None) -> None:
        """`path` is None if `reason` is the whole message, such as a message about several files."""
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.path, self.reason = path, reason


def read_image(path: Path, data: bytes | None = None) -> Pixels:
    """Reads an image file as (H, W, 3) RGB uint8, rotated as its EXIF orientation says. `data` is the file's content, if it has
    been read already.

    Grey is repeated, CMYK and palettes are converted, alpha is dropped, 16 bits are scaled to 8 (65535 -> 255). Raises
    ImageError for a file that cannot be decoded to its end, for floating-point pixels, and for a side below 16 pixels.
    """
    try:
        with warnings.catch_warnings():
            # If an image has more than MAX_PIXELS, Pillow raises DecompressionBombError. Above half of MAX_PIXELS it only warns.
            # The warning is noise.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            data = path.read_bytes() if data is None else data
            pixels = _decode_plain_png(data)
            if pixels is None:
                with Image.open(io.BytesIO(data)) as image:
                    image.load()
                    ImageOps.exif_transpose(image, in_place=True)
                    pixels = _to_rgb(image)
    except Exception as error:
        raise unreadable(path, error) from error
    if min(pixels.shape[:2]) < MIN_SIDE:
        raise ImageError(f"{pixels.shape[1]}x{pixels.shape[0]} pixels; the smallest side that can be used is {MIN_SIDE}", path)
    return pixels


def _decode_plain_png(data: bytes) -> Pixels | None:
    """Decodes a PNG of 8-bit RGB without EXIF or transparency, in half of Pillow's time. Returns None for any other file and for
    a damaged one: Pillow reads more kinds, and its error says what is wrong."""
    if data[:8] != PNG_SIGNATURE or len(data) < 26 or b"eXIf" in data or b"tRNS" in data:
        return None
    # A PNG begins with its header chunk, which holds width, height, bits per channel and colour type from byte 16 on.
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if (depth, colour) != (8, PNG_RGB) or width * height > MAX_PIXELS:
        return None
    try:
        return kornia_rs.io.decode_image_png_u8(data, (height, width), "rgb")
    except Exception:  # noqa: BLE001 (kornia_rs raises nothing more specific)
        return None


def unreadable(path: Path, error: Exception) -> ImageError:
    """The ImageError that tells the user, in one line, what an error of the system or of a decoder means."""
    if isinstance(error, OSError) and error.strerror:
        return ImageError(error.strerror, path)  # str(error) would name the path twice
    reason = "an empty file" if path.is_file() and path.stat().st_size == 0 else _reason(error)
    return ImageError(reason, path)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    if "cannot identify" in text:
        return "not an image that Pillow can read"
    # Pillow raises these with a message for people (SyntaxError for a broken PNG). Other messages need the error's type.
    meant_to_be_read = isinstance(error, OSError | SyntaxError | ValueError | Image.DecompressionBombError)
    return text if meant_to_be_read else f"{type(error).__name__}: {text}"


def _to_rgb(image: Image.Image) -> Pixels:
    """Converts to (H, W, 3) uint8 in bands: intermediate copies of the largest image that Pillow allows would take gigabytes.
    Raises ValueError for pixels that have no 8-bit equivalent."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white; convert the file to 8 or 16 bits")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, BAND_ROWS):
        # Pillow's modes for 16-bit grey begin with I. A grey band is (rows, width, 1), and numpy repeats it in all 3 channels.
        band = image.crop((0, top, image.width, min(image.height, top + BAND_ROWS)))
        pixels[top : top + BAND_ROWS] = _reduce_grey(band) if band.mode.startswith("I") else np.asarray(band.convert("RGB"))
    return pixels


def _reduce_grey(image: Image.Image) -> Pixels:
    """16-bit grey -> (H, W, 1) uint8. Pillow itself reduces 16-bit colour when it reads the file. Raises ValueError for levels
    outside 16 bits."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("pixels outside the 16-bit range")
    return ((levels * 255 + 32767) // 65535).astype(np.uint8)[:, :, None]


def write_image(path: Path, pixels: Pixels) -> None:
    """Writes (H, W, 3) RGB uint8 as a PNG; the file appears whole or not at all. Raises WriteError."""
    write_bytes(path, encode_png(pixels))


def encode_png(pixels: Pixels) -> bytes:
    """(H, W, 3) RGB uint8 as a PNG file. On photographs, compression level 1 takes a quarter of the time of Pillow's default, for
    2 % more bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """(H, W, 3) RGB uint8 as a JPEG file of libjpeg's quality, 1 to 100."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return file.getvalue()
