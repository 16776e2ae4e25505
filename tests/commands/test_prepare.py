"""The command: the folders that the cached configurations read, the same whoever makes them, and never a mixture of two."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import error_line
from pictures import levels
from PIL import Image
from trees import files

from distill import prepare as prepare_command
from distill.config import load_config
from distill.pictures.formats import Picture
from distill.pictures.writing import encode_picture

ROOT = Path(__file__).parents[2]
Call = Callable[..., int]


@pytest.mark.parametrize(("name", "out"), [("div2k_cached", "data/div2k"), ("seed", "data")])
def test_it_makes_the_folders_that_the_cached_configurations_read(
    sharp_folder: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str], name: str, out: str
) -> None:
    assert call(prepare_command.main, "--sharp", sharp_folder, "--out", tmp_path / out, "--patch", 32) == 0
    # six images of 64 to 69 by 80 pixels: one for the benchmark, one for tests
    assert "patches of 32x32: 16 for training, 4 for tests, 4 for the benchmark" in capsys.readouterr().out
    data = load_config(ROOT / "configs" / f"{name}.yaml").data
    for images, count in ((data, 16), (data.val, 4)):
        for folder in (images.sharp, images.blurry):
            assert len(list((tmp_path / str(folder)).rglob("*.png"))) == count


def test_workers_and_interruptions_change_no_byte(sharp_folder: Path, tmp_path: Path, call: Call) -> None:
    options = ["--sharp", sharp_folder, "--patch", 32, "--degrade", "bicubic_x4_motion", "--seed", 3]
    for name, workers in (("zero", 0), ("two", 2)):
        assert call(prepare_command.main, *options, "--out", tmp_path / name, "--workers", workers) == 0
    assert files(tmp_path / "zero", "*.png") == files(tmp_path / "two", "*.png")
    whole = files(tmp_path / "two", "*.png")
    assert len(whole) == 48
    for number, path in enumerate(sorted((tmp_path / "two").rglob("*.png"))):
        if number % 5 == 0:
            path.unlink()
    (tmp_path / "two" / "sharp" / ".x.png.17.tmp").write_bytes(b"half a patch")
    assert call(prepare_command.main, *options, "--out", tmp_path / "two") == 0
    assert files(tmp_path / "two", "*.png") == whole
    assert not list((tmp_path / "two").rglob("*.tmp"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--patch", 16], "holds patches of other settings (patch)"),
        (["--seed", 1], "other settings (seed)"),
        (["--degrade", "[{kind: noise, sigma: [1, 2]}]"], "other settings (degrade)"),
        (["--quality", 75], "other settings (quality)"),
    ],
)
def test_another_data_set_in_the_folder_is_not_mixed_in(
    sharp_folder: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str], changed: list[object], words: str
) -> None:
    first = ["--sharp", sharp_folder, "--out", tmp_path / "data", "--patch", 32]
    assert call(prepare_command.main, *first) == 0
    before = files(tmp_path / "data", "*.png")
    assert call(prepare_command.main, *first, *changed) == 2
    assert words in error_line(capfd)
    assert files(tmp_path / "data", "*.png") == before


def test_patches_of_another_split_or_other_names_are_not_added_to(
    sharp_folder: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--sharp", sharp_folder, "--out", tmp_path / "data", "--patch", 32]
    assert call(prepare_command.main, *options) == 0
    record = tmp_path / "data" / "prepare.json"
    before = json.loads(record.read_text())
    del before["layout"]  # as the first versions wrote it
    record.write_text(json.dumps(before))
    assert call(prepare_command.main, *options) == 2
    assert "other settings (layout)" in error_line(capfd)


@pytest.mark.parametrize("deep", [True, False])
def test_patches_of_images_that_an_earlier_version_misread_are_refused_by_name(
    sharp_folder: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str], deep: bool
) -> None:
    shutil.copytree(sharp_folder, tmp_path / "photos")
    if deep:
        (tmp_path / "photos" / "2.png").write_bytes(encode_picture(Picture(levels((64, 80, 3), np.uint16)), ".png"))
    options = ["--sharp", tmp_path / "photos", "--out", tmp_path / "data", "--patch", 32]
    assert call(prepare_command.main, *options) == 0
    record = tmp_path / "data" / "prepare.json"
    before = json.loads(record.read_text())
    record.write_text(json.dumps({key: value for key, value in before.items() if key != "reader"}))
    assert call(prepare_command.main, *options) == (2 if deep else 0)
    if deep:
        assert f"an earlier version misread ({tmp_path}/photos/2.png)" in error_line(capfd)
    else:
        assert json.loads(record.read_text()) == before


def test_what_is_rounded_and_what_is_passed_over_is_said_once(
    sharp_folder: Path, tmp_path: Path, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(sharp_folder, tmp_path / "photos")
    (tmp_path / "photos" / "2.png").write_bytes(encode_picture(Picture(levels((64, 80, 3), np.uint16)), ".png"))
    (tmp_path / "photos" / "a.cr2").touch()
    (tmp_path / "photos" / "gone.png").symlink_to("nowhere.png")
    assert call(prepare_command.main, "--sharp", tmp_path / "photos", "--out", tmp_path / "data", "--patch", 32) == 0
    assert caplog.text.count("has 16 bits a channel") == 1
    assert caplog.text.count(f"{tmp_path}/photos: 1 .cr2 file not read: develop them to JPEG, PNG or TIFF first") == 1
    assert caplog.text.count(f"{tmp_path}/photos/gone.png: a link that leads to no file") == 1


def test_an_added_image_would_move_others_between_the_parts_and_is_refused(
    sharp_folder: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sharp_folder, tmp_path / "photos")
    options = ["--sharp", tmp_path / "photos", "--out", tmp_path / "data", "--patch", 32]
    assert call(prepare_command.main, *options) == 0
    shutil.copy(sharp_folder / "0.png", tmp_path / "photos" / "new.png")
    assert call(prepare_command.main, *options) == 2
    assert "other settings (images)" in error_line(capfd)


def test_images_of_the_same_names_are_not_taken_for_the_same_and_a_moved_folder_is(
    sharp_folder: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "moved", "second"):
        shutil.copytree(sharp_folder, tmp_path / name)
    Image.new("RGB", (80, 64)).save(tmp_path / "second" / "0.png")
    options = ["--out", tmp_path / "data", "--patch", 32, "--sharp"]
    assert call(prepare_command.main, *options, tmp_path / "first") == 0
    assert call(prepare_command.main, *options, tmp_path / "moved") == 0
    assert call(prepare_command.main, *options, tmp_path / "second") == 2
    assert "other settings (images)" in error_line(capfd)


def test_a_folder_that_another_program_filled_is_left_alone(
    sharp_folder: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "sharp" / "train" / "train").mkdir(parents=True)
    (tmp_path / "data" / "sharp" / "train" / "train" / "0_0_0.jpg").write_bytes(b"the original project's")
    assert call(prepare_command.main, "--sharp", sharp_folder, "--out", tmp_path / "data", "--patch", 32) == 2
    assert "that this command did not write" in error_line(capfd)
    assert [path.name for path in (tmp_path / "data").rglob("*.*g")] == ["0_0_0.jpg"]


@pytest.mark.parametrize(
    ("sharp", "out"),
    [("photos", "photos"), ("photos", "photos/sub/../patches"), ("photos/*", "photos/new/patches"), ("photos/sharp", "photos")],
)
def test_patches_among_the_images_are_refused(
    sharp_folder: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str], sharp: str, out: str
) -> None:
    """The next run would take them for images."""
    shutil.copytree(sharp_folder, tmp_path / "photos" / "sharp")
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "photos" / "sub").mkdir()
    assert call(prepare_command.main, "--sharp", tmp_path / sharp, "--out", tmp_path / out, "--patch", 32) == 2
    assert f"patches in {tmp_path / out} would lie among the images of --sharp" in error_line(capfd)
    (tmp_path / "photos" / "sub").rmdir()
    assert sorted(tmp_path.rglob("*")) == before


def test_patches_beside_the_images_are_not_refused(sharp_folder: Path, tmp_path: Path, call: Call) -> None:
    shutil.copytree(sharp_folder, tmp_path / "data" / "photos")
    for _ in range(2):
        assert call(prepare_command.main, "--sharp", tmp_path / "data/photos", "--out", tmp_path / "data", "--patch", 32) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--degrade", "haze"], "degrade: a list of degradations, or one of the presets bicubic_x4"),
        (["--degrade", "[{kind: haze}]"], "degrade.0: "),
        (["--degrade", "[{kind: noise"], "degrade: "),
        (["--degrade", "nowhere.yaml"], "nowhere.yaml"),
        (["--degrade", "[]"], "no degradation"),
        (["--degrade", f"{ROOT}/configs/gopro_online.yaml"], "no degradation"),
        (["--patch", 4], "--patch: 16 to 65536, found 4"),
        (["--quality", 0], "--quality: 1 to 100, found 0"),
        (["--patch", 2048], "no training image holds a patch of 2048x2048 pixels"),
        (["--sharp", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_wrong_options_end_with_one_line(
    sharp_folder: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str], options: list[object], words: str
) -> None:
    assert call(prepare_command.main, "--sharp", sharp_folder, "--out", tmp_path / "data", *options) == 2
    assert words in error_line(capfd)


def test_the_recipe_of_a_config_is_used(sharp_folder: Path, tmp_path: Path, call: Call) -> None:
    first, second = tmp_path / "config", tmp_path / "list"
    options = ["--sharp", sharp_folder, "--patch", 32]
    recipe = f"{ROOT}/configs/photos_online.yaml"
    assert call(prepare_command.main, *options, "--out", first, "--degrade", recipe) == 0
    recipe = "[{kind: gaussian_blur, sigma: [0.8, 2.4]}]"
    assert call(prepare_command.main, *options, "--out", second, "--degrade", recipe) == 0
    assert files(first, "*.png") == files(second, "*.png")
