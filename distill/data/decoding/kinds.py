"""The kinds of image files that are read, and what to do about those that are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# Kinds that every version has read. Others may stand in a folder beside an image of the same name that was trained on.
ALWAYS_READ = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
JPEG = (".jpg", ".jpeg", ".jfif")
_HEIC, _JXL = (".heic", ".heif", ".hif"), (".jxl",)
_RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw")
_OTHERS = (".ico", ".pcx", ".psd", ".svg", ".tga", ".xcf")
_NOT_READ = {
    **dict.fromkeys(_HEIC, "pip install pillow-heif"),
    **dict.fromkeys(_JXL, "pip install pillow-jxl-plugin"),
    **dict.fromkeys((".exr", ".hdr", ".pfm"), "floating-point pixels have no defined white; convert them to 8 or 16 bits"),
    **dict.fromkeys(_RAW, "develop them to JPEG, PNG or TIFF first"),
    **dict.fromkeys(_OTHERS, "convert them to PNG"),
}


def _of_plugins() -> set[str]:
    """The suffixes that Pillow reads with the plugins that are installed."""
    found: set[str] = set()
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
        found.update(_HEIC)
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401 (registers itself)

        found.update(_JXL)
    return found


SUFFIXES = ALWAYS_READ | {".avif", ".gif", ".jfif", ".jp2", ".j2k", ".pbm", ".pgm", ".pnm", ".ppm"} | _of_plugins()
UNREAD = {suffix: advice for suffix, advice in _NOT_READ.items() if suffix not in SUFFIXES}


def unread_in_words(unread: Iterable[Path]) -> list[str]:
    """A message for each suffix among the files: `12 .heic files not read: pip install pillow-heif`."""
    counts = Counter(path.suffix.lower() for path in unread)
    return [
        f"{count} {suffix} file{'s' if count > 1 else ''} not read: {UNREAD[suffix]}" for suffix, count in sorted(counts.items())
    ]
