"""Pictures come out of a file as they are seen, and go back into one with all that its format holds."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from pictures import SRGB, XMP, exif_of, levels
from PIL import ExifTags, Image, ImageCms, ImageOps

from distill.data.image_files import ImageError, read_image
from distill.data.pixels import reduce_to_8_bits
from distill.pictures.formats import Picture, dropped
from distill.pictures.metadata import Metadata
from distill.pictures.reading import read_picture
from distill.pictures.writing import encode_picture

LOSSLESS = [".png", ".tif"]


def round_trip(picture: Picture, suffix: str, folder: Path) -> Picture:
    path = folder / f"x{suffix}"
    path.write_bytes(encode_picture(picture, suffix))
    return read_picture(path, None)


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_pixels_and_alpha_come_back_equal(suffix: str, dtype: type, colours: int, alpha: bool, tmp_path: Path) -> None:
    picture = Picture(levels((30, 40, colours), dtype), levels((30, 40), dtype, seed=1) if alpha else None)
    again = round_trip(picture, suffix, tmp_path)
    assert again.pixels.dtype == dtype
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    if picture.alpha is None:
        assert again.alpha is None
    else:
        np.testing.assert_array_equal(again.alpha, picture.alpha)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_metadata_comes_back(suffix: str, dtype: type, tmp_path: Path) -> None:
    picture = Picture(levels((30, 40, 3), dtype), None, Metadata(exif_of(1), SRGB, XMP, (144.0, 72.0)))
    again = round_trip(picture, suffix, tmp_path).metadata
    assert again.icc == SRGB
    assert again.xmp == XMP
    assert again.exif[ExifTags.Base.Make] == "Maker"
    assert again.exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "2020:01:01 00:00:00"
    assert again.exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
    if suffix != ".webp":  # has no place for it
        assert again.dpi == pytest.approx((144, 72), abs=0.1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_and_says_so(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(levels((30, 40, 3))).save(path, exif=exif_of(orientation).tobytes(), dpi=(144, 72))
    picture = read_picture(path, None)
    with Image.open(path) as image:
        np.testing.assert_array_equal(picture.pixels, np.asarray(ImageOps.exif_transpose(image)))
    assert picture.metadata.exif[ExifTags.Base.Orientation] == 1
    sizes = picture.metadata.exif.get_ifd(ExifTags.IFD.Exif)
    assert (sizes[ExifTags.Base.ExifImageHeight], sizes[ExifTags.Base.ExifImageWidth]) == picture.pixels.shape[:2]
    assert picture.metadata.dpi == ((144, 72) if orientation < 5 else (72, 144))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["plain", "compressed", "16 bits"])
def test_a_tiff_is_upright_and_says_so(orientation: int, kind: str, tmp_path: Path) -> None:
    """Pillow turns a TIFF itself, and forgets that it did. tifffile turns none."""
    path, stored = tmp_path / "x.tif", levels((30, 40, 3), np.uint16 if kind == "16 bits" else np.uint8)
    tags = [(274, "H", 1, orientation, True)]
    options: dict[str, Any] = {"photometric": "rgb", "resolution": (144, 72), "resolutionunit": "inch", "extratags": tags}
    tifffile.imwrite(path, stored, compression="lzw" if kind == "compressed" else None, **options)
    picture = read_picture(path, None)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    order = Image.fromarray(np.arange(30 * 40, dtype=np.int32).reshape(30, 40))
    order.info["exif"] = exif.tobytes()
    expected = stored.reshape(-1, 3)[np.asarray(ImageOps.exif_transpose(order))]
    np.testing.assert_array_equal(picture.pixels, expected)
    np.testing.assert_array_equal(read_image(path), reduce_to_8_bits(expected))
    assert picture.metadata.dpi == ((144, 72) if orientation < 5 else (72, 144))


@pytest.mark.parametrize("spelling", ["tiff:Orientation='6'", 'tiff:Orientation = "6"', "<tiff:Orientation>6</tiff:Orientation>"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_an_orientation_in_xmp_counts_however_it_is_spelled(spelling: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    pixels = np.tile(np.arange(40, dtype=np.uint8)[None, :, None] * 6, (30, 1, 3))
    path.write_bytes(encode_picture(Picture(pixels, metadata=Metadata(xmp=f"<rdf {spelling}/>".encode())), suffix))
    picture = read_picture(path, None)
    np.testing.assert_allclose(picture.pixels, np.rot90(pixels, -1), atol=3 if suffix == ".jpg" else 0)
    np.testing.assert_array_equal(read_image(path), picture.pixels)
    assert picture.metadata.xmp is not None
    assert b"6" not in picture.metadata.xmp


def test_an_orientation_in_xmp_is_reset(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(
        encode_picture(Picture(levels((30, 40, 3)), None, Metadata(xmp=XMP.replace(b'ation="1"', b'ation="6"'))), ".png")
    )
    picture = read_picture(path, None)
    assert picture.pixels.shape == (40, 30, 3)
    assert picture.metadata.xmp == XMP


def test_cmyk_becomes_rgb_and_loses_a_profile_that_is_not_of_rgb(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    cyan = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    cyan.save(path, quality=95, icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 108)
    picture = read_picture(path, None)
    assert picture.pixels.shape == (32, 32, 3)
    np.testing.assert_allclose(picture.pixels[5, 5], [0, 255, 255], atol=3)
    assert picture.metadata.icc is None
    assert "CMYK profile cannot be used" in picture.notes[0]


def test_cmyk_is_converted_through_its_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Which profile that is: no CMYK profile is small enough to come with a test."""
    asked = []

    def convert(image: Image.Image, source: object, target: object, outputMode: str) -> Image.Image:  # noqa: N803 (Pillow's)
        asked.append((image.mode, source, outputMode))
        return Image.new("RGB", image.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "ImageCmsProfile", lambda file: file.read())
    monkeypatch.setattr(ImageCms, "profileToProfile", convert)
    profile = b"\0" * 16 + b"CMYK" + b"\0" * 108
    Image.new("CMYK", (32, 32)).save(tmp_path / "x.jpg", icc_profile=profile)
    picture = read_picture(tmp_path / "x.jpg", None)
    assert asked == [("CMYK", profile, "RGB")]
    assert picture.pixels[0, 0].tolist() == [1, 2, 3]


def test_palettes_become_rgb_with_their_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(levels((32, 32, 3))).quantize(16)
    image.save(tmp_path / "x.png", transparency=3)
    picture = read_picture(tmp_path / "x.png", None)
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(picture.alpha == 0, np.asarray(image) == 3)


def test_the_transparent_colour_of_a_16_bit_png_becomes_alpha(tmp_path: Path) -> None:
    samples = levels((16, 16, 3), np.uint16)
    data = bytes(encode_picture(Picture(samples), ".png"))
    key = b"tRNS" + struct.pack(">HHH", *samples[2, 5].tolist())
    chunk = struct.pack(">I", 6) + key + struct.pack(">I", zlib.crc32(key))
    (tmp_path / "x.png").write_bytes(data[:33] + chunk + data[33:])
    picture = read_picture(tmp_path / "x.png", None)
    assert picture.alpha is not None
    assert np.argwhere(picture.alpha == 0).tolist() == [[2, 5]]
    assert picture.alpha.max() == 65535


def test_a_grey_profile_is_not_attached_to_rgb(tmp_path: Path) -> None:
    grey = b"\0" * 16 + b"GRAY" + b"\0" * 108
    picture = Picture(levels((16, 16, 1)), None, Metadata(icc=grey))
    assert round_trip(picture, ".png", tmp_path).metadata.icc == grey
    assert round_trip(picture, ".webp", tmp_path).metadata.icc is None  # WebP has no grey


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_an_rgb_profile_is_not_attached_to_grey_and_that_is_told(suffix: str, tmp_path: Path) -> None:
    picture = Picture(levels((16, 16, 1)), None, Metadata(icc=SRGB))
    assert round_trip(picture, suffix, tmp_path).metadata.icc is None
    assert dropped(picture, suffix) == ["its colour profile is not of the kind of colours written, and is left out"]


def test_what_a_format_cannot_hold_is_told(tmp_path: Path) -> None:
    picture = Picture(levels((16, 16, 3), np.uint16), levels((16, 16), np.uint16))
    assert dropped(picture, ".png") == dropped(picture, ".TIF") == []
    assert dropped(picture, ".jpg") == ["JPEG holds no alpha, which is dropped", "JPEG holds 8 bits, to which its 16 are reduced"]
    np.testing.assert_array_equal(round_trip(picture, ".bmp", tmp_path).pixels, np.round(picture.pixels / 257))


def test_only_the_first_page_is_read_and_that_is_told(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", levels((3, 20, 30, 3)), photometric="rgb")
    picture = read_picture(tmp_path / "x.tif", None)
    np.testing.assert_array_equal(picture.pixels, levels((3, 20, 30, 3))[0])
    assert picture.notes == ["only the first of its 3 pages or frames is read"]


def test_the_layout_of_a_tiff_is_not_taken_over_as_metadata(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", levels((20, 30, 3)), photometric="rgb", software="Scanner", metadata=None)
    exif = read_picture(tmp_path / "x.tif", None).metadata.exif
    assert dict(exif) == {ExifTags.Base.Software: "Scanner"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_truncated_file_is_refused(suffix: str, dtype: type, tmp_path: Path) -> None:
    data = bytes(encode_picture(Picture(levels((64, 64, 3), dtype)), suffix))
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=str(path)):
        read_picture(path, None)


def test_too_many_pixels_are_refused_unless_they_are_allowed(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50)).save(tmp_path / "x.png")
    with pytest.raises(ImageError, match=r"100x50 pixels .* --allow-large"):
        read_picture(tmp_path / "x.png", 4999)
    assert read_picture(tmp_path / "x.png", 5000).pixels.shape == (50, 100, 3)


def test_pillows_own_limit_is_lifted_only_while_a_picture_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Image.new("RGB", (100, 50)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_picture(tmp_path / "x.png", 5000).pixels.shape == (50, 100, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.ones((20, 30), np.float32))
    with pytest.raises(ImageError, match="no defined white"):
        read_picture(tmp_path / "x.tif", None)
