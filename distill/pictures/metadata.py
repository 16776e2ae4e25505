"""The metadata in a picture's file: EXIF, XMP, colour profile and resolution."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from distill.data.decoding.colours import CMYK_SPACE, colour_space
from distill.data.decoding.decode import ORIENTATION, XMP_ORIENTATION, Decoded
from distill.data.pixels import SWAPS_AXES

UPRIGHT = 1  # the EXIF orientation of pixels that need no turn

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


@dataclass
class Metadata:
    """A picture's metadata, as it is of the upright pixels."""

    exif: Image.Exif = field(default_factory=Image.Exif)
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down."""

    @classmethod
    def of(cls, decoded: Decoded) -> Metadata:
        """The metadata of the file, changed to describe its upright RGB or grey pixels."""
        info, exif = decoded.info, descriptive(decoded.exif) if decoded.kind == "TIFF" else decoded.exif
        if ORIENTATION in exif:
            exif[ORIENTATION] = UPRIGHT
        sizes, (height, width) = exif.get_ifd(ExifTags.IFD.Exif), decoded.pixels.shape[:2]
        for tag, extent in ((ExifTags.Base.ExifImageWidth, width), (ExifTags.Base.ExifImageHeight, height)):
            if tag in sizes:
                sizes[tag] = extent
        xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
        xmp = xmp.encode(errors="replace") if isinstance(xmp, str) else xmp
        xmp = xmp and XMP_ORIENTATION.sub(rb"\g<1>1", xmp)  # orientation 1; \11 would mean group 11
        icc, dpi = info.get("icc_profile") or None, _dpi_of(info)
        if icc and colour_space(icc) == CMYK_SPACE:
            icc = None
        return cls(exif, icc, xmp or None, dpi[::-1] if dpi and decoded.orientation in SWAPS_AXES else dpi)

    def without(self, names: Collection[str]) -> Metadata:
        """The metadata without its EXIF, XMP or resolution, whichever `names` holds. This object stays as it is."""
        empty: dict[str, dict[str, Any]] = {"EXIF": {"exif": Image.Exif()}, "XMP": {"xmp": None}, "resolution": {"dpi": None}}
        return replace(self, **{key: value for name in names for key, value in empty[name].items()})

    def omissions(self) -> list[tuple[str, ...]]:
        """What to leave out at each attempt to write a file: nothing, then `("XMP",)`, `("EXIF",)` or `("resolution",)`, then two
        of them, then all.

        Metadata that the picture does not have is not named.
        """
        present = [name for name, there in (("XMP", self.xmp), ("EXIF", len(self.exif)), ("resolution", self.dpi)) if there]
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
        if self.dpi and kind not in ("WEBP", "AVIF"):
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


def _dpi_of(info: Mapping[Any, Any]) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if all(math.isfinite(value) and value > 0 for value in (across, down)) else None
