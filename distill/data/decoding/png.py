"""PNG files that Pillow does not read as what they are."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_GREY, PNG_RGB = 0, 2  # colour types
# Chunks that describe colours and change no pixel value. A PNG is read without those that are damaged.
_COLOUR_CHUNKS = frozenset({b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI", b"sBIT"})


def is_deep_png(start: bytes, image: Image.Image) -> bool:
    """Whether a file is a PNG of 16 bits, or of a kind whose transparent colour Pillow loses. `start` is its beginning, `image`
    what Pillow opens."""
    depth, colour = depth_and_colour(start) or (8, PNG_GREY)
    return depth == 16 or (colour == PNG_GREY and depth in (2, 4) and "transparency" in image.info)


def depth_and_colour(data: bytes) -> tuple[int, int] | None:
    """A PNG's bits per channel and colour type, from the beginning of the file. None for any other file."""
    return (data[24], data[25]) if data[:8] == PNG_SIGNATURE and len(data) >= 26 else None


def without_damaged_colours(data: bytes, notes: list[str]) -> bytes:
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
