"""Every kind of image file becomes RGB uint8 as a person sees it; what is no image is refused by name."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import png_header, png_of
from PIL import Image

from distill.data.image_files import ImageError, read_image, warn_of_16_bits, write_image


@pytest.fixture
def pixels() -> np.ndarray:
    """(20, 30, 3), smooth: JPEG keeps it within a few levels."""
    y, x = np.mgrid[0:20, 0:30]
    return np.stack([x * 8, y * 12, 255 - x * 4 - y * 4], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_lossless_rgb_is_read_as_it_is(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), pixels)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_rgb_is_close(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", quality=95)
    assert np.abs(read_image(tmp_path / f"a.{suffix}").astype(int) - pixels).mean() < 4


def test_grey_is_repeated(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(pixels[:, :, :1], 3, axis=2))


def test_alpha_is_dropped(tmp_path: Path, pixels: np.ndarray) -> None:
    alpha = np.full((20, 30, 1), 100, np.uint8)
    Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 200, 10], [3, 4, 250]], np.uint8)
    index = np.arange(600).reshape(20, 30) % 3
    image = Image.fromarray(index.astype(np.uint8), mode="P")
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), colours[index])


def test_cmyk_is_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (20, 20), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=100)
    cyan = read_image(tmp_path / "a.jpg").mean(axis=(0, 1))
    assert cyan[0] < 5
    assert cyan[1:].min() > 250


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    levels = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / f"a.{suffix}")
    expected = np.round(levels / 257).astype(np.uint8)
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), np.repeat(expected[:, :, None], 3, axis=2))


def test_16_bit_colour_is_scaled(tmp_path: Path, pixels: np.ndarray) -> None:
    """Pillow writes no such file, so the PNG is put together here."""
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in pixels)
    png = png_of(png_header(30, 20, 16, 2), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    (tmp_path / "a.png").write_bytes(png)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize(("orientation", "turn"), [(6, -1), (8, 1), (3, 2)])
def test_exif_rotation_is_applied(tmp_path: Path, pixels: np.ndarray, orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(pixels, turn))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", "an empty file"),
        ("text.png", b"these are not pixels", "not an image"),
        ("none.png", None, "No such file"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: {caught.value.reason}"
    assert caught.value.path == tmp_path / name
    assert name not in caught.value.reason


def test_an_error_keeps_what_it_carries_on_its_way_between_processes(tmp_path: Path) -> None:
    sent = pickle.loads(pickle.dumps(ImageError("truncated", tmp_path / "a: b.png")))
    assert (str(sent), sent.path, sent.reason) == (f"{tmp_path}/a: b.png: truncated", tmp_path / "a: b.png", "truncated")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp", "bmp"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageError):
        read_image(path)


def announce(data: bytes, suffix: str, side: int) -> bytes:
    """The header of an image file with another side; what follows it stays."""
    if suffix == "png":
        header = struct.pack(">4sII", b"IHDR", side, side) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if suffix == "bmp":
        return data[:18] + struct.pack("<ii", side, side) + data[26:]
    if suffix == "jpg":
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", side, side) + data[at + 4 :]
    return set_tiff_tags(data, {256: (4, struct.pack("<I", side)), 257: (4, struct.pack("<I", side))})


def set_tiff_tags(data: bytes, tags: dict[int, tuple[int, bytes]]) -> bytes:
    """A TIFF file with other {tag: (type, value of 4 bytes)}."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from("<H", data, at)
        if tag in tags:
            kind, value = tags[tag]
            data = data[:at] + struct.pack("<HHI", tag, kind, 1) + value + data[at + 12 :]
    return data


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "jpg"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_that_says_it_is_too_large_for_memory_is_refused_by_its_size(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new(mode, (20, 20)).save(path)
    path.write_bytes(announce(path.read_bytes(), suffix, 50_000))
    with pytest.raises(ImageError, match=r"50000x50000 pixels are more than 179 megapixels"):
        read_image(path)


@pytest.mark.parametrize("mode", ["RGBA", "L", "I;16"])
def test_no_image_is_copied_whole_on_its_way_from_pillow(tmp_path: Path, mode: str) -> None:
    """A PNG of half a megabyte can have 179 million pixels, and there is a loader worker for every processor."""
    Image.new(mode, (1500, 1500)).save(tmp_path / "a.png")
    tracemalloc.start()
    try:
        pixels = read_image(tmp_path / "a.png")
        assert tracemalloc.get_traced_memory()[1] < 2 * pixels.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("mode", "tag", "value", "reason"),
    [
        (
            "RGB",
            273,
            (11, struct.pack("<f", 8)),
            "'float' object cannot be",
        ),  # where the pixels begin, as a floating-point number
        ("P", 320, (4, struct.pack("<I", 2**31)), "unsigned byte integer is"),  # a palette of one colour, which is no byte
    ],
)
def test_what_pillow_fails_over_is_refused(tmp_path: Path, mode: str, tag: int, value: tuple[int, bytes], reason: str) -> None:
    path = tmp_path / "a.tiff"
    Image.new(mode, (20, 20)).save(path)
    path.write_bytes(set_tiff_tags(path.read_bytes(), {tag: value}))
    with pytest.raises(ImageError, match=rf"a\.tiff: its data is damaged, or of a kind that is not read \({reason}"):
        read_image(path)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 20), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ImageError, match="floating-point"):
        read_image(tmp_path / "a.tiff")


def test_an_image_below_16_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (40, 15)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="40x15 pixels"):
        read_image(tmp_path / "a.png")


def test_a_written_image_reads_back(tmp_path: Path, pixels: np.ndarray) -> None:
    write_image(tmp_path / "new" / "a.png", pixels)
    assert np.array_equal(read_image(tmp_path / "new" / "a.png"), pixels)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_plain_png_has_the_pixels_that_pillow_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (37, 50, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", None)  # not needed
        assert np.array_equal(read_image(path), noise)
    assert np.array_equal(np.asarray(Image.open(path)), noise)


@pytest.mark.parametrize("kind", ["orientation", "transparent colour", "a byte changed", "its end cut off"])
def test_what_is_no_plain_png_is_left_to_pillow(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[274] = 3  # upside down
    options = {"orientation": {"exif": exif}, "transparent colour": {"transparency": (1, 2, 3)}}.get(kind, {})
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    whole = path.read_bytes()
    if kind == "a byte changed":
        path.write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    elif kind == "its end cut off":
        path.write_bytes(whole[: len(whole) // 2])
    if options:
        assert np.array_equal(read_image(path), pixels[::-1, ::-1] if kind == "orientation" else pixels)
    else:
        with pytest.raises(ImageError, match=r"a\.png: .*(damaged|truncated)"):
            read_image(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_that_16_bits_are_rounded_is_said_once(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    plain, deep = [tmp_path / f"{number}.{suffix}" for number in range(4)], [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in plain:
        Image.new("L", (20, 20)).save(path)
    for path in deep:
        Image.new("I;16", (20, 20)).save(path)
    warn_of_16_bits([*plain, tmp_path / "missing.png"])
    assert caplog.messages == []
    warn_of_16_bits([*plain, *deep])
    assert caplog.messages == [
        f"{deep[0]} has 16 bits a channel: such images are rounded to 8 bits, which networks are trained on"
    ]
