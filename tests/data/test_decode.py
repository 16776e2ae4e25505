"""Files that decoders misread or reduce come out as what they are: the same picture in training and in `distill.restore`."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from pictures import levels, packed_tiff, png_header, png_of
from PIL import ExifTags, Image, ImageCms

from distill.data.decoding.decode import decode
from distill.data.image_files import ImageError, read_image
from distill.data.pixels import reduce_to_8_bits
from distill.pictures.reading import read_picture

Array = NDArray[Any]
# A file's bytes are written to a path, and the pixels and the alpha that it holds are returned.
Make = Callable[[Path], tuple[Array, Array | None]]
DEEP = levels((40, 50, 3), np.uint16)


def planar(**options: Any) -> Make:
    def make(path: Path) -> tuple[Array, None]:
        tifffile.imwrite(path, np.moveaxis(DEEP, 2, 0), photometric="rgb", planarconfig="separate", **options)
        return DEEP, None

    return make


def packed(bits: int, compression: int, predictor: int) -> Make:
    def make(path: Path) -> tuple[Array, None]:
        white = 2**bits - 1
        samples = np.random.default_rng(bits).integers(0, white, (40, 50), endpoint=True)
        path.write_bytes(packed_tiff(samples, bits, compression, predictor))
        return np.round(samples * 65535 / white).astype(np.uint16)[:, :, None], None

    return make


def white_is_zero(path: Path) -> tuple[Array, None]:
    tifffile.imwrite(path, DEEP[:, :, 0], photometric="miniswhite")
    return 65535 - DEEP[:, :, :1], None


def planar_grey_with_alpha(path: Path) -> tuple[Array, Array]:
    samples = levels((2, 40, 50))
    kind: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "separate", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, samples, compression="zlib", **kind)
    return samples[0][:, :, None], samples[1]


def associated(dtype: type) -> Make:
    """Colours of every level, multiplied into alpha. An alpha of 0 keeps nothing of them."""

    def make(path: Path) -> tuple[Array, Array]:
        white = np.iinfo(dtype).max
        alpha = levels((40, 50), dtype, seed=1)
        alpha[0, :3] = 0, 1, white
        premultiplied = np.round(levels((40, 50, 3), dtype) * (alpha[:, :, None] / white)).astype(dtype)
        samples = np.concatenate([premultiplied, alpha[:, :, None]], axis=2)
        tifffile.imwrite(path, samples, photometric="rgb", extrasamples=["assocalpha"])
        divided = premultiplied * np.float64(white) / np.maximum(alpha, 1)[:, :, None]
        colours = np.where(alpha[:, :, None] > 0, np.floor(divided + 0.5), premultiplied).astype(dtype)
        return colours, alpha

    return make


def unnamed_fourth_channel(dtype: type) -> Make:
    """RGB of four channels that does not say what the fourth one is."""

    def make(path: Path) -> tuple[Array, Array]:
        samples = levels((40, 50, 4), dtype)
        tifffile.imwrite(path, samples, photometric="rgb", extrasamples=["unassalpha"], software="x", byteorder="<")
        set_tag(path, 338, struct.pack("<HHII", 339, 3, 1, 1))  # the tag becomes a second one that says that pixels are unsigned
        return samples[:, :, :3], samples[:, :, 3]

    return make


def set_tag(path: Path, tag: int, entry: bytes) -> None:
    """Replaces a tag's 12 bytes: number, type, count and value."""
    with tifffile.TiffFile(path) as file:
        at = file.pages.first.tags[tag].offset
    data = path.read_bytes()
    path.write_bytes(data[:at] + entry + data[at + 12 :])


def deep_png(colour: int, channels: int) -> Make:
    def make(path: Path) -> tuple[Array, Array | None]:
        samples = levels((40, 50, channels), np.uint16)
        path.write_bytes(png_of_16_bits(samples, colour))
        colours = 1 if channels < 3 else 3
        return samples[:, :, :colours], samples[:, :, colours] if channels > colours else None

    return make


def deep_png_with_a_key(colour: int, channels: int) -> Make:
    """One colour is transparent: that of the pixel in row 3, column 4, and of no other."""

    def make(path: Path) -> tuple[Array, Array]:
        samples = levels((40, 50, channels), np.uint16)
        key = samples[3, 4]
        path.write_bytes(png_of_16_bits(samples, colour, (b"tRNS", key.astype(">u2").tobytes())))
        return samples, np.where((samples == key).all(axis=2), 0, 65535).astype(np.uint16)

    return make


def png_of_16_bits(samples: Array, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = png_header(samples.shape[1], samples.shape[0], 16, colour)
    return png_of(header, *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def grey_png_with_a_key(depth: int) -> Make:
    def make(path: Path) -> tuple[Array, Array]:
        white = 2**depth - 1
        samples = np.random.default_rng(depth).integers(0, white, (40, 48), np.uint8, endpoint=True)
        bits = np.unpackbits(samples[:, :, None], axis=2)[:, :, 8 - depth :].reshape(40, -1)
        rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
        key = (b"tRNS", struct.pack(">H", white))
        path.write_bytes(png_of(png_header(48, 40, depth, 0), key, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
        return (samples * (255 // white))[:, :, None], np.where(samples == white, 0, 255).astype(np.uint8)

    return make


KINDS: dict[str, Make] = {
    "planar.tif": planar(),
    "planar, deflate.tif": planar(compression="zlib"),
    "planar, LZW and predictor.tif": planar(compression="lzw", predictor=True),
    "planar, tiles.tif": planar(tile=(16, 16)),
    "planar, big-endian.tif": planar(byteorder=">"),
    "RGB of 8 bits and an unnamed channel.tif": unnamed_fourth_channel(np.uint8),
    "RGB of 16 bits and an unnamed channel.tif": unnamed_fourth_channel(np.uint16),
    "planar grey and alpha.tif": planar_grey_with_alpha,
    "white is zero.tif": white_is_zero,
    "associated alpha of 8 bits.tif": associated(np.uint8),
    "associated alpha of 16 bits.tif": associated(np.uint16),
    **{f"{bits} bits.tif": packed(bits, 1, 1) for bits in (10, 12, 14)},
    **{f"{bits} bits, deflate and predictor.tif": packed(bits, 8, 2) for bits in (10, 12, 14)},
    "grey and alpha of 16 bits.png": deep_png(4, 2),
    "RGB of 16 bits.png": deep_png(2, 3),
    "RGBA of 16 bits.png": deep_png(6, 4),
    "grey of 16 bits with a key.png": deep_png_with_a_key(0, 1),
    "RGB of 16 bits with a key.png": deep_png_with_a_key(2, 3),
    **{f"grey of {depth} bits with a key.png": grey_png_with_a_key(depth) for depth in (1, 2, 4)},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_read_as_what_it_is(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    pixels, alpha = KINDS[name](path)
    picture = read_picture(path, None)
    assert picture.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert (picture.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(picture.alpha, alpha)
    assert picture.notes == []


@pytest.mark.parametrize("name", KINDS)
def test_training_reads_the_same_picture_rounded_to_8_bits(name: str, tmp_path: Path) -> None:
    pixels, _ = KINDS[name](tmp_path / name)
    expected = np.broadcast_to(reduce_to_8_bits(pixels), (*pixels.shape[:2], 3))
    np.testing.assert_array_equal(read_image(tmp_path / name), expected)


@pytest.mark.parametrize("read", [read_image, lambda path: read_picture(path, None)])
@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (levels((20, 30)).view(np.int8), "signed pixels"),
        (levels((20, 30), np.uint16).view(np.int16), "signed pixels"),
        (np.ones((20, 30), np.float32), "floating-point pixels have no defined white"),
        (np.ones((20, 30, 3), np.float16), "floating-point pixels have no defined white"),
        (levels((20, 30, 3), np.uint32), "RGB, 32 bits"),
    ],
)
def test_pixels_without_8_or_16_unsigned_bits_are_refused_by_name(
    read: Callable[[Path], object], samples: Array, words: str, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb" if samples.ndim == 3 else "minisblack")
    with pytest.raises(ImageError, match=words):
        read(tmp_path / "x.tif")


def test_channels_of_different_depths_are_refused_by_name(tmp_path: Path) -> None:
    """RGB of 5, 6 and 5 bits."""
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, levels((20, 30, 3)), photometric="rgb", byteorder="<")
    data = path.read_bytes()
    eights = struct.pack("<HHH", 8, 8, 8)
    assert data.count(eights) == 1
    path.write_bytes(data.replace(eights, struct.pack("<HHH", 5, 6, 5)))
    with pytest.raises(ImageError, match=r"a TIFF of a kind that is not read \(RGB, \(5, 6, 5\) bits\)"):
        read_image(path)


def test_more_channels_than_a_picture_has_are_refused_by_their_number(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", levels((20, 30, 20)), photometric="minisblack", planarconfig="contig")
    with pytest.raises(ImageError, match="more than 16 channels"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_channels_that_are_no_alpha_are_left_out_and_named(dtype: type, tmp_path: Path) -> None:
    samples = levels((20, 30, 5), dtype)
    extra = ["unspecified", "unassalpha"]
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="rgb", planarconfig="contig", extrasamples=extra)
    picture = read_picture(tmp_path / "x.tif", None)
    np.testing.assert_array_equal(picture.pixels, samples[:, :, :3])
    np.testing.assert_array_equal(picture.alpha, samples[:, :, 4])
    assert picture.notes == ["1 of its channels are neither colour nor alpha, and are left out"]


def test_cmyk_of_16_bits_is_read_as_8_and_that_is_said(tmp_path: Path) -> None:
    samples = levels((20, 30, 4), np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="separated")
    picture = read_picture(tmp_path / "x.tif", None)
    expected = np.asarray(Image.fromarray(reduce_to_8_bits(samples), "CMYK").convert("RGB"))
    np.testing.assert_array_equal(picture.pixels, expected)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif"), expected)
    assert picture.notes == ["CMYK of 16 bits is read as 8 bits"]


@pytest.mark.parametrize(("white", "notes"), [(255, []), (65535, ["its 16 bits are read as 8"])])
def test_a_ppm_of_16_bits_is_read_as_8_and_that_is_said(white: int, notes: list[str], tmp_path: Path) -> None:
    samples = (levels((20, 30, 3)).astype(np.uint16) * (white // 255)).astype(">u2" if white > 255 else np.uint8)
    (tmp_path / "x.ppm").write_bytes(b"P6 30 20 %d\n" % white + samples.tobytes())
    picture = read_picture(tmp_path / "x.ppm", None)
    np.testing.assert_array_equal(picture.pixels, levels((20, 30, 3)))
    assert picture.notes == notes


@pytest.mark.parametrize(("bits", "notes"), [(8, []), (12, ["its 12 bits are read as 8"]), (16, ["its 16 bits are read as 8"])])
def test_a_jpeg_2000_in_colour_is_read_as_8_bits_and_that_is_said(bits: int, notes: list[str], tmp_path: Path) -> None:
    samples = levels((20, 30, 3)).astype(np.uint8 if bits == 8 else np.uint16)
    for suffix in ("jp2", "j2k"):
        data = imagecodecs.jpeg2k_encode(samples << (bits - 8), level=0, bitspersample=bits, codecformat=suffix, mct=False)
        (tmp_path / f"x.{suffix}").write_bytes(data)
        picture = read_picture(tmp_path / f"x.{suffix}", None)
        np.testing.assert_array_equal(picture.pixels, levels((20, 30, 3)))
        assert picture.notes == notes


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_an_avif_is_read_as_8_bits_and_that_is_said(bits: int, tmp_path: Path) -> None:
    samples = np.full((20, 30, 3), 200, np.uint8 if bits == 8 else np.uint16) << (bits - 8)
    (tmp_path / "x.avif").write_bytes(imagecodecs.avif_encode(samples, level=100, bitspersample=bits))
    picture = read_picture(tmp_path / "x.avif", None)
    np.testing.assert_allclose(picture.pixels.astype(int), 200, atol=2)  # YCbCr rounds
    assert picture.notes == ([] if bits == 8 else [f"its {bits} bits are read as 8"])


def jxl_of_a_turned_jpeg(path: Path) -> Array:
    """A JPEG that EXIF turns by 90 degrees, packed without loss as cjxl does. Returns the JPEG's pixels as they are seen."""
    stored = np.tile(np.arange(0, 240, 6, dtype=np.uint8)[None, :, None], (24, 1, 3))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(stored).save(path.with_suffix(".jpg"), exif=exif, quality=95)
    with warnings.catch_warnings(), Image.open(path.with_suffix(".jpg")) as image:
        warnings.simplefilter("ignore")  # the plugin's, about what it does
        image.save(path, "JXL")
    return np.rot90(stored, -1)


@pytest.mark.parametrize("packed_jpeg", [True, False])
def test_a_jpeg_xl_is_turned_once(packed_jpeg: bool, tmp_path: Path) -> None:
    """It has an orientation of its own beside EXIF's. The decoder applies it, unless it gives back the JPEG."""
    pytest.importorskip("pillow_jxl")
    path = tmp_path / "x.jxl"
    upright = jxl_of_a_turned_jpeg(path)
    data = path.read_bytes()
    if not packed_jpeg:  # the box of what rebuilds the JPEG is left out
        at = data.index(b"jbrd") - 4
        path.write_bytes(data[:at] + data[at + struct.unpack_from(">I", data, at)[0] :])
    picture = read_picture(path, None)
    np.testing.assert_allclose(picture.pixels.astype(int), upright, atol=4)  # JPEG's loss
    np.testing.assert_array_equal(read_image(path), picture.pixels)
    assert picture.metadata.exif.get(ExifTags.Base.Orientation, 1) == 1
    assert picture.notes == ([] if packed_jpeg else ["a JPEG XL is read as 8 bits"])


@pytest.mark.parametrize("kind", [b"iCCP", b"cLLI", b"gAMA"])
def test_a_png_is_read_without_a_damaged_chunk_about_its_colours(kind: bytes, tmp_path: Path) -> None:
    Image.fromarray(levels((20, 30, 3))).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    chunk = struct.pack(">I", 9) + kind + b"of colour" + b"\1\2\3\4"  # not its checksum
    (tmp_path / "x.png").write_bytes(data[:33] + chunk + data[33:])
    picture = read_picture(tmp_path / "x.png", None)
    np.testing.assert_array_equal(picture.pixels, levels((20, 30, 3)))
    assert picture.notes == [f"what it says about its colours is damaged, and is left out ({kind.decode()})"]
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), levels((20, 30, 3)))


def test_another_damaged_chunk_refuses_the_file(tmp_path: Path) -> None:
    Image.fromarray(levels((20, 30, 3))).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(data[:33] + struct.pack(">I", 2) + b"tRNS" + b"\0\0" + b"\1\2\3\4" + data[33:])
    with pytest.raises(ImageError):
        read_picture(tmp_path / "x.png", None)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_truncated_deep_tiff_is_refused(compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, DEEP, photometric="rgb", compression=compression, rowsperstrip=8)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        (284, 258, "its header is damaged"),  # where the channels of a pixel are: tifffile would leave memory as it is
        (322, 2**21, "its header is damaged"),  # the width of a tile
        (277, 60000, "is damaged|is truncated|are damaged"),  # channels
    ],
)
def test_a_deep_tiff_whose_header_is_damaged_is_refused_before_it_takes_memory(
    tag: int, value: int, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.moveaxis(DEEP, 2, 0), photometric="rgb", planarconfig="separate", tile=(16, 16), byteorder="<")
    set_tag(path, tag, struct.pack("<HHII", tag, 4, 1, value))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=words):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 10**8
    finally:
        tracemalloc.stop()


def test_counts_of_bytes_that_are_wrong_do_no_harm_where_the_pixels_are_there(tmp_path: Path) -> None:
    samples = levels((20, 30), np.uint16)
    data = packed_tiff(samples, bits=16)
    count = struct.pack("<HHII", 279, 4, 1, samples.nbytes)
    assert count in data
    (tmp_path / "x.tif").write_bytes(data.replace(count, struct.pack("<HHII", 279, 4, 1, 10**6)))
    np.testing.assert_array_equal(read_picture(tmp_path / "x.tif", None).pixels[:, :, 0], samples.byteswap())


def test_a_tall_picture_is_not_converted_in_thousands_of_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes several milliseconds in Lab, so that a file of 2 kB of 24x2771273 pixels took minutes."""
    Image.new("LAB", (16, 60_000)).save(tmp_path / "x.tif", compression="tiff_lzw")
    built = []
    real = ImageCms.buildTransform
    monkeypatch.setattr(ImageCms, "buildTransform", lambda *options: built.append(options) or real(*options))
    assert read_image(tmp_path / "x.tif").shape == (60_000, 16, 3)
    assert 1 <= len(built) < 5


def test_no_library_warns_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff writes to the file descriptor. It knows no predictor for 4 bits."""
    path = tmp_path / "x.tif"
    path.write_bytes(packed_tiff(levels((20, 30)) // 16, bits=4, compression=8, predictor=2))
    with pytest.raises(ImageError, match="its pixels are damaged, or compressed in a way that is not read"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_no_library_logs_what_it_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, levels((20, 30, 3)), photometric="rgb", byteorder="<")
    set_tag(path, 277, struct.pack("<HHII", 277, 3, 1, 2048))  # channels
    with pytest.raises(ImageError):
        read_image(path)
    assert caplog.messages == []


def test_the_terminal_is_there_again_after_several_threads_have_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(levels((200, 300, 3))).save(path, compression="tiff_lzw")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(read_image, [path] * 200))
    os.write(2, b"said\n")
    assert capfd.readouterr().err == "said\n"


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_is_read_whose_next_page_is_nowhere(bits: int, tmp_path: Path) -> None:
    pixels = np.arange(24 * 20 * 3, dtype=np.uint8).reshape(24, 20, 3).astype(f"uint{bits}")
    tifffile.imwrite(tmp_path / "a.tif", np.stack([pixels, pixels]), photometric="rgb", byteorder="<")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, 999_999)  # behind the first page's entries
    decoded = decode(bytes(data), None)
    assert np.array_equal(decoded.pixels, pixels)
    # Of 16 bits, tifffile counts the pages that it finds.
    assert decoded.notes == (["only its first page or frame is read; what follows is damaged"] if bits == 8 else [])


def test_a_tiff_is_read_where_standard_error_is_closed(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (10, 20, 30)).save(tmp_path / "a.tif", compression="tiff_lzw")
    program = "import sys; from pathlib import Path; from distill.data.image_files import read_image;"
    program += "print(read_image(Path(sys.argv[1])).mean())"
    command = f"'{sys.executable}' -c '{program}' '{tmp_path / 'a.tif'}' 2>&-"
    assert subprocess.run(command, shell=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout == "20.0\n"


@pytest.mark.parametrize("module", ["pillow_heif", "pillow_jxl"])
def test_reading_alone_registers_the_plugins(module: str) -> None:
    pytest.importorskip(module)
    code = f"import sys, distill.data.image_files; assert {module!r} in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


class Panic(BaseException):
    """As the panics of an extension in Rust: no Exception."""


def test_the_panic_of_an_extension_is_an_error_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Panic.__name__ = "PanicException"

    def panic(*_: object) -> None:
        raise Panic("index out of bounds")

    monkeypatch.setattr(Image, "open", panic)
    Path(tmp_path / "x.bmp").write_bytes(b"BM")
    for read in (read_image, lambda path: read_picture(path, None)):
        with pytest.raises(ImageError, match=r"x\.bmp: its data is damaged"):
            read(tmp_path / "x.bmp")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "there is not enough memory for its pixels"),
        (EOFError(), "its data is damaged, or of a kind that is not read"),
        (OSError("decoder error -2"), "its pixels are damaged, or compressed in a way that is not read"),
        (KeyError("RGBX;32"), "its data is damaged, or of a kind that is not read ('RGBX;32')"),
    ],
)
def test_a_reason_is_a_sentence(error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    Path(tmp_path / "x.bmp").write_bytes(b"BM")
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "x.bmp")
    assert caught.value.reason == reason


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_is_no_error_of_a_file(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", stop)
    Path(tmp_path / "x.bmp").write_bytes(b"BM")
    for read in (read_image, lambda path: read_picture(path, None)):
        with pytest.raises(error):
            read(tmp_path / "x.bmp")
