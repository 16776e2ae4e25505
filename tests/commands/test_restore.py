"""`distill.restore` from its inputs to the files it leaves, with students whose result is known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import SRGB, exif_of, levels
from PIL import ExifTags, Image, ImageOps
from running import ROOT
from torch import nn

from distill import restore as command
from distill.config import UNetConfig
from distill.data.image_files import ImageError
from distill.networks.student_files import save_student
from distill.pictures.formats import Picture
from distill.pictures.reading import read_picture
from distill.pictures.restorer import Restorer
from distill.pictures.writing import encode_picture
from distill.restore import Format, restore
from restormer.weights import load_restormer
from unet.model import UNet


def student(path: Path, added: float) -> str:
    """The file of one that adds a constant."""
    config = UNetConfig(arch="unet", width=2, depth=2)
    network = UNet(width=2, depth=2)
    nn.init.constant_(network.final.bias, added)
    save_student(path, network, config)
    return str(path)


@pytest.fixture
def identity(tmp_path: Path) -> str:
    return student(tmp_path / "identity.pth", 0)


@pytest.fixture
def brighter(tmp_path: Path) -> str:
    """Adds 51 of 255 levels."""
    return student(tmp_path / "brighter.pth", 0.2)


VISIBLE = levels((40, 50), seed=1) | 1  # an alpha that hides nothing


def write_photos(folder: Path) -> Path:
    """deep.png (16-bit), alpha.png, cmyk.jpg, turned.jpg (EXIF), sub/narrow.png (20x3000) and truncated.png."""
    (folder / "sub").mkdir(parents=True)
    (folder / "deep.png").write_bytes(encode_picture(Picture(levels((33, 50, 3), np.uint16)), ".png"))
    (folder / "alpha.png").write_bytes(encode_picture(Picture(levels((40, 50, 3)), VISIBLE), ".png"))
    cmyk = Image.new("CMYK", (40, 30), (200, 50, 20, 10))
    cmyk.save(folder / "cmyk.jpg", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 108, quality=95)
    ramp = np.tile(np.linspace(0, 150, 40).astype(np.uint8)[None, :, None], (30, 1, 3))
    Image.fromarray(ramp).save(folder / "turned.jpg", exif=exif_of(6).tobytes(), icc_profile=SRGB, quality=95)
    Image.fromarray(levels((3000, 20, 3))).save(folder / "sub" / "narrow.png")
    (folder / "truncated.png").write_bytes((folder / "alpha.png").read_bytes()[:2000])
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def brightened(pixels: np.ndarray, step: int = 51, white: int = 255) -> np.ndarray:
    return np.minimum(pixels.astype(int) + step, white)


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "distill.restore", *map(str, arguments)]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def one_call(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder in which the command has restored photos/ to out/, and how it ended."""
    folder = tmp_path_factory.mktemp("call")
    write_photos(folder / "photos")
    words = command_line("--weights", student(folder / "brighter.pth", 0.2), "photos", "--out", "out", "--device", "cpu")
    return folder, subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)


class TestOneCallOverAllKinds:
    @pytest.fixture
    def photos(self, one_call: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
        return one_call[0] / "photos"

    @pytest.fixture
    def out(self, one_call: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
        return one_call[0] / "out"

    def test_the_bad_file_is_named_in_one_line_and_in_the_status(
        self, one_call: tuple[Path, subprocess.CompletedProcess[str]]
    ) -> None:
        ended = one_call[1]
        assert ended.returncode == 2
        lines = [line for line in ended.stderr.splitlines() if "truncated.png: " in line and "%" not in line]
        assert len(lines) == 1
        assert "1 of 6 images could not be restored" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert ended.stdout == "out: 5 images restored\n"

    def test_16_bits_stay_16(self, out: Path) -> None:
        picture = read_picture(out / "deep.png", None)
        assert picture.pixels.dtype == np.uint16
        np.testing.assert_array_equal(picture.pixels, brightened(levels((33, 50, 3), np.uint16), 13107, 65535))

    def test_alpha_stays_as_it_is(self, out: Path) -> None:
        picture = read_picture(out / "alpha.png", None)
        np.testing.assert_array_equal(picture.alpha, VISIBLE)
        np.testing.assert_array_equal(picture.pixels, brightened(levels((40, 50, 3))))

    def test_cmyk_is_written_as_rgb_without_its_profile(self, photos: Path, out: Path) -> None:
        with Image.open(out / "cmyk.jpg") as image, Image.open(photos / "cmyk.jpg") as before:
            assert image.mode == "RGB"
            assert image.size == (40, 30)
            assert "icc_profile" not in image.info
            expected = brightened(np.asarray(before.convert("RGB")))
            np.testing.assert_allclose(np.asarray(image).astype(int), expected, atol=4)

    def test_a_turned_photograph_is_written_upright_with_its_profile_and_exif(self, photos: Path, out: Path) -> None:
        with Image.open(out / "turned.jpg") as image, Image.open(photos / "turned.jpg") as before:
            assert image.size == (30, 40)
            assert image.info["icc_profile"] == SRGB
            exif = image.getexif()
            assert exif[ExifTags.Base.Orientation] == 1
            assert exif[ExifTags.Base.Make] == "Maker"
            assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] == "2020:01:01 00:00:00"
            expected = brightened(np.asarray(ImageOps.exif_transpose(before)))
            np.testing.assert_allclose(np.asarray(image).astype(int), expected, atol=6)

    def test_a_narrow_picture_keeps_its_size_and_its_place(self, out: Path) -> None:
        picture = read_picture(out / "sub" / "narrow.png", None)
        np.testing.assert_array_equal(picture.pixels, brightened(levels((3000, 20, 3))))

    def test_the_truncated_file_leaves_nothing(self, out: Path) -> None:
        written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        assert written - {".lock", ".restored.json"} == {"alpha.png", "cmyk.jpg", "deep.png", "turned.jpg", "sub/narrow.png"}


def test_what_is_done_is_skipped_and_said(
    photos: Path, identity: str, call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, narrow = tmp_path / "out", photos / "sub" / "narrow.png"
    assert call(command.main, "--weights", identity, photos / "deep.png", narrow, "--out", out) == 0
    os.utime(narrow, (time.time() + 60,) * 2)  # changed since
    written = (out / "deep.png").stat().st_mtime_ns
    assert call(command.main, "--weights", identity, photos / "deep.png", narrow, "--out", out) == 0
    assert "1 images restored, 1 kept: done already" in capsys.readouterr().out
    assert (out / "deep.png").stat().st_mtime_ns == written


def test_results_of_other_weights_are_not_taken_for_done(
    photos: Path, identity: str, brighter: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs, out = [str(photos / "deep.png"), str(photos / "alpha.png")], tmp_path / "out"
    restore(inputs, identity, out)
    restore(inputs[:1], brighter, out)
    assert "its results were made with other weights or another --quality" in caplog.text
    summary = restore(inputs, brighter, out)
    assert [path.name for path in summary.restored] == ["alpha.png"]
    assert [path.name for path in summary.done] == ["deep.png"]
    np.testing.assert_array_equal(read_picture(out / "alpha.png", None).pixels, brightened(levels((40, 50, 3))))


def test_another_quality_is_written(photos: Path, identity: str, tmp_path: Path) -> None:
    sizes = []
    for quality in (30, 95):
        restore([str(photos / "alpha.png")], identity, tmp_path / "out", file_format="jpg", quality=quality)
        sizes.append((tmp_path / "out" / "alpha.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


def test_a_file_that_is_no_result_is_not_replaced_without_a_word(photos: Path, identity: str, tmp_path: Path) -> None:
    own = tmp_path / "out" / "alpha.png"
    own.parent.mkdir()
    own.write_bytes(b"another photograph of this name")
    for made in (1, time.time() + 60):  # older than the input, and newer
        os.utime(own, (made, made))
        with pytest.raises(ImageError, match=r"out/alpha.png: is there, and no result of this command"):
            restore([str(photos / "alpha.png")], identity, tmp_path / "out")
        assert own.read_bytes() == b"another photograph of this name"
    assert restore([str(photos / "alpha.png")], identity, tmp_path / "out", overwrite=True).restored == [own]


def test_overwrite_restores_again(photos: Path, identity: str, brighter: str, tmp_path: Path) -> None:
    for weights in (identity, brighter):
        summary = restore([str(photos / "alpha.png")], weights, tmp_path / "out", overwrite=True)
        assert len(summary.restored) == 1
    np.testing.assert_array_equal(read_picture(tmp_path / "out" / "alpha.png", None).pixels, brightened(levels((40, 50, 3))))


@pytest.mark.parametrize(("file_format", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("tif", "TIFF")])
def test_another_format_can_be_chosen(
    photos: Path, identity: str, tmp_path: Path, file_format: command.Format, kind: str
) -> None:
    restore([str(photos / "turned.jpg")], identity, tmp_path / "out", file_format=file_format)
    with Image.open(tmp_path / "out" / f"turned.{file_format}") as image:
        assert (image.format, image.size, image.info["icc_profile"]) == (kind, (30, 40), SRGB)


def test_quality_decides_the_size_of_a_jpeg(photos: Path, identity: str, tmp_path: Path) -> None:
    sizes = []
    for quality in (30, 95):
        restore([str(photos / "alpha.png")], identity, tmp_path / str(quality), file_format="jpg", quality=quality)
        sizes.append((tmp_path / str(quality) / "alpha.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


def test_compare_writes_the_centres_before_and_after(brighter: str, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encode_picture(Picture(levels((600, 520, 1))), ".png"))
    restore([str(tmp_path / "x.png")], brighter, tmp_path / "out", compare=True)
    pixels = read_picture(tmp_path / "out" / "compare" / "x.png.png", None).pixels
    centre = levels((600, 520, 1))[44:556, 4:516].repeat(3, axis=2)
    np.testing.assert_array_equal(pixels[:, :512], centre)
    np.testing.assert_array_equal(pixels[:, -512:], brightened(centre))


def test_comparisons_asked_for_later_are_made_of_what_has_none(photos: Path, identity: str, tmp_path: Path) -> None:
    inputs = [str(photos / "deep.png"), str(photos / "alpha.png")]
    restore(inputs, identity, tmp_path / "out")
    for asked, made in ((inputs[:1], "deep.png"), (inputs, "alpha.png")):
        summary = restore(asked, identity, tmp_path / "out", compare=True)
        assert [path.name for path in summary.restored] == [made]
        assert (tmp_path / "out" / "compare" / f"{made}.png").is_file()
    assert [path.name for path in summary.done] == ["deep.png"]


def test_a_teacher_restores_too(photos: Path, tmp_path: Path) -> None:
    restore([str(photos / "turned.jpg")], "embedded", tmp_path / "out", file_format="png", device="cpu")
    blurry = read_picture(photos / "turned.jpg", None).pixels
    expected = Restorer(load_restormer("embedded"), torch.device("cpu")).restore(blurry)
    np.testing.assert_array_equal(read_picture(tmp_path / "out" / "turned.png", None).pixels, expected)
    assert not np.array_equal(expected, blurry)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quality", "0"], "--quality: 1 to 100, found 0"),
        (["--device", "cuda:99"], "--device: cuda:99 is not available here"),
        (["--tile", "16"], "--tile: 16 is too small"),
        (["--weights", "embeded"], "did you mean embedded?"),
        (["--weights", "general_studnt"], "did you mean general_student?"),
        (["missing.png"], "missing.png: no such file or folder"),
        (["--format", "png"], "its result would be"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    photos: Path,
    identity: str,
    call: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    Image.fromarray(levels((20, 20, 3))).save(photos / "deep.jpg")
    assert call(command.main, photos, "--out", tmp_path / "out", "--weights", identity, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_large_picture_needs_permission(photos: Path, identity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MAX_PIXELS", 1000)
    inputs = [str(photos / "alpha.png")]
    (error,) = restore(inputs, identity, tmp_path / "out").failed
    assert "50x40 pixels" in str(error)
    assert restore(inputs, identity, tmp_path / "out", allow_large=True).failed == []


def restored_without(
    what: str, source: Path, identity: str, file_format: Format, caplog: pytest.LogCaptureFixture
) -> Image.Image:
    """The written picture, of which the log says that a part of the metadata was left out."""
    out = source.parent / "out"
    assert restore([str(source)], identity, out, file_format=file_format).failed == []
    assert f"{source.name}: its {what} cannot be written, and is left out: " in caplog.text
    return Image.open(out / f"{source.stem}.{file_format}")


@pytest.mark.parametrize("damage", ["too long", "not what the tag holds"])
def test_exif_that_cannot_be_written_is_left_out_and_costs_no_picture(
    identity: str, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "x" * (70000 if damage == "too long" else 100)
    data = exif.tobytes()
    if damage == "not what the tag holds":
        # Text under PageNumber, which is of numbers.
        data = data.replace(b"\x01\x0e\x00\x02", b"\x01\x29\x00\x02")
        assert b"\x01\x29\x00\x02" in data
    Image.fromarray(levels((30, 40, 3))).save(tmp_path / "x.png", exif=data)
    with restored_without("EXIF", tmp_path / "x.png", identity, "jpg", caplog) as image:
        assert image.size == (40, 30)


def test_a_resolution_that_cannot_be_written_is_left_out_and_costs_no_picture(
    identity: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.XResolution], exif[ExifTags.Base.ResolutionUnit] = 4294967295, 2
    Image.fromarray(levels((30, 40, 3))).save(tmp_path / "x.jpg", exif=exif)
    with restored_without("resolution", tmp_path / "x.jpg", identity, "png", caplog) as image:
        assert image.size == (40, 30)
        assert "dpi" not in image.info


def test_a_result_that_is_not_finite_is_named_and_not_written(photos: Path, tmp_path: Path) -> None:
    network = UNet(width=2, depth=2)
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1e30)  # whose products overflow
    save_student(tmp_path / "broken.pth", network, UNetConfig(arch="unet", width=2, depth=2))
    (error,) = restore([str(photos / "alpha.png")], str(tmp_path / "broken.pth"), tmp_path / "out").failed
    assert str(error) == (f"{photos}/alpha.png: the network's image of it is not finite; only --precision fp32 can mend this")
    assert not (tmp_path / "out" / "alpha.png").exists()


def run_out_of_memory(where: str) -> None:
    """As numpy and as torch do it on each device."""
    match where:
        case "numpy":
            np.empty(2**60, np.uint8)
        case "cpu":
            torch.empty(2**60, dtype=torch.uint8)
        case "cuda":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        case "mps":
            raise RuntimeError("MPS backend out of memory (MPS allocated: 17.89 GB, other allocations: 40.00 KB)")
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize("where", ["numpy", "cpu", "cuda", "mps"])
def test_too_little_memory_for_a_tile_is_said(
    photos: Path, identity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(command.Restorer, "restore", lambda *_: run_out_of_memory(where))
    (error,) = restore([str(photos / "alpha.png")], identity, tmp_path / "out").failed
    assert str(error).endswith("alpha.png: there is not enough memory; a smaller --tile needs less")


def test_another_error_of_torchs_is_not_taken_for_it(
    photos: Path, identity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.Restorer, "restore", lambda *_: run_out_of_memory("nowhere"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        restore([str(photos / "alpha.png")], identity, tmp_path / "out")


def test_ctrl_c_ends_with_its_status_and_leaves_no_half_file(identity: str, tmp_path: Path) -> None:
    for index in range(150):
        Image.fromarray(levels((300, 300, 3))).save(tmp_path / f"{index}.png", compress_level=0)
    words = command_line("--weights", identity, tmp_path / "*.png", "--out", "out")
    process = subprocess.Popen(words, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").glob("*.png")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert b"stopped by SIGINT" in said
    written = list((tmp_path / "out").glob("*.png"))
    assert len(written) < 150
    for path in written:
        np.testing.assert_array_equal(read_picture(path, None).pixels, levels((300, 300, 3)))


def test_help_gives_an_example(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(command.main, "--help") == 0
    said = capsys.readouterr().out
    assert "python -m distill.restore --weights runs/quickstart/student_best.pth" in said
    for option in ("--format", "--quality", "--tile", "--device", "--precision", "--overwrite", "--compare", "--allow-large"):
        assert option in said
