"""Which files earlier versions read as other pictures: what was made of them then is not trusted now."""

from __future__ import annotations

from pathlib import Path

from distill.data.decoding.colours import CMYK_SPACE, colour_space
from distill.data.decoding.decode import ORIENTATION, open_with_pillow, orientation_of
from distill.data.decoding.png import is_deep_png
from distill.data.decoding.tiff import deep_page

# The version of the reader. Raise it when files are read as other pictures than before, and tell in `was_misread` which files.
READER = 2


def was_misread(path: Path, restored: bool = False) -> bool:
    """Whether the first version read another picture in this file, as far as its header tells: deep PNG and TIFF files, CMYK with
    a profile in training, and an orientation that was not honoured. If it `restored` the file, also whether hidden pixels may
    have coloured visible ones."""
    try:
        data = path.read_bytes()
        if is_deep_png(data) or deep_page(data) is not None:
            return True
        with open_with_pillow(data) as image:
            if restored and image.has_transparency_data:
                return True
            if not restored and image.mode == "CMYK":
                return colour_space(image.info.get("icc_profile") or b"") == CMYK_SPACE
            told = "exif" in image.info or (image.format == "TIFF" and ORIENTATION in image.getexif())
            return not told and orientation_of(image) != 1
    except Exception:  # noqa: BLE001 (a file that is not read is not misread; reading it says what is wrong)
        return False
