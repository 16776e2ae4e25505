"""The original's data set: its fractions, its grid, its names, and blur that depends on nothing but seed and name."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from trees import files

from distill.config.degradations import Degradations
from distill.data.image_files import ImageError, read_image
from distill.data.patch_writer import BENCHMARK, TEST, TRAIN, PatchWriter, Settings, split
from distill.data.sampler import sample_generator
from distill.synthesis.dead_leaves import dead_leaves
from distill.synthesis.degrade import degrade, draw

RECIPE = TypeAdapter(Degradations).validate_python(
    [{"kind": "gaussian_blur", "sigma": [0.8, 2.4]}, {"kind": "noise", "sigma": [0, 5]}]
)
SETTINGS = Settings(patch=32, seed=1, degrade=RECIPE, quality=None)


def test_the_originals_800_images_are_split_as_it_split_them() -> None:
    stems = [f"{number:04d}" for number in range(1, 801)]
    folders = split(stems, 42)
    assert [sum(folder == part for folder in folders.values()) for part in (TRAIN, TEST, BENCHMARK)] == [576, 144, 80]
    # scikit-learn 1.9.1: the first eight images of each part, and the sums of the numbers of all
    first = {BENCHMARK: "24 31 32 34 40 50 64 66", TEST: "1 11 12 13 23 29 35 39", TRAIN: "2 3 4 5 6 7 8 9"}
    sums = {BENCHMARK: 32557 + 80, TEST: 58599 + 144, TRAIN: 228444 + 576}
    for part, expected in first.items():
        numbers = [int(stem) for stem, folder in folders.items() if folder == part]
        assert numbers[:8] == [int(word) for word in expected.split()]
        assert sum(numbers) == sums[part]
    assert list(folders) == stems
    assert split(list(reversed(stems)), 42) == folders
    assert split(stems, 43) != folders


def test_every_part_of_few_images_has_one_and_fewer_are_refused() -> None:
    assert set(split(["a", "b", "c"], 0).values()) == {TRAIN, TEST, BENCHMARK}
    with pytest.raises(ImageError, match="2 images cannot be split"):
        split(["a", "b"], 0)


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    """70x100, one below a folder, one turned by its EXIF orientation."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    paths = {stem: tmp_path / "photos" / f"{stem}.jpg" for stem in ("a", "sub/b", "turned")}
    for number, (stem, path) in enumerate(paths.items()):
        exif = Image.Exif()
        exif[0x0112] = 6 if stem == "turned" else 1
        Image.fromarray(dead_leaves(100, np.random.default_rng(number))[:70]).save(path, exif=exif, quality=95)
    return paths


def writer(photos: dict[str, Path], out: Path, **changes: Any) -> PatchWriter:
    folders = {"a": TRAIN, "sub/b": TEST, "turned": BENCHMARK}
    return PatchWriter(photos, folders, out, Settings(**{**vars(SETTINGS), **changes}))


def test_patches_lie_on_the_grid_of_the_image_under_the_originals_names(photos: dict[str, Path], tmp_path: Path) -> None:
    done = [writer(photos, tmp_path / "out")[index] for index in range(3)]
    assert [(d.folder, d.patches, d.new, d.skipped) for d in done] == [
        (TRAIN, 6, True, None),
        (TEST, 6, True, None),
        (BENCHMARK, 6, True, None),
    ]
    names = sorted(files(tmp_path / "out"))
    grid = [f"{top}_{left}.png" for top in (0, 32) for left in (0, 32, 64)]
    turned = [f"{top}_{left}.png" for top in (0, 32, 64) for left in (0, 32)]  # 100 high, 70 wide
    expected = [f"benchmark/turned_{end}" for end in turned] + [f"train/test/sub/b_{end}" for end in grid]
    expected += [f"train/train/a_{end}" for end in grid]
    assert names == [f"{kind}/{name}" for kind in ("blurry", "sharp") for name in expected]
    assert np.array_equal(read_image(tmp_path / "out/sharp/train/train/a_32_64.png"), read_image(photos["a"])[32:64, 64:96])


def test_blur_is_degrades_of_this_patch_and_its_name_alone(photos: dict[str, Path], tmp_path: Path) -> None:
    writer(photos, tmp_path / "out")[1]
    sharp = read_image(tmp_path / "out/sharp/train/test/sub/b_32_0.png")
    draws = draw(RECIPE, sample_generator(1, 0, "sub/b_32_0", "prepare"))
    image = torch.from_numpy(sharp.copy()).permute(2, 0, 1)[None].float() / 255
    expected = degrade(image, RECIPE, {key: torch.tensor([value]) for key, value in draws.items()})
    found = read_image(tmp_path / "out/blurry/train/test/sub/b_32_0.png")
    assert np.array_equal(found, (expected[0].permute(1, 2, 0) * 255).round().byte().numpy())
    assert not np.array_equal(found, sharp)


def test_an_image_whose_patches_are_there_is_left_alone_and_a_missing_one_is_made_again(
    photos: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert writer(photos, out)[0].new
    before = files(out)
    assert not writer(photos, out)[0].new
    (out / "blurry/train/train/a_0_32.png").unlink()
    assert writer(photos, out)[0].new
    assert files(out) == before


def test_an_image_whose_exif_is_broken_is_skipped_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(path, exif=b"Exif\0\0II*\0\x08")
    done = PatchWriter({"a": path}, {"a": TRAIN}, tmp_path / "out", SETTINGS)[0]
    assert done.skipped is not None
    assert (done.skipped.path, done.skipped.reason) == (
        str(path),
        "its data is damaged, or of a kind that is not read (unpack requires a buffer of 4 bytes)",
    )


def test_a_large_image_is_no_reason_for_a_warning(tmp_path: Path) -> None:
    """Of 100 megapixels, from which on Pillow warns, in the header alone."""
    path = tmp_path / "a.bmp"
    Image.new("RGB", (40, 40)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:18] + struct.pack("<ii", 10_000, 10_000) + data[26:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = PatchWriter({"a": path}, {"a": TRAIN}, tmp_path / "out", SETTINGS)[0]
    assert done.skipped is not None
    assert "truncated" in done.skipped.reason


def test_a_tiff_turned_by_its_exif_is_cut_as_it_is_read(tmp_path: Path) -> None:
    """Its reader gives the turned size, others do not."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "t.tiff"
    Image.fromarray(dead_leaves(100, np.random.default_rng(0))[:70]).save(path, exif=exif)
    pixels = read_image(path)
    PatchWriter({"t": path}, {"t": TRAIN}, tmp_path / "out", SETTINGS)[0]
    names = {file.name for file in (tmp_path / "out" / "sharp").rglob("*.png")}
    height, width = pixels.shape[:2]
    assert names == {f"t_{top}_{left}.png" for top in range(0, height - 31, 32) for left in range(0, width - 31, 32)}


def test_jpeg_of_the_quality_asked_for(photos: dict[str, Path], tmp_path: Path) -> None:
    sizes = {}
    for quality in (30, 95):
        writer(photos, tmp_path / str(quality), quality=quality)[0]
        path = tmp_path / str(quality) / "blurry/train/train/a_0_0.jpg"
        assert Image.open(path).format == "JPEG"
        sizes[quality] = path.stat().st_size
    assert sizes[30] < sizes[95]


def test_a_bad_image_and_one_too_small_end_nothing(photos: dict[str, Path], tmp_path: Path) -> None:
    photos["a"].write_bytes(photos["a"].read_bytes()[:900])
    done = writer(photos, tmp_path / "out")[0]
    assert done.patches == 0
    assert done.skipped is not None
    assert done.skipped.path == str(photos["a"])
    assert writer(photos, tmp_path / "out", patch=80)[1].patches == 0
    assert files(tmp_path / "out") == {}
