"""Reads an image file as 8-bit RGB, which networks are trained on, and writes PNG and JPEG."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import kornia_rs
import tifffile
from PIL import Image

from distill.data.decoding.decode import decode
from distill.data.decoding.png import PNG_RGB, depth_and_colour
from distill.data.decoding.tiff import TIFF_SIGNATURES
from distill.data.pixels import Pixels, to_rgb
from distill.errors import UserError
from distill.runtime.files import write_bytes

logger = logging.getLogger(__name__)

MIN_SIDE = 16
# About how many files are looked at for 16 bits: a header costs a millisecond on a network's disk.
LOOKED_AT = 500
# Words in a PNG file that may say how to turn its pixels, or which of them are transparent.
_NOT_PLAIN = (b"eXIf", b"tRNS", b"XML:com.adobe.xmp", b"Raw profile type")
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)  # Pillow refuses an image with more pixels


class ImageError(UserError):
    """An image file, or a set of image files, cannot be used. The message is one line that begins with the path."""

    def __init__(self, reason: str, path: Path | None = None) -> None:
        """`path` is None if `reason` is the whole message, such as a message about several files."""
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.path, self.reason = path, reason


def read_image(path: Path, data: bytes | None = None) -> Pixels:
    """Reads an image file as (H, W, 3) RGB uint8, upright. `data` is the file's content, if it has been read already.

    Grey is repeated, CMYK and palettes are converted, alpha is dropped, 16 bits are rounded to 8 (65535 -> 255). Raises
    ImageError for a file that cannot be decoded to its end, for floating-point or signed pixels, and for a side below 16 pixels.
    """
    try:
        data = path.read_bytes() if data is None else data
        pixels = _decode_plain_png(data)
        if pixels is None:
            pixels = to_rgb(decode(data, MAX_PIXELS, alpha=False).pixels)
    except BaseException as error:
        raise unreadable(path, error) from error
    if min(pixels.shape[:2]) < MIN_SIDE:
        raise ImageError(f"{pixels.shape[1]}x{pixels.shape[0]} pixels; the smallest side that can be used is {MIN_SIDE}", path)
    return pixels


def warn_of_16_bits(paths: Sequence[Path]) -> None:
    """Warns once if an image of 16 bits is found, because it is rounded to 8. Looks at some of the files, at even intervals."""
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        if _has_16_bits(path):
            logger.warning("%s has 16 bits a channel: such images are rounded to 8 bits, which networks are trained on", path)
            return


def _has_16_bits(path: Path) -> bool:
    with suppress(Exception), path.open("rb") as file:  # reading the image says what is wrong
        start = file.read(26)
        if start[:4] in TIFF_SIGNATURES:
            file.seek(0)
            return tifffile.TiffFile(file).pages.first.bitspersample > 8
        header = depth_and_colour(start)
        return header is not None and header[0] == 16
    return False


def _decode_plain_png(data: bytes) -> Pixels | None:
    """Decodes a PNG of 8-bit RGB without EXIF, XMP or transparency, in half of Pillow's time. Returns None for any other
    file and for a damaged one: Pillow reads more kinds, and its error says what is wrong."""
    if depth_and_colour(data) != (8, PNG_RGB) or any(word in data for word in _NOT_PLAIN):
        return None
    width, height = struct.unpack(">II", data[16:24])
    if width * height > MAX_PIXELS:
        return None
    try:
        return kornia_rs.io.decode_image_png_u8(data, (height, width), "rgb")
    except BaseException as error:  # kornia_rs may raise anything, and panics of Rust are no Exception
        if not _may_be_of_a_file(error):
            raise
        return None


def _may_be_of_a_file(error: BaseException) -> bool:
    """Whether a bad file may have caused an error. A panic of an extension in Rust is such an error, but no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def unreadable(path: Path, error: BaseException) -> ImageError:
    """The ImageError that tells the user, in one line, what an error of the system or of a decoder means. Raises the error itself
    if no file can have caused it, such as Ctrl-C."""
    if not _may_be_of_a_file(error):
        raise error
    if isinstance(error, OSError) and error.strerror:
        return ImageError(error.strerror, path)  # str(error) would name the path twice
    reason = "an empty file" if path.is_file() and path.stat().st_size == 0 else _reason(error)
    return ImageError(reason, path)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    if isinstance(error, MemoryError):
        return "there is not enough memory for its pixels"
    if "cannot identify" in text:
        return "not an image that Pillow can read"
    # Pillow raises these with a message for people (SyntaxError for a broken PNG). Others are about the code.
    meant_to_be_read = isinstance(error, OSError | SyntaxError | ValueError) and " " in text
    if text.startswith(("decoder error", "broken data stream", "codec configuration", "encoder error")):
        return "its pixels are damaged, or compressed in a way that is not read"
    if meant_to_be_read:
        return text
    return f"its data is damaged, or of a kind that is not read{f' ({text})' if text else ''}"


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
