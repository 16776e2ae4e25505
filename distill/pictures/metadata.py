"""The metadata in a picture's file: EXIF, XMP, colour profile and resolution."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin

from distill.data.image_files import ORIENTATION, SWAPS_AXES

UPRIGHT = 1  # the EXIF orientation of pixels that need no turn

# EXIF orientation -> function that turns pixels (H, W, ...) upright
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
}

# The tags of a TIFF's first directory that describe the picture. Exif and GPSInfo point to directories of their own. The first
# directory's other tags say where and how the pixels are stored.
_DESCRIPTIVE = frozenset(
    {
        ExifTags.Base.ImageDescription,
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.Software,
        ExifTags.Base.DateTime,
        ExifTags.Base.Artist,
        ExifTags.Base.HostComputer,
        ExifTags.Base.Copyright,
        ExifTags.IFD.Exif,
        ExifTags.IFD.GPSInfo,
    }
)
# XMP holds the orientation as an attribute, tiff:Orientation="6", or as an element, <tiff:Orientation>6</tiff:Orientation>.
_XMP_ORIENTATION = re.compile(rb'(tiff:Orientation(?:="|>))[0-9](["<])')


@dataclass
class Metadata:
    """A picture's metadata. After a call of `upright`, the metadata describes the upright pixels."""

    exif: Image.Exif = field(default_factory=Image.Exif)
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down."""
    orientation: int = UPRIGHT
    """The file's EXIF orientation. `upright` sets it to UPRIGHT."""

    @classmethod
    def of(cls, image: Image.Image) -> Metadata:
        """The metadata of a loaded image. Load it first: a PNG's metadata can follow its pixels."""
        exif = image.getexif()
        orientation = exif.get(ORIENTATION, UPRIGHT)
        if image.format == "TIFF":
            exif = descriptive(exif)
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        return cls(exif, image.info.get("icc_profile") or None, xmp, _dpi_of(image), orientation)

    def upright(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Turns pixels (H, W, C) as the orientation says, and changes the metadata to describe the result."""
        if ORIENTATION in self.exif:
            self.exif[ORIENTATION] = UPRIGHT
        if self.xmp is not None:
            self.xmp = _XMP_ORIENTATION.sub(rb"\g<1>1\2", self.xmp)  # orientation 1; \11 would mean group 11
        turned = _TURNS.get(self.orientation, lambda a: a)(pixels)
        if self.orientation in SWAPS_AXES and self.dpi is not None:
            self.dpi = self.dpi[::-1]
        sizes = self.exif.get_ifd(ExifTags.IFD.Exif)
        for tag, extent in ((ExifTags.Base.ExifImageWidth, turned.shape[1]), (ExifTags.Base.ExifImageHeight, turned.shape[0])):
            if tag in sizes:
                sizes[tag] = extent
        self.orientation = UPRIGHT
        return turned

    def without(self, names: Collection[str]) -> Metadata:
        """The metadata without EXIF, XMP or both, whichever `names` holds. This object stays as it is."""
        copied = replace(self, exif=Image.Exif()) if "EXIF" in names else self
        return replace(copied, xmp=None) if "XMP" in names else copied

    def omissions(self) -> list[tuple[str, ...]]:
        """What to leave out at each attempt to write a file, in this order: `()`, `("XMP",)`, `("EXIF",)`, `("XMP", "EXIF")`.

        Metadata that the picture does not have is not named.
        """
        present = [name for name, there in (("XMP", self.xmp), ("EXIF", len(self.exif))) if there]
        return [names for count in range(len(present) + 1) for names in combinations(present, count)]

    def save_options(self, kind: str, icc: bytes | None) -> dict[str, Any]:
        """Pillow's save options for the metadata that the format `kind` holds. Not for TIFF, which tifffile writes.

        `icc` is the profile to write instead of the metadata's own, which may not fit the written channels.
        """
        options: dict[str, Any] = {}
        if icc and kind != "BMP":
            options["icc_profile"] = icc
        if len(self.exif) and kind != "BMP":
            options["exif"] = self.exif.tobytes()
        if self.dpi and kind != "WEBP":
            options["dpi"] = self.dpi
        if self.xmp and kind == "PNG":
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", self.xmp.decode("utf-8", "replace"))
        elif self.xmp and kind != "BMP":
            options["xmp"] = self.xmp
        return options


def descriptive(exif: Image.Exif) -> Image.Exif:
    """A copy with only the tags that describe the picture, without the tags of a TIFF file's layout."""
    kept = Image.Exif()
    for tag in _DESCRIPTIVE & set(exif):
        kept[tag] = exif.get_ifd(tag) if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo) else exif[tag]
    copied = Image.Exif()
    copied.load(kept.tobytes())  # as if from a file: `get_ifd` does not find directories assigned by hand
    return copied


def _dpi_of(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if all(math.isfinite(value) and value > 0 for value in (across, down)) else None
