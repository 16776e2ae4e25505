"""Image files are found below folders, and paired by name."""

from __future__ import annotations

import importlib
import sys
import unicodedata
from pathlib import Path

import pytest

from distill.data.decoding import kinds
from distill.data.find import find_images, pair_images
from distill.data.image_files import ImageError


def test_images_are_found_below_a_folder_by_stem(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.jpeg", "a/notes.txt", ".hidden/d.png", "._b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for folder in (str(tmp_path), f"{tmp_path}/**"):
        assert list(find_images(folder)) == ["a/c", "b"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    for name in ("disk/c.png", "photos/real/a.png", "photos/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    photos = tmp_path / "photos"
    for link, target in (("disk", tmp_path / "disk"), ("again", photos / "real"), ("real/round", photos), ("up", tmp_path)):
        (photos / link).symlink_to(target)
    (photos / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (photos / "linked.png").symlink_to(photos / "b.png")
    assert list(find_images(str(photos))) == ["b", "disk/c", "linked", "real/a"]
    assert list(find_images(f"{tmp_path}/p*/disk")) == ["photos/c"]


def test_a_wildcard_matches_folders_and_keeps_their_names(tmp_path: Path) -> None:
    """GoPro's layout: the frames of every sequence in folders of their own."""
    for name in ("train/GOPR1/sharp/01.png", "train/GOPR1/blur/01.png", "train/GOPR2/sharp/01.png", "train/GOPR2/blur/01.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    pairs = pair_images(f"{tmp_path}/train/*/sharp", f"{tmp_path}/train/*/blur")
    assert list(pairs) == ["GOPR1/01", "GOPR2/01"]
    assert pairs["GOPR2/01"][1] == tmp_path / "train/GOPR2/blur/01.png"
    with_any_depth = pair_images(f"{tmp_path}/**/sharp", f"{tmp_path}/**/blur")
    assert list(with_any_depth) == ["train/GOPR1/01", "train/GOPR2/01"]
    with pytest.raises(FileNotFoundError, match="no folder matches"):
        find_images(f"{tmp_path}/train/*/none")


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        find_images(str(tmp_path / "none"))
    with pytest.raises(ImageError, match="no images"):
        find_images(str(tmp_path))
    (tmp_path / "a.png").touch()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ImageError, match="same stem"):
        find_images(str(tmp_path))


@pytest.mark.parametrize(("sharp", "blurry", "lonely"), [("ab", "a", "b.png"), ("a", "ac", "c.png")])
def test_images_without_partner_are_named(tmp_path: Path, sharp: str, blurry: str, lonely: str) -> None:
    for folder, names in (("sharp", sharp), ("blurry", blurry)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.png").touch()
    with pytest.raises(ImageError, match=lonely):
        pair_images(str(tmp_path / "sharp"), str(tmp_path / "blurry"))


def test_a_kind_that_is_read_now_does_not_end_a_folder_that_trained_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.avif", "a.gif", "a.png", "b.jpg", "b.avif", "c.gif"):
        (tmp_path / name).touch()
    assert [path.name for path in find_images(str(tmp_path)).values()] == ["a.png", "b.jpg", "c.gif"]
    assert f"{tmp_path}/a.gif: left out beside a.png of the same stem" in caplog.text
    assert f"{tmp_path}/b.avif: left out beside b.jpg of the same stem" in caplog.text
    (tmp_path / "c.ppm").touch()
    with pytest.raises(ImageError, match="same stem"):
        find_images(str(tmp_path))


def test_what_a_plugin_would_read_is_counted_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)  # not installed
    without = importlib.reload(kinds)
    said = without.unread_in_words([*(Path(f"{number}.HEIC") for number in range(12)), Path("a.jxl")])
    assert not {".heic", ".jxl"} & without.SUFFIXES
    monkeypatch.undo()
    importlib.reload(kinds)
    assert said == [
        "12 .heic files not read: pip install pillow-heif",
        "1 .jxl file not read: pip install pillow-jxl-plugin",
    ]


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_name_is_the_same_however_unicode_writes_it(tmp_path: Path, forms: tuple[str, str]) -> None:
    """A Mac takes an accented letter apart. The stem stays as it is on disk, so that a sample keeps its draws."""
    for folder, form in zip(("sharp", "blurry"), forms, strict=True):
        path = tmp_path / folder / unicodedata.normalize(form, "Été/Grüße.png")
        path.parent.mkdir(parents=True)
        path.touch()
    (pair,) = pair_images(str(tmp_path / "sharp"), str(tmp_path / "blurry")).items()
    stem, (sharp, blurry) = pair
    assert stem == unicodedata.normalize(forms[0], "Été/Grüße")
    assert sharp.exists()
    assert blurry.exists()


def test_two_names_that_become_one_are_refused(tmp_path: Path) -> None:
    for form in ("NFD", "NFC"):
        (tmp_path / unicodedata.normalize(form, "ü.png")).touch()
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system treats them as one file")
    with pytest.raises(ImageError, match="has the same stem as"):
        find_images(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "files"), [("{stem}x4", ("1x4.png", "sub/2x4.jpg")), ("blur_{stem}", ("blur_1.png", "sub/blur_2.png"))]
)
def test_pairs_can_be_named_by_a_template(tmp_path: Path, name: str, files: tuple[str, str]) -> None:
    for path in ("sharp/1.png", "sharp/sub/2.png", *(f"blurry/{file}" for file in files)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    sharp, blurry = str(tmp_path / "sharp"), str(tmp_path / "blurry")
    pairs = pair_images(sharp, blurry, name)
    assert list(pairs) == ["1", "sub/2"]
    assert [pair[1] for pair in pairs.values()] == [tmp_path / "blurry" / file for file in files]
    for folder, lonely in ((sharp, "3.png"), (blurry, "1.jpg")):
        (Path(folder) / lonely).touch()
        with pytest.raises(ImageError) as caught:
            pair_images(sharp, blurry, name)
        assert lonely in str(caught.value)
        assert f"data.blurry_name ({name})" in str(caught.value)
        (Path(folder) / lonely).unlink()
