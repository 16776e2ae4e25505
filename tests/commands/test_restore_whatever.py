"""Folders as people have them: every kind of file, odd names, and files that fail each in their own way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from pictures import levels
from PIL import Image

from distill import restore as command
from distill.config import UNetConfig
from distill.data.find import find_images
from distill.data.image_files import read_image
from distill.networks.student_files import save_student
from distill.pictures import reading
from distill.pictures.formats import Picture
from distill.pictures.metadata import Metadata
from distill.pictures.reading import read_picture
from distill.pictures.writing import encode_picture
from distill.restore import restore
from unet.model import UNet

# (30, 40, 3), smooth: JPEG keeps it within a few levels
PIXELS = np.stack([*np.mgrid[40:160:4, 20:180:4], np.full((30, 40), 90)], axis=2).astype(np.uint8)


@pytest.fixture
def identity(tmp_path: Path) -> str:
    """A student that changes nothing."""
    save_student(tmp_path / "identity.pth", UNet(width=2, depth=2), UNetConfig(arch="unet", width=2, depth=2))
    return str(tmp_path / "identity.pth")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Of 30x40 pixels each."""
    (tmp_path / "photos" / "Été [2]").mkdir(parents=True)
    return tmp_path / "photos"


def fill_with_every_kind(photos: Path) -> None:
    image = Image.fromarray(PIXELS)
    for name in ("a b.png", "图 (1).bmp", "Été [2]/ü.PNG", "lzw.TIF", "x.ppm", "x.jpg", "x.jfif", "x.webp", "x.avif"):
        options = {"compression": "tiff_lzw"} if name.endswith("TIF") else {}
        image.save(photos / name, **options)
    image.save(photos / "x.jp2", irreversible=False)
    image.quantize(64).save(photos / "still.gif")
    image.quantize(64).save(photos / "moving.gif", save_all=True, append_images=[image.rotate(180).quantize(64)])
    (photos / "deep.pgm").write_bytes(b"P5 40 30 65535\n" + levels((30, 40), np.uint16).astype(">u2").tobytes())
    for name in ("a.CR2", "Été [2]/b.cr2", "c.exr", ".DS_Store", "._x.png", "notes.txt"):
        (photos / name).write_bytes(b"something else")
    (photos / "cut.png").write_bytes((photos / "a b.png").read_bytes()[:70])
    (photos / "empty.jpg").touch()
    (photos / "folder.png").mkdir()
    (photos / "gone.png").symlink_to("nowhere.png")
    (photos / "loop.png").symlink_to("loop.png")
    os.mkfifo(photos / "pipe.png")


BROKEN = {"moving.gif", "cut.png", "empty.jpg", "gone.png", "loop.png", "pipe.png"}
LOSSLESS = {"a b.png", "图 (1).bmp", "Été [2]/ü.PNG", "lzw.TIF", "x.ppm.png", "x.jp2.png"}


@pytest.mark.parametrize("given", ["", "*", "**"])
def test_one_summary_says_what_became_of_every_file(
    photos: Path,
    identity: str,
    tmp_path: Path,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    given: str,
) -> None:
    fill_with_every_kind(photos)
    out = tmp_path / "out"
    assert call(command.main, "--weights", identity, photos / given if given else photos, "--out", out, "--device", "cpu") == 2
    said = capsys.readouterr()
    assert said.out == f"{out}: 12 images restored\n"
    for name in BROKEN:
        assert caplog.text.count(f"{photos / name}: ") == 1, name
    raw, floating = caplog.messages[-2:]  # after the last picture, where they are seen
    assert raw.startswith("2 .cr2 files not read: develop them")
    assert floating.startswith("1 .exr file not read: floating-point pixels")
    assert "6 of 18 images could not be restored" in said.err
    for name in LOSSLESS:
        np.testing.assert_array_equal(read_picture(out / name, None).pixels, PIXELS)
    deep = read_picture(out / "deep.pgm.png", None).pixels
    np.testing.assert_array_equal(deep[:, :, 0], levels((30, 40), np.uint16))
    quantised = np.asarray(Image.open(photos / "still.gif").convert("RGB"))
    np.testing.assert_array_equal(read_picture(out / "still.gif.png", None).pixels, quantised)
    for name in ("x.jpg", "x.jfif", "x.avif", "x.webp"):
        before, after = (read_picture(folder / name, None).pixels.astype(int) for folder in (photos, out))
        assert np.abs(before - after).mean() < 6


def test_training_finds_and_reads_the_same_pictures(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill_with_every_kind(photos)
    for name in ("x.jpg", "x.jfif", "x.webp", "x.avif", "x.ppm"):
        (photos / name).rename(photos / f"{name}{Path(name).suffix}")  # else they have one stem
    found = find_images(str(photos))
    assert len(found) == 15
    for stem, path in found.items():
        if path.name not in BROKEN:
            picture = read_picture(path, None)
            np.testing.assert_array_equal(read_image(path), command.to_rgb(picture.pixels), err_msg=stem)
    for name in BROKEN & {"gone.png", "loop.png", "pipe.png"}:
        assert caplog.text.count(str(photos / name)) == 1
    assert "2 .cr2 files not read: develop them" in caplog.text


@pytest.mark.parametrize("name", ["gone.png", "loop.png", "pipe.png"])
def test_a_broken_file_that_is_named_itself_ends_no_batch(photos: Path, identity: str, tmp_path: Path, name: str) -> None:
    fill_with_every_kind(photos)
    summary = restore([str(photos / name), str(photos / "a b.png")], identity, tmp_path / "out")
    assert [error.path for error in summary.failed] == [photos / name]
    assert [path.name for path in summary.restored] == ["a b.png"]


def test_a_picture_that_disappears_meanwhile_ends_no_batch(
    photos: Path, identity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(PIXELS).save(photos / name)
    restore([str(photos)], identity, tmp_path / "out")
    real = command.read_picture

    def read_and_remove_the_next(path: Path, limit: int | None) -> Picture:
        (photos / "b.png").unlink(missing_ok=True)
        return real(path, limit)

    os.utime(photos / "a.png", (4e9, 4e9))  # changed, and so read
    monkeypatch.setattr(command, "read_picture", read_and_remove_the_next)
    summary = restore([str(photos)], identity, tmp_path / "out")
    assert [str(error) for error in summary.failed] == [f"{photos / 'b.png'}: No such file or directory"]
    assert [path.name for path in [*summary.restored, *summary.done]] == ["a.png", "c.png"]


def test_a_result_that_no_file_can_hold_ends_no_batch(photos: Path, identity: str, tmp_path: Path) -> None:
    long, longer = f"{'x' * 251}.png", f"{'y' * 250}.webp"
    for name in (long, longer, "folder.png", "last.png"):
        Image.fromarray(PIXELS).save(photos / name)
    (tmp_path / "out" / "folder.png").mkdir(parents=True)
    summary = restore([str(photos)], identity, tmp_path / "out", compare=True)
    assert [error.path for error in summary.failed] == [photos / name for name in ("folder.png", long, longer)]
    assert summary.failed[0].reason == f"its result {tmp_path}/out/folder.png: cannot be written: Is a directory"
    assert "File name too long" in summary.failed[1].reason
    assert [path.name for path in summary.restored] == ["last.png"]
    summary = restore([str(photos)], identity, tmp_path / "tif", file_format="webp")
    assert [error.path for error in summary.failed] == [photos / long]


@pytest.mark.parametrize("find", ["restore", "train"])
def test_a_folder_that_cannot_be_searched_is_named(
    photos: Path, identity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, find: str
) -> None:
    (photos / "closed").mkdir()
    for name in ("a.png", "closed/b.png"):
        Image.fromarray(PIXELS).save(photos / name)
    real = os.scandir

    def scandir(path: str) -> object:
        if os.fspath(path).endswith("closed"):  # root may read any folder
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    if find == "train":
        assert list(find_images(str(photos))) == ["a"]
    else:
        summary = restore([str(photos)], identity, tmp_path / "out")
        assert [error.path for error in summary.failed] == [photos / "closed"]
        assert [path.name for path in summary.restored] == ["a.png"]
    assert f"{photos / 'closed'}: Permission denied" in caplog.text


@pytest.mark.parametrize(("module", "kind", "suffix"), [("pillow_heif", "HEIF", ".heic"), ("pillow_jxl", "JXL", ".jxl")])
def test_kinds_of_plugins_are_read(photos: Path, identity: str, tmp_path: Path, module: str, kind: str, suffix: str) -> None:
    pytest.importorskip(module)
    smooth = np.tile(np.arange(0, 120, 3, dtype=np.uint8)[None, :, None], (30, 1, 3))
    Image.fromarray(smooth).save(photos / f"x{suffix}", kind, quality=90)
    (written,) = restore([str(photos)], identity, tmp_path / "out").restored
    assert written.name == f"x{suffix}.png"
    np.testing.assert_allclose(read_picture(written, None).pixels.astype(int), smooth, atol=8)
    np.testing.assert_array_equal(read_image(photos / f"x{suffix}"), read_picture(written, None).pixels)


def test_a_picture_of_many_kinds_keeps_its_alpha_in_avif(tmp_path: Path) -> None:
    alpha = np.full((32, 32), 128, np.uint8)
    grey = np.full((32, 32, 1), 90, np.uint8)
    (tmp_path / "x.avif").write_bytes(encode_picture(Picture(grey, alpha), ".avif"))
    picture = reading.read_picture(tmp_path / "x.avif", None)
    np.testing.assert_allclose(picture.pixels.astype(int), 90, atol=3)
    np.testing.assert_allclose(picture.alpha, 128, atol=3)


def test_results_of_pictures_that_an_earlier_version_misread_are_made_again(
    photos: Path, identity: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those alone: it restored 16-bit RGB right."""
    out, deep = tmp_path / "out", PIXELS.astype(np.uint16) * 257
    Image.fromarray(PIXELS).save(photos / "plain.jpg")
    for suffix in (".png", ".tif"):
        (photos / f"plain{suffix[1:]}{suffix}").write_bytes(encode_picture(Picture(PIXELS), suffix))
        (photos / f"deep{suffix[1:]}{suffix}").write_bytes(encode_picture(Picture(deep), suffix))
    tifffile.imwrite(photos / "planar.tif", np.moveaxis(deep, 2, 0), photometric="rgb", planarconfig="separate")
    (photos / "alpha.png").write_bytes(encode_picture(Picture(PIXELS, levels((30, 40))), ".png"))
    turned = Metadata(xmp=b"<rdf tiff:Orientation='6'/>")
    (photos / "turned.jpg").write_bytes(encode_picture(Picture(PIXELS, metadata=turned), ".jpg"))
    restore([str(photos)], identity, out)
    record = json.loads((out / ".restored.json").read_text())
    first_version = {key: value for key, value in record.items() if not key.startswith("reader")}
    (out / ".restored.json").write_text(json.dumps(first_version, sort_keys=True))
    for age, paths in ((30, photos.iterdir()), (20, [out / ".restored.json"]), (10, out.glob("[!.]*"))):
        for path in paths:
            os.utime(path, (time.time() - age,) * 2)
    assert restore([str(photos / "plain.jpg")], identity, out).restored == []
    summary = restore([str(photos)], identity, out)
    assert {path.name for path in summary.restored} == {"planar.tif", "alpha.png", "turned.jpg"}
    assert {path.name for path in summary.done} == {"plain.jpg", "plainpng.png", "plaintif.tif", "deeppng.png", "deeptif.tif"}
    assert f"{photos / 'planar.tif'}: an earlier version misread it, and it is restored again" in caplog.text
    assert restore([str(photos)], identity, out).restored == []
