"""Which files earlier versions read as other pictures: what was made of them then is not trusted now."""

from __future__ import annotations

from pathlib import Path

from tifffile import PHOTOMETRIC, PLANARCONFIG, SAMPLEFORMAT, TiffPage

from distill.data.decoding.colours import CMYK_SPACE, colour_space
from distill.data.decoding.decode import ORIENTATION, open_with_pillow, orientation_of
from distill.data.decoding.png import is_deep_png
from distill.data.decoding.tiff import deep_page

# The version of the reader. Raise it when files are read as other pictures than before, and tell in `was_misread` which files.
READER = 2


def was_misread(path: Path, restored: bool = False) -> bool:
    """Whether the first version read another picture in this file, as far as its header tells. Reads no pixels.

    Training misread deep PNG and TIFF files, CMYK with a profile, and an orientation that XMP alone gives. `distill.restore`
    (`restored`) read 16-bit RGB and grey right, and CMYK, but let the colours of hidden pixels into visible ones.
    """
    try:
        with path.open("rb") as file:
            if (page := deep_page(file)) is not None:
                return not (restored and _is_plain_16_bit(page))
            start = file.read(26)
            file.seek(0)
            with open_with_pillow(file) as image:
                if restored and image.has_transparency_data:
                    return True
                has_cmyk_profile = colour_space(image.info.get("icc_profile") or b"") == CMYK_SPACE
                if not restored and (is_deep_png(start, image) or (image.mode == "CMYK" and has_cmyk_profile)):
                    return True
                told = "exif" in image.info or (image.format == "TIFF" and ORIENTATION in image.getexif())
                return not told and orientation_of(image) != 1
    except Exception:  # noqa: BLE001 (a file that is not read is not misread; reading it says what is wrong)
        return False


def _is_plain_16_bit(page: TiffPage) -> bool:
    """Whether a TIFF is RGB or grey of 16 unsigned bits, each pixel's channels together, without alpha, and upright."""
    layout = (page.sampleformat, page.bitspersample, page.planarconfig, page.tags.valueof(ORIENTATION, default=1))
    colours = (page.photometric, page.samplesperpixel)
    plain = layout == (SAMPLEFORMAT.UINT, 16, PLANARCONFIG.CONTIG, 1)
    return plain and colours in ((PHOTOMETRIC.MINISBLACK, 1), (PHOTOMETRIC.RGB, 3))
