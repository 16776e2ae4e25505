"""Damaged and hostile image files: pixels, or an ImageError that says why not."""

from __future__ import annotations

import io
import struct
import zlib
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import tifffile
from fuzzing import FUZZ, Edit, confined, edits, mutate, outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import packed_tiff, png_header, png_of
from PIL import Image

import distill.data.image_files as reader
from distill.data.decoding.png import PNG_SIGNATURE
from distill.data.image_files import MAX_PIXELS, MIN_SIDE, ImageError, read_image
from distill.data.pixels import Pixels, to_rgb
from distill.pictures.reading import read_picture

pytestmark = pytest.mark.slow

# How long one reading may take. Images of up to 179 million pixels are read, and 67 million of Lab take 2.2 s on one core.
READING = timedelta(seconds=6)


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], len(PNG_SIGNATURE)
    while at + 8 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def pixels_have_right_checksums(png: bytes) -> bool:
    return all(png_of(part).removeprefix(PNG_SIGNATURE) in png for part in chunks_of(png) if part[0] == b"IDAT")


def rare_png(depth: int, colour: int, channels: int, interlaced: bool) -> bytes:
    """Kinds that Pillow does not write: 20x18 pixels of values 0 to 4, which are the filters that a row may begin with."""
    noise = np.random.default_rng(depth).integers(0, 5, 2 * 20 * 18 * channels * depth // 8, dtype=np.uint8)
    return png_of(png_header(20, 18, depth, colour, interlaced), (b"IDAT", zlib.compress(noise.tobytes())), (b"IEND", b""))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seeds() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((4, 4, 1))).astype(np.uint8))
    grey = rgb.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x9286] = 6, "a description", b"a comment"
    found = {f"png {image.mode}": encode(image, "PNG") for image in (rgb, grey, deep, rgb.convert("P"), rgb.convert("RGBA"))}
    found |= {f"png {mode}": encode(rgb.convert(mode), "PNG") for mode in ("1", "LA")}
    found["png exif"] = encode(rgb, "PNG", exif=exif, dpi=(72, 72), icc_profile=b"not a profile")
    found["png transparency"] = encode(rgb, "PNG", transparency=(1, 2, 3))
    found["png animated"] = encode(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)])
    found |= {f"png {colour} interlaced": rare_png(8, colour, channels, True) for colour, channels in ((0, 1), (2, 3), (6, 4))}
    found["png 16 bit"] = rare_png(16, 2, 3, False)
    found |= {f"jpeg {mode}": encode(rgb.convert(mode), "JPEG") for mode in ("RGB", "L", "CMYK")}
    found["jpeg exif"] = encode(rgb, "JPEG", exif=exif, progressive=True, icc_profile=b"not a profile", comment=b"hello")
    found["mpo"] = encode(rgb, "MPO", save_all=True, append_images=[rgb.rotate(180)])
    found |= {f"webp {lossless}": encode(rgb, "WEBP", lossless=lossless) for lossless in (True, False)}
    found["webp exif"] = encode(rgb.convert("RGBA"), "WEBP", exif=exif)
    found["webp animated"] = encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)])
    found |= {f"bmp {mode}": encode(rgb.convert(mode), "BMP") for mode in ("RGB", "L", "P", "1", "RGBA")}
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        found[f"tiff {compression}"] = encode(rgb, "TIFF", compression=compression)
    found |= {f"tiff {image.mode}": encode(image, "TIFF") for image in (grey, deep, grey.convert("I"), grey.convert("F"))}
    found |= {f"tiff {mode}": encode(rgb.convert(mode), "TIFF") for mode in ("P", "CMYK", "RGBA", "YCbCr", "LAB", "1")}
    found["tiff group4"] = encode(grey.convert("1"), "TIFF", compression="group4")
    found["tiff exif"] = encode(rgb, "TIFF", exif=exif)
    found["gif, named otherwise"] = encode(rgb.convert("P"), "GIF")
    found |= {f"{kind} RGB": encode(rgb, kind) for kind in ("AVIF", "JPEG2000", "PPM")}
    found["PGM 16 bit"] = encode(deep, "PPM")
    found["avif alpha"] = encode(rgb.convert("RGBA"), "AVIF", exif=exif)
    return found | deep_seeds(np.asarray(rgb))


def deep_seeds(rgb: NDArray[np.uint8]) -> dict[str, bytes]:
    """Kinds that Pillow does not read as what they are."""
    colours, grey = rgb.astype(np.uint16) * 257, rgb[:, :, 0]
    rgba, planes = np.concatenate([colours, colours[:, :, :1]], axis=2), np.moveaxis(colours, 2, 0)
    planar: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate"}
    associated: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    found = {"tiff planar": encode_tiff(planes, **planar), "tiff tiles": encode_tiff(planes, tile=(16, 16), **planar)}
    found["tiff planar deflate"] = encode_tiff(planes, compression="zlib", predictor=True, **planar)
    found["tiff associated 16"] = encode_tiff(rgba, compression="lzw", **associated)
    found["tiff associated 8"] = encode_tiff((rgba >> 8).astype(np.uint8), **associated)
    grey_alpha: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "separate", "extrasamples": ["unassalpha"]}
    found["tiff planar alpha"] = encode_tiff(np.stack([grey, grey]), compression="packbits", **grey_alpha)
    found["tiff cmyk 16"] = encode_tiff(rgba, photometric="separated", compression="zlib")
    found |= {f"tiff {bits} bits": packed_tiff(grey.astype(int) << (bits - 8), bits, 8, 2) for bits in (10, 12, 14)}
    found["png grey alpha 16"] = rare_png(16, 4, 2, True)
    found["png rgba 16"] = rare_png(16, 6, 4, False)
    header, *rest = chunks_of(rare_png(4, 0, 1, False))
    found["png 4 bit key"] = png_of(header, (b"tRNS", b"\0\3"), *rest)
    return found


def encode_tiff(samples: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, byteorder="<", **options)
    return file.getvalue()


def read(data: bytes) -> Pixels | None:
    return outcome(lambda: read_image(Path("a"), data), ImageError)


SEEDS = seeds()


def mutate_chunk(png: bytes, place: int, level: str, changes: list[Edit], other: bytes) -> bytes:
    """Changes one chunk, or what an IDAT decompresses to, and leaves all checksums right: the change gets past them."""
    parts = chunks_of(png)
    number = place % len(parts)
    if level == "pixels":
        number = [kind for kind, _ in parts].index(b"IDAT")
    kind, data = parts[number]
    if level == "order":
        parts.insert(len(changes) * 7 % len(parts), parts.pop(number))
    elif level == "pixels":
        parts[number] = (kind, zlib.compress(mutate(zlib.decompress(data), changes, other), 1))
    else:
        parts[number] = (kind, mutate(data, changes, other))
    return png_of(*parts)


def mutate_directory(tiff: bytes, changes: list[Edit]) -> bytes:
    """Changes the table of a TIFF's tags, in which all sizes and offsets are."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    end = start + 2 + 12 * count
    return tiff[:start] + mutate(tiff[start:end], changes) + tiff[end:]


def read_with_pillow(path: Path, data: bytes) -> Pixels:
    """Without the faster decoder of plain PNGs."""
    with patch.object(reader, "_decode_plain_png", lambda _: None):
        return read_image(path, data)


def described(pixels: Pixels) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, type and checksum: what is compared, without a second image of up to half a gigabyte beside the first."""
    return pixels.shape, pixels.dtype, zlib.crc32(np.ascontiguousarray(pixels))


@st.composite
def image_files(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from(sorted(SEEDS)))
    data, changes = SEEDS[name], draw(edits)
    other = SEEDS[draw(st.sampled_from(sorted(SEEDS)))]
    level = draw(st.sampled_from(["file", "header", "chunk", "pixels", "order", "chunk"]))
    if name.startswith("png") and level not in ("file", "header"):
        return mutate_chunk(data, draw(st.integers(0, 15)), level, changes, other)
    if name.startswith("tiff") and level != "file":
        return mutate_directory(data, changes)
    if level == "header":
        return mutate(data[:64], changes) + data[64:]
    return mutate(data, changes, other)


@pytest.mark.filterwarnings("ignore")
@given(data=image_files())
@settings(FUZZ, max_examples=6000, deadline=2 * READING)
def test_a_mutated_image_is_read_or_refused(data: bytes, tmp_path: Path, bounded_memory: None) -> None:
    path = tmp_path / "a.png"
    with confined(tmp_path):
        found = outcome(lambda: described(read_image(path, data)), ImageError)
        again = outcome(lambda: described(read_with_pillow(path, data)), ImageError)
    if again is not None:
        assert found == again
    elif found is not None:  # the faster decoder looks at no animation, and not at zlib's checksum inside of the chunks'
        assert pixels_have_right_checksums(data)
    if found is not None:
        shape, dtype, _ = found
        assert dtype == np.uint8
        assert shape[2:] == (3,)
        assert min(shape[:2]) >= MIN_SIDE


@pytest.mark.filterwarnings("ignore")
@given(data=image_files())
@settings(FUZZ, max_examples=10_000, deadline=3 * READING)
def test_a_mutated_picture_is_the_same_in_every_reading(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with confined(tmp_path):
        first, second = (outcome(lambda: read_picture(path, MAX_PIXELS), ImageError) for _ in range(2))
        trained = outcome(lambda: read_image(path), ImageError)
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert described(first.pixels) == described(second.pixels)
        assert first.notes == second.notes
        if min(first.pixels.shape[:2]) >= MIN_SIDE:
            assert trained is not None
            assert described(trained) == described(to_rgb(first.pixels))


def test_the_seeds_are_read() -> None:
    """Else the mutations would be of what is refused anyway."""
    assert {name for name, data in SEEDS.items() if read(data) is None} == {"tiff F"}
