"""Image files: finding them, pairing them, reading one as RGB uint8, writing one."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import kornia_rs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from distill.runtime.files import write_bytes

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
MIN_SIDE = 16
PNG_SIGNATURE, PNG_RGB = b"\x89PNG\r\n\x1a\n", 2
BAND_ROWS = 256
COLUMN_GAP = 4
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)  # Pillow refuses larger ones


class ImageError(ValueError):
    """An image file, or a set of them, that cannot be used. The message is one line, which begins with the path."""

    def __init__(self, reason: str, path: Path | None = None) -> None:
        """`path` is None where `reason` is the whole message, such as one about several files."""
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.path, self.reason = path, reason


class NoImagesError(ImageError):
    """A folder without image files."""


@dataclass(frozen=True)
class Triplet:
    """One sample's whole images, (H, W, 3) uint8 of one size; None for what is not on disk."""

    sharp: Pixels
    blurry: Pixels | None = None
    teacher: Pixels | None = None

    @property
    def bytes(self) -> int:
        return sum(pixels.nbytes for pixels in (self.sharp, self.blurry, self.teacher) if pixels is not None)


class RecentTriplets:
    """Those that were read last: a set of images that fits into the memory is decoded once."""

    def __init__(self, max_bytes: float) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._kept: OrderedDict[Hashable, Triplet] = OrderedDict()

    def get(self, key: Hashable) -> Triplet | None:
        """What was kept under this key, if it still is."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: Hashable, triplet: Triplet) -> None:
        """Drops those that were not asked for longest, where there is no room; keeps nothing larger than all of it."""
        if key in self._kept or triplet.bytes > self.max_bytes:
            return
        self._kept[key] = triplet
        self.bytes += triplet.bytes
        while self.bytes > self.max_bytes:
            self.bytes -= self._kept.popitem(last=False)[1].bytes


@dataclass(frozen=True)
class ImageFile:
    """A sharp image on disk and, where there is one, its blurry partner."""

    stem: str
    sharp: Path
    blurry: Path | None = None

    def read(self) -> Triplet:
        """Raises ImageError for damage and for a pair of different size."""
        sharp = read_image(self.sharp)
        if self.blurry is None:
            return Triplet(sharp)
        return Triplet(sharp, check_size(read_image(self.blurry), self.blurry, sharp, self.sharp))


def check_size(pixels: Pixels, path: Path, sharp: Pixels, sharp_path: Path) -> Pixels:
    """The pixels, when they have their sharp image's size. Raises ImageError."""
    if pixels.shape != sharp.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (pixels, sharp)]
        raise ImageError(f"{sizes[0]} pixels, but its sharp image {sharp_path} has {sizes[1]}", path)
    return pixels


def read_image(path: Path, data: bytes | None = None) -> Pixels:
    """Reads an image file, or the bytes that were read from it, as (H, W, 3) RGB uint8, rotated as its EXIF orientation says.

    Grey is repeated, CMYK and palettes are converted, alpha is dropped, 16 bits are scaled to 8 (65535 -> 255). Raises
    ImageError for what cannot be decoded to the end, for floating-point pixels, and for a side below 16 pixels.
    """
    try:
        with warnings.catch_warnings():
            # A file too large for memory is refused by the error of the same name; the warning below that size is noise.
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
    """The pixels of a PNG of 8-bit RGB and nothing that changes how it is seen, in half of Pillow's time; None for all others and
    for what is damaged: Pillow knows more kinds, and says what is wrong."""
    if data[:8] != PNG_SIGNATURE or len(data) < 26 or b"eXIf" in data or b"tRNS" in data:
        return None
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if (depth, colour) != (8, PNG_RGB) or width * height > MAX_PIXELS:
        return None
    try:
        return kornia_rs.io.decode_image_png_u8(data, (height, width), "rgb")
    except Exception:  # noqa: BLE001 (it raises nothing more special)
        return None


def unreadable(path: Path, error: Exception) -> ImageError:
    """What the system's or a decoder's error means to the user, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return ImageError(error.strerror, path)  # its whole text has the path in it
    reason = "an empty file" if path.is_file() and path.stat().st_size == 0 else _reason(error)
    return ImageError(reason, path)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    if "cannot identify" in text:
        return "not an image that Pillow can read"
    meant_to_be_read = isinstance(error, OSError | SyntaxError | ValueError | Image.DecompressionBombError)
    return text if meant_to_be_read else f"{type(error).__name__}: {text}"


def _to_rgb(image: Image.Image) -> Pixels:
    """In bands: of an image as large as Pillow lets through, whole copies in between would take gigabytes."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white; convert the file to 8 or 16 bits")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(image.height, top + BAND_ROWS)))
        pixels[top : top + BAND_ROWS] = _reduce_grey(band) if band.mode.startswith("I") else np.asarray(band.convert("RGB"))
    return pixels


def _reduce_grey(image: Image.Image) -> Pixels:
    """16-bit grey as (H, W, 1) of 8 bits; Pillow itself reduces 16-bit colour. Raises ValueError."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("pixels outside the 16-bit range")
    return ((levels * 255 + 32767) // 65535).astype(np.uint8)[:, :, None]


def write_image(path: Path, pixels: Pixels) -> None:
    """Writes (H, W, 3) RGB uint8 as a PNG; the file appears whole or not at all. Raises WriteError."""
    write_bytes(path, encode_png(pixels))


def encode_png(pixels: Pixels) -> bytes:
    """(H, W, 3) RGB uint8 as a PNG file. Fast: on photographs level 1 takes a quarter of Pillow's default time for 2 % more
    bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """(H, W, 3) RGB uint8 as a JPEG file of libjpeg's quality, 1 to 100."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def find_images(folder: str) -> dict[str, Path]:
    """All image files below a folder, by relative stem (`night/street` for FOLDER/night/street.jpg), sorted.

    A `*` in the path matches folder names, whose matches become part of the stem: GoPro's frames of all its sequences are
    `GOPRO_Large/train/*/sharp`. Raises FileNotFoundError for a missing folder, ImageError for an empty one or for two files
    with one stem.
    """
    found: dict[str, Path] = {}
    for prefix, root in _expand(folder):
        for path in images_below(root):
            stem = (prefix / path.relative_to(root).with_suffix("")).as_posix()
            if stem in found:
                raise ImageError(f"has the same stem as {found[stem]}; rename one of them", path)
            found[stem] = path
    if not found:
        raise NoImagesError(f"{folder}: no images ({', '.join(sorted(SUFFIXES))}) in this folder or below it")
    return dict(sorted(found.items()))


def images_below(root: Path) -> Iterator[Path]:
    """The image files in a folder and its subfolders, sorted; links are followed. A folder is looked into once however many links
    lead there, or round in a circle: under its own name where that is below `root` too."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting = [os.fspath(root)]  # the links, for after what is there without them
    while waiting:
        for here, folders, names in os.walk(waiting.pop(0)):
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            # Not macOS's "._x.png", or a file that is still being written.
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [link for name in folders if os.path.islink(link := os.path.join(here, name))]
            images = (name for name in names if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."))
            found += [Path(path) for name in images if os.path.isfile(path := os.path.join(here, name))]
    yield from sorted(found)


def _wild_parts(folder: str) -> list[int]:
    """The numbers of the parts of a path that have a `*` in them."""
    return [index for index, part in enumerate(Path(folder).parts) if "*" in part]


def fixed_part(folder: str) -> Path:
    """The folder below which `find_images` looks: the part of the path before its first `*`."""
    wild = _wild_parts(folder)
    return Path(*Path(folder).parts[: wild[0]]) if wild else Path(folder)


def _expand(folder: str) -> list[tuple[Path, Path]]:
    """[(the part of the stem that the wildcards stand for, folder)]."""
    parts, wild, base = Path(folder).parts, _wild_parts(folder), fixed_part(folder)
    if not wild:
        if not base.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        return [(Path(), base)]
    matches = sorted(path for path in base.glob(str(Path(*parts[wild[0] :]))) if path.is_dir())
    if not matches:
        raise FileNotFoundError(f"{folder}: no folder matches")
    depth = slice(wild[0] - len(base.parts), wild[-1] + 1 - len(base.parts))
    return [(Path(*match.relative_to(base).parts[depth]), match) for match in matches]


def pair_images(sharp: str, blurry: str) -> dict[str, tuple[Path, Path]]:
    """{stem: (sharp file, blurry file)}, matched by relative stem; the suffixes may differ.

    Raises as `find_images`, and ImageError where a file has no partner.
    """
    sharp_files, blurry_files = find_images(sharp), find_images(blurry)
    for here, there, other in ((sharp_files, blurry_files, blurry), (blurry_files, sharp_files, sharp)):
        lonely = [str(path) for stem, path in here.items() if stem not in there]
        if lonely:
            more = f" and {len(lonely) - 3} more" if len(lonely) > 3 else ""
            raise ImageError(f"{', '.join(lonely[:3])}{more}: no image of the same name in {other}")
    return {stem: (path, blurry_files[stem]) for stem, path in sharp_files.items()}


def pad_to(pixels: Pixels, side: int) -> Pixels:
    """Reflects an image at its right and bottom until both sides are at least `side` pixels."""
    height, width = pixels.shape[:2]
    if min(height, width) >= side:
        return pixels
    return np.pad(pixels, ((0, max(0, side - height)), (0, max(0, side - width)), (0, 0)), mode="reflect")


def centre_crop(pixels: Pixels, side: int | None) -> Pixels:
    """The central part of at most side x side pixels; all of it for None."""
    if side is None:
        return pixels
    height, width = pixels.shape[:2]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return pixels[top : top + side, left : left + side]


def side_by_side(columns: Sequence[Pixels]) -> Pixels:
    """Images of equal size in one row, white between them."""
    white = np.full((columns[0].shape[0], COLUMN_GAP, 3), 255, np.uint8)
    row: list[Pixels] = []
    for column in columns:
        row += [column, white]
    return np.concatenate(row[:-1], axis=1)
