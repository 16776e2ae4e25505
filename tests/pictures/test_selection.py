"""Which inputs are meant, and that no result replaces another one or an input."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.data.find import NoImagesError
from distill.data.image_files import ImageError
from distill.pictures.selection import select


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.jpg, a.png, notes.txt, ._a.jpg, day/b.JPG and night/b.png."""
    folder = tmp_path / "photos"
    for name in ("a.jpg", "a.png", "notes.txt", "._a.jpg", "day/b.JPG", "night/b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    monkeypatch.chdir(tmp_path)
    return folder


def targets(*inputs: str, out: str = "out", suffix: str | None = None) -> list[str]:
    return [job.target.as_posix() for job in select(inputs, Path(out), suffix)]


def test_a_folder_gives_all_images_below_it_under_their_relative_names(photos: Path) -> None:
    assert targets("photos") == ["out/a.jpg", "out/a.png", "out/day/b.JPG", "out/night/b.png"]


def test_a_file_gives_its_name(photos: Path) -> None:
    assert targets("photos/night/b.png") == ["out/b.png"]


def test_a_pattern_gives_paths_below_its_fixed_part(photos: Path) -> None:
    assert targets("photos/*/b.*") == ["out/day/b.JPG", "out/night/b.png"]
    assert targets("photos/n*") == ["out/night/b.png"]
    assert targets("photos/**/*.png") == ["out/a.png", "out/night/b.png"]


def test_the_suffix_can_be_another(photos: Path) -> None:
    assert targets("photos/day", suffix=".png") == ["out/b.png"]


def test_an_image_named_twice_is_one_job(photos: Path) -> None:
    assert targets("photos/a.jpg", "photos", "photos/*.jpg") == targets("photos")


def test_results_that_would_be_one_file_are_refused(photos: Path) -> None:
    with pytest.raises(ImageError, match=r"photos/a.png: its result would be out/a.png, as the result of photos/a.jpg"):
        targets("photos", suffix=".png")
    (photos / "day" / "b.png").touch()
    with pytest.raises(ImageError, match=r"as the result of photos/day/b.png"):
        targets("photos/day/b.png", "photos/night/b.png")


def test_a_result_that_would_replace_an_input_is_refused(photos: Path) -> None:
    with pytest.raises(ImageError, match="which is an input"):
        targets("photos/a.jpg", out="photos")


def test_comparisons_count_where_they_are_asked_for(photos: Path) -> None:
    (photos / "compare").mkdir()
    (photos / "compare" / "a.jpg.png").touch()
    assert len(select(["photos"], Path("out"))) == 5
    with pytest.raises(ImageError) as caught:
        select(["photos"], Path("out"), compare=True)
    words = "its result would be out/compare/a.jpg.png, as the comparison of photos/a.jpg; give another name or --out"
    assert str(caught.value) == f"photos/compare/a.jpg.png: {words}"


@pytest.mark.parametrize("given", ["photos", "photos/*.jpg"])
def test_a_folder_is_not_its_own_out(photos: Path, given: str) -> None:
    with pytest.raises(ImageError, match="photos: results there would lie among the inputs"):
        targets(given, out="photos", suffix=".webp")


def test_out_can_lie_above_the_inputs(photos: Path) -> None:
    assert targets("photos/night", out="photos") == ["photos/b.png"]
    assert targets("photos/d*/*", out=".") == ["day/b.JPG"]


def test_earlier_results_below_the_input_are_no_inputs(photos: Path) -> None:
    (photos / "out").mkdir()
    (photos / "out" / "a.jpg").touch()
    assert targets("photos", out="photos/out") == [
        "photos/out/a.jpg",
        "photos/out/a.png",
        "photos/out/day/b.JPG",
        "photos/out/night/b.png",
    ]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("photo", FileNotFoundError, "photo: no such file or folder"),
        ("photos/*.gif", FileNotFoundError, "no file or folder matches"),
        ("photos/notes.txt", ImageError, "not named as an image"),
        ("photos/*.txt", NoImagesError, "no images"),
    ],
)
def test_what_gives_no_image_is_refused(photos: Path, given: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        targets(given)
