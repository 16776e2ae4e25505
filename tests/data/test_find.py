"""Image files are found below folders, and paired by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.data.find import find_images, pair_images
from distill.data.image_files import ImageError


def test_images_are_found_below_a_folder_by_stem(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.jpeg", "a/notes.txt", ".hidden/d.png", "._b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_images(str(tmp_path))) == ["a/c", "b"]


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
