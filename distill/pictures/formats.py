"""A user's picture with all that its file holds: bit depth, grey or colour, alpha, profile and metadata; read, and written again.

`images.py` reads what networks train on, 8-bit RGB. Here nothing is lost that the format written can hold.
"""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kornia_rs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin, TiffTags

from distill.data.image_files import BAND_ROWS, ImageError, unreadable
from distill.pictures.metadata import Metadata, descriptive

Samples = NDArray[np.uint8] | NDArray[np.uint16]

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
WITH_ALPHA = frozenset({"PNG", "WEBP", "TIFF"})
WITH_16_BITS = frozenset({"PNG", "TIFF"})
DEFAULT_QUALITY = 95

_DEEP_PNG_MODES = {1: "mono", 3: "rgb", 4: "rgba"}
_PNG_HEADER_BYTES = 33  # signature and IHDR
_TIFF_STRIP_ROWS = 64
_RGB_SPACE, _GREY_SPACE, _CMYK_SPACE = b"RGB ", b"GRAY", b"CMYK"


@dataclass
class Picture:
    """Pixels as they are seen, upright, and what the file says about them."""

    pixels: Samples
    """(H, W, 1) grey or (H, W, 3) RGB, uint8 or uint16."""
    alpha: Samples | None = None
    """(H, W), of the same type."""
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)
    """What reading could not keep, for the user to know."""


@contextmanager
def _pixels_unlimited() -> Iterator[None]:
    """Lifts Pillow's limit, which would refuse pictures that the caller allows."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def read_picture(path: Path, max_pixels: int | None) -> Picture:
    """Reads a picture of at most `max_pixels` pixels (None: any), rotated as its EXIF orientation says.

    16 bits stay 16, grey stays grey; palettes become RGB, and so does CMYK, through its profile where it has one. Raises
    ImageError for what cannot be decoded to the end, for floating-point pixels, and for a larger picture.
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
    samples: Samples | None = _read_deep_colour(path, image, notes)
    image.load()
    metadata = Metadata.of(image)
    if image.mode == "CMYK":
        image = _cmyk_to_rgb(image, metadata, notes)
    if samples is None:
        samples = _read_deep_grey(image) if image.mode.startswith("I") else _read_8_bit(image)
    samples = np.ascontiguousarray(metadata.upright(samples))
    colours = 1 if samples.shape[2] < 3 else 3
    alpha = samples[:, :, colours] if samples.shape[2] > colours else None
    return Picture(samples[:, :, :colours], alpha, metadata, notes)


def _read_deep_colour(path: Path, image: Image.Image, notes: list[str]) -> NDArray[np.uint16] | None:
    """(H, W, 3 or 4) of 16-bit colour, which Pillow would reduce to 8 bits; None for all else."""
    layout = str(getattr(image, "tile", ""))  # Pillow's raw mode, such as RGB;16B
    if ";16" not in layout or image.mode not in ("RGB", "RGBA", "LA"):
        return None
    if "LA;16" in layout:
        notes.append("16-bit grey with alpha is read as 8 bits")
        return None
    size = (image.height, image.width)
    if image.format == "PNG":
        samples = kornia_rs.io.decode_image_png_u16(path.read_bytes(), size, image.mode.lower())
    elif image.mode == "RGB":
        samples = kornia_rs.io.read_image_tiff_u16(str(path), "rgb")
    else:
        samples = _read_tiff(path)
    if samples.shape[:2] != size or samples.dtype != np.uint16:
        raise ValueError(f"decoded as {samples.shape} {samples.dtype}, its header says {size}")
    return _with_transparent_colour(samples, image)


def _read_tiff(path: Path) -> NDArray[np.uint16]:
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        samples = page.asarray()
        separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    return np.moveaxis(samples, 0, -1) if separate else samples


def _with_transparent_colour(samples: NDArray[np.uint16], image: Image.Image) -> NDArray[np.uint16]:
    """Turns a PNG's one transparent colour into an alpha channel."""
    if "transparency" not in image.info:
        return samples
    opaque = np.any(samples != np.asarray(image.info["transparency"]), axis=2, keepdims=True)
    return np.concatenate([samples, opaque * np.uint16(65535)], axis=2)


def _read_deep_grey(image: Image.Image) -> NDArray[np.uint16]:
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("pixels outside the 16-bit range")
    return _with_transparent_colour(levels.astype(np.uint16)[:, :, None], image)


def _read_8_bit(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 1 to 4), in bands: whole copies in between would take gigabytes."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined white; convert the file to 8 or 16 bits")
    mode = ("L" if image.mode in ("1", "L", "LA", "La") else "RGB") + ("A" if image.has_transparency_data else "")
    samples = np.empty((image.height, image.width, len(mode)), np.uint8)
    for top in range(0, image.height, BAND_ROWS):
        band = image.crop((0, top, image.width, min(image.height, top + BAND_ROWS))).convert(mode)
        samples[top : top + BAND_ROWS] = np.asarray(band).reshape(band.height, band.width, len(mode))
    return samples


def _cmyk_to_rgb(image: Image.Image, metadata: Metadata, notes: list[str]) -> Image.Image:
    """To sRGB through the profile where there is one, which does not belong to the result and is dropped."""
    profile, metadata.icc = metadata.icc, None
    if profile is None or _colour_space(profile) != _CMYK_SPACE:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        notes.append(f"its CMYK profile cannot be used, and its colours are approximate: {error}")
        return image.convert("RGB")
    assert converted is not None, "not converted in place"
    return converted


def losses(picture: Picture, suffix: str) -> list[str]:
    """What a file of this suffix cannot hold of a picture."""
    kind = FORMATS[suffix.lower()]
    lost = []
    if picture.alpha is not None and kind not in WITH_ALPHA:
        lost.append(f"{kind} holds no alpha, which is dropped")
    if picture.pixels.dtype == np.uint16 and kind not in WITH_16_BITS:
        lost.append(f"{kind} holds 8 bits, to which its 16 are reduced")
    return lost


def encode_picture(picture: Picture, suffix: str, quality: int = DEFAULT_QUALITY) -> memoryview:
    """The picture as a file of this suffix; `quality`, 1 to 100, is of JPEG and WebP.

    Raises ValueError or OSError for what the format cannot hold, such as a WebP of more than 16383 pixels a side.
    """
    kind = FORMATS[suffix.lower()]
    samples = _joined(picture, alpha=kind in WITH_ALPHA)
    if samples.dtype == np.uint16 and kind not in WITH_16_BITS:
        samples = reduce_to_8_bits(samples)
    if samples.dtype == np.uint16 and samples.shape[2] == 2:
        samples = _grey_to_rgb(samples)  # that of 16 bits with alpha is a kind of file that few programs read
    metadata = picture.metadata
    icc = _profile_for(metadata.icc, 3 if kind == "WEBP" else samples.shape[2])
    if kind == "TIFF":
        return _encode_tiff(samples, metadata, icc)
    if samples.dtype == np.uint16:
        return _encode_deep_png(samples, metadata.saving(kind, icc))
    options: dict[str, Any] = {"PNG": {"compress_level": 1}, "BMP": {}}.get(kind, {"quality": quality})
    if kind == "JPEG":
        options["subsampling"] = 0  # colour at full resolution: a restored edge is not blurred again
    shape = samples if samples.shape[2] > 1 else samples[:, :, 0]
    return _save(Image.fromarray(shape), kind, **options, **metadata.saving(kind, icc))


def _save(image: Image.Image, kind: str, **options: Any) -> memoryview:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getbuffer()


def _joined(picture: Picture, alpha: bool) -> Samples:
    """(H, W, 1 to 4)."""
    if picture.alpha is None or not alpha:
        return picture.pixels
    samples: Samples = np.concatenate([picture.pixels, picture.alpha[:, :, None]], axis=2)
    return samples


def reduce_to_8_bits(samples: Samples) -> NDArray[np.uint8]:
    """65535 becomes 255, in bands; 8 bits stay as they are."""
    if samples.dtype == np.uint8:
        return samples.astype(np.uint8, copy=False)
    reduced = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), BAND_ROWS):
        reduced[top : top + BAND_ROWS] = (samples[top : top + BAND_ROWS].astype(np.uint32) * 255 + 32767) // 65535
    return reduced


def _grey_to_rgb(samples: Samples) -> Samples:
    """(H, W, 2) grey and alpha -> (H, W, 4)."""
    return samples[:, :, [0, 0, 0, 1]]


def _colour_space(profile: bytes) -> bytes:
    """The four letters in an ICC profile's header."""
    return profile[16:20]


def _profile_for(profile: bytes | None, channels: int) -> bytes | None:
    """The profile, where it can describe pixels of so many channels: a grey one does not fit RGB."""
    fitting = (_RGB_SPACE, _GREY_SPACE) if channels < 3 else (_RGB_SPACE,)
    return profile if profile is not None and _colour_space(profile) in fitting else None


def _encode_deep_png(samples: Samples, saving: dict[str, Any]) -> memoryview:
    """16-bit pixels by one library and, since that writes no metadata, the chunks that Pillow writes for a picture of one
    pixel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep.png"
        kornia_rs.io.write_image_png_u16(str(path), np.ascontiguousarray(samples), _DEEP_PNG_MODES[samples.shape[2]])
        deep = memoryview(path.read_bytes())
    small = bytes(_save(Image.new("L", (1, 1)), "PNG", **saving))
    chunks = small[_PNG_HEADER_BYTES : small.rindex(b"IDAT") - 4]
    return memoryview(b"".join([deep[:_PNG_HEADER_BYTES], chunks, deep[_PNG_HEADER_BYTES:]]))


def _encode_tiff(samples: Samples, metadata: Metadata, icc: bytes | None) -> memoryview:
    """Deflated, with its EXIF directories behind the pixels."""
    exif = descriptive(metadata.exif)
    directories = {tag: exif.get_ifd(tag) for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)}
    directories = {tag: entries for tag, entries in directories.items() if entries}
    tags: list[tuple[int, str, int, Any, bool]] = [(tag - 1, "I", 1, 0, True) for tag in directories]
    tags += [(tag, "s", 0, value, True) for tag, value in exif.items() if isinstance(value, str)]
    if metadata.xmp:
        tags.append((TiffImagePlugin.XMP, "B", len(metadata.xmp), metadata.xmp, True))
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        samples if samples.shape[2] > 1 else samples[:, :, 0],
        byteorder="<",
        photometric="rgb" if samples.shape[2] > 2 else "minisblack",
        planarconfig="contig" if samples.shape[2] > 1 else None,
        extrasamples=["unassalpha"] if samples.shape[2] in (2, 4) else None,
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
    """Writes an EXIF directory to the end of a little-endian TIFF. Its tag, which the library does not write, has been left as
    the number below it, so that the tags stay in order."""
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        entry = tiff.pages.first.tags[tag - 1].offset
    directory = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\x08\0\0\0")
    for key, value in entries.items():
        directory[key] = value
    end = file.seek(0, io.SEEK_END)
    offset = file.seek(end + end % 2)
    file.write(directory.tobytes(offset))
    file.seek(entry)
    file.write(struct.pack("<HHII", tag, TiffTags.LONG, 1, offset))
