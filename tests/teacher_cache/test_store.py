"""A cache that cannot be wrong: whatever changes in it or in its inputs is found at the start, or when the file is read."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from trees import flip_byte

from distill.cache import build_cache, pack_cache
from distill.config import Config, parse_config
from distill.data.image_files import ImageError, read_image
from distill.data.sources import cached_images
from distill.data.triplets import ImageFile
from distill.networks.teacher import Teacher, build_teacher, identify
from distill.pictures.formats import Picture
from distill.pictures.writing import encode_picture
from distill.teacher_cache import store as teacher_cache
from distill.teacher_cache.differences import Differences, find_differences, refuse
from distill.teacher_cache.manifest import CacheError, Stamp
from distill.teacher_cache.store import TeacherCache

Built = tuple[Config, list[ImageFile]]


@pytest.fixture
def built(pairs_tree: dict[str, Any]) -> Built:
    config = parse_config(pairs_tree)
    build_cache(config)
    assert isinstance(config.data.sharp, str)
    return config, cached_images(config.data)


@pytest.fixture(params=["png", "packed"])
def cache(request: pytest.FixtureRequest, built: Built, tmp_path: Path) -> Callable[[], TeacherCache]:
    """Opens the cache anew."""
    config, _ = built
    if request.param == "png":
        return lambda: TeacherCache(config.teacher.cache)
    pack_cache(config, tmp_path / "pack")
    return lambda: TeacherCache(tmp_path / "pack")


def output(cache: TeacherCache, stem: str) -> Path:
    return cache.path_of(cache.manifest.entries[stem])


def test_a_cache_just_made_is_valid_and_holds_the_teachers_images(built: Built, cache: Callable[[], TeacherCache]) -> None:
    _, images = built
    opened = cache()
    assert find_differences(opened, images, thorough=True).complaint() is None
    for image in images:
        triplet = opened.read(image)
        assert np.array_equal(triplet.sharp, read_image(image.sharp))
        assert image.blurry is not None
        assert np.array_equal(triplet.blurry, read_image(image.blurry))  # type: ignore[arg-type]
        assert triplet.teacher is not None
        restored, blurry = (np.abs(pixels.astype(int) - triplet.sharp).mean() for pixels in (triplet.teacher, triplet.blurry))
        assert restored < 0.8 * blurry


def test_a_changed_byte_is_found_at_the_start(built: Built, cache: Callable[[], TeacherCache]) -> None:
    flip_byte(output(cache(), "sub/5"), keep_time=False)
    found = find_differences(cache(), built[1])
    assert found.damaged == ["sub/5"]
    assert "1 images have a damaged teacher image (sub/5)" in str(found.complaint())


def test_a_changed_byte_of_the_same_time_is_found_when_it_is_read(built: Built, cache: Callable[[], TeacherCache]) -> None:
    _, images = built
    flip_byte(output(cache(), "sub/5"), keep_time=True)
    opened = cache()
    assert find_differences(opened, images).complaint() is None
    with pytest.raises(ImageError, match="damaged"):
        opened.read(images[-1])
    assert find_differences(opened, images, thorough=True).damaged == ["sub/5"]


def test_swapped_files_are_found(built: Built) -> None:
    cache = TeacherCache(built[0].teacher.cache)
    first, second = (output(cache, stem) for stem in ("1", "2"))
    first.rename(first.with_name("x"))
    second.rename(first)
    first.with_name("x").rename(second)
    assert find_differences(cache, built[1]).damaged == ["1", "2"]


def test_a_deleted_file_is_found(built: Built, cache: Callable[[], TeacherCache]) -> None:
    output(cache(), "3").unlink()
    assert "3" in find_differences(cache(), built[1]).missing


@pytest.mark.parametrize("keep_size", [True, False])
def test_a_changed_input_is_found(built: Built, cache: Callable[[], TeacherCache], keep_size: bool) -> None:
    config, images = built
    path = Path(str(config.data.blurry)) / "2.png"
    if keep_size:
        flip_byte(path, keep_time=False)
    else:
        Image.new("RGB", (80, 66)).save(path)
    assert find_differences(cache(), images).changed == ["2"]


def test_what_an_earlier_version_misread_is_computed_again_and_the_rest_stays(
    pairs_tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is not checksummed, which would read the whole cache at each start, and its headers are read once."""
    config = parse_config(pairs_tree)
    deep = Path(str(config.data.blurry)) / "2.png"
    deep.write_bytes(encode_picture(Picture(read_image(deep).astype(np.uint16) * 257 + 100), ".png"))
    images = cached_images(config.data)
    build_cache(config)
    pack_cache(config, tmp_path / "pack")
    monkeypatch.setattr(Stamp, "equals", lambda *_: pytest.fail("is checksummed"))
    for folder in (Path(config.teacher.cache), tmp_path / "pack"):
        lines = folder / "manifest.jsonl"
        lines.write_text(lines.read_text().replace('"reader": 2', '"reader": null'))  # as if written before
        found = find_differences(TeacherCache(folder), images)
        assert found.misread == ["2"]
        assert "1 images were read wrongly by the version that computed their teacher image (2)" in str(found.complaint())
        assert found.to_compute == ["2"]
        assert found.touched == ["0", "1", "3", "4", "sub/5"]
    monkeypatch.undo()
    unchanged = (Path(config.teacher.cache) / "1.png").stat().st_mtime_ns
    build_cache(config)
    assert find_differences(TeacherCache(config.teacher.cache), images) == Differences()
    assert (Path(config.teacher.cache) / "1.png").stat().st_mtime_ns == unchanged
    pack_cache(config, tmp_path / "pack")
    assert find_differences(TeacherCache(tmp_path / "pack"), images) == Differences()


def test_what_an_earlier_version_could_not_read_is_tried_again_and_ends_no_training(pairs_tree: dict[str, Any]) -> None:
    config = parse_config(pairs_tree)
    images = cached_images(config.data)
    (Path(str(config.data.blurry)) / "2.png").write_bytes(b"no image")
    build_cache(config)
    lines = Path(config.teacher.cache) / "manifest.jsonl"
    lines.write_text(lines.read_text().replace('"reader": 2', '"reader": null'))  # as if written before
    found = find_differences(TeacherCache(config.teacher.cache), images)
    assert found.complaint() is None
    assert found.to_compute == ["2"]


def test_added_and_removed_inputs_are_found(built: Built, cache: Callable[[], TeacherCache]) -> None:
    _, images = built
    new = ImageFile("new", images[0].sharp, images[0].blurry)
    found = find_differences(cache(), [*images[1:], new])
    assert (found.missing, found.removed) == (["new"], [images[0].stem])
    assert "are no longer there (0)" in str(found.complaint())


def test_a_copy_with_other_times_is_valid_and_its_times_can_be_noted(built: Built, cache: Callable[[], TeacherCache]) -> None:
    _, images = built
    opened = cache()
    for path in {output(opened, image.stem) for image in images}:
        os.utime(path)
    assert images[0].blurry is not None
    os.utime(images[0].blurry)
    found = find_differences(opened, images)
    assert found.complaint() is None
    assert len(found.touched) == len(images)
    opened.restamp(images)
    assert find_differences(cache(), images).touched == []


def test_images_packed_beside_a_changed_sharp_image_are_found(built: Built, tmp_path: Path) -> None:
    config, images = built
    pack_cache(config, tmp_path / "pack")
    moved = tmp_path / "sharp"
    shutil.copytree(config.data.sharp, moved)  # type: ignore[arg-type]
    flip_byte(moved / "4.png", keep_time=False)
    others = [ImageFile(image.stem, moved / image.sharp.relative_to(str(config.data.sharp)), image.blurry) for image in images]
    assert find_differences(TeacherCache(tmp_path / "pack"), others).changed == ["4"]
    assert find_differences(TeacherCache(config.teacher.cache), others).complaint() is None  # no teacher looks at sharp images


def test_a_pack_of_several_shards_holds_every_image_once(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, images = built
    monkeypatch.setattr("distill.teacher_cache.pack.SHARD_BYTES", 100_000)  # an image's triplet has 46 to 50 thousand
    packed = pack_cache(config, tmp_path / "pack")
    assert [path.name for path in sorted((tmp_path / "pack").glob("*.safetensors"))] == [
        "000000.safetensors",
        "000001.safetensors",
    ]
    assert [packed.manifest.entries[image.stem].shard for image in images] == ["000000.safetensors"] * 3 + [
        "000001.safetensors"
    ] * 3
    assert find_differences(packed, images, thorough=True).complaint() is None
    pngs = TeacherCache(config.teacher.cache)
    for image in images:
        expected = vars(pngs.read(image))
        assert all(np.array_equal(pixels, expected[kind]) for kind, pixels in vars(packed.read(image)).items())


def test_a_teacher_image_of_another_size_is_refused(built: Built) -> None:
    config, images = built
    bare = Path(config.teacher.cache)
    for name in ("manifest.json", "manifest.jsonl"):
        (bare / name).unlink()
    Image.new("RGB", (16, 16)).save(bare / "0.png")
    with pytest.raises(ImageError, match="16x16 pixels, but its sharp image"):
        TeacherCache(bare).read(images[0])


def test_an_unreadable_input_is_known_and_skipped_with_its_reason(pairs_tree: dict[str, Any], tmp_path: Path) -> None:
    config = parse_config(pairs_tree)
    (tmp_path / "blurry" / "1.png").write_bytes(b"")
    cache = build_cache(config)
    assert isinstance(config.data.sharp, str)
    images = cached_images(config.data)
    assert cache.manifest.entries["1"].unreadable == "an empty file"
    assert find_differences(cache, images, thorough=True).complaint() is None
    with pytest.raises(ImageError, match=r"1\.png: an empty file"):
        cache.read(images[1])
    packed = pack_cache(config, tmp_path / "pack")
    assert find_differences(packed, images, thorough=True).complaint() is None
    with pytest.raises(ImageError, match=r"1\.png: an empty file"):
        packed.read(images[1])


def test_clearing_removes_what_was_written_and_nothing_else(built: Built) -> None:
    config, images = built
    folder = Path(config.teacher.cache)
    (folder / "notes.txt").write_text("mine")
    (folder / "other.png").write_bytes(b"mine")
    build_cache(config, fresh=True)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {f"{image.stem}.png" for image in images} | {
        "manifest.json",
        "manifest.jsonl",
        ".lock",
        "notes.txt",
        "other.png",
    }


def test_a_folder_of_foreign_images_is_not_written_to(pairs_tree: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(pairs_tree["data"]["blurry"], tmp_path / "cache")
    before = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.png")}
    for fresh in (False, True):
        with pytest.raises(CacheError, match="6 images that this command did not write"):
            build_cache(parse_config(pairs_tree), fresh=fresh)
    shutil.copy(tmp_path / "cache" / "0.png", tmp_path / "cache" / "0.jpg")
    with pytest.raises(ImageError, match="has the same stem as"):
        build_cache(parse_config(pairs_tree))
    assert {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*.png")} == before


@pytest.mark.parametrize("stage", ["lines", "images", "header"])
def test_killed_while_it_starts_afresh_a_cache_is_never_of_the_wrong_teacher(
    built: Built, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Stopped after each thing that --fresh removes: the next run names the other teacher or completes, and believes nothing."""
    config, images = built
    other = parse_config({**config.model_dump(mode="json"), "teacher": config.teacher.model_dump() | {"precision": "bf16"}})

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if stage == "lines":
        monkeypatch.setattr(Path, "unlink", stop)
    elif stage == "images":
        monkeypatch.setattr(teacher_cache, "header_bytes", stop)
    else:
        monkeypatch.setattr("distill.cache.fill", stop)
    with pytest.raises(KeyboardInterrupt):
        build_cache(other, fresh=True)
    monkeypatch.undo()
    left = TeacherCache(config.teacher.cache)
    if stage != "header":
        with pytest.raises(CacheError, match="precision fp32"):
            left.check_identity(identify(build_teacher(other.teacher, torch.device("cpu"))))  # type: ignore[arg-type]
    assert len(find_differences(left, images).missing) == 6
    assert find_differences(build_cache(config, fresh=True), images, thorough=True).complaint() is None


def test_an_image_that_the_teacher_turns_into_nan_is_noted_and_skipped(
    pairs_tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = parse_config(pairs_tree)
    forward = Teacher.forward

    def poisoned(self: Teacher, blurry: torch.Tensor) -> torch.Tensor:
        restored = forward(self, blurry)
        return restored / 0 * 0 if blurry.shape[-2] == 66 else restored

    monkeypatch.setattr(Teacher, "forward", poisoned)
    cache = build_cache(config)
    assert [stem for stem, entry in cache.manifest.entries.items() if entry.output is None] == ["2"]
    images = cached_images(config.data)
    with pytest.raises(ImageError, match=r"2\.png: the teacher's image of it is not finite"):
        cache.read(images[2])
    monkeypatch.undo()
    assert build_cache(config).manifest.entries["2"].output is None  # not tried again by itself
    packed = pack_cache(config, tmp_path / "pack")
    assert [stem for stem, entry in packed.manifest.entries.items() if entry.output is None] == ["2"]
    with pytest.raises(ImageError, match=r"2\.png: the teacher's image of it is not finite"):
        packed.read(images[2])
    assert build_cache(config, repair=True).manifest.entries["2"].output is not None
    packed = pack_cache(config, tmp_path / "pack")
    assert find_differences(packed, images, thorough=True).complaint() is None
    assert packed.read(images[2]).teacher is not None


def test_more_images_of_different_sizes_than_there_are_file_descriptors(pairs_tree: dict[str, Any], tmp_path: Path) -> None:
    for kind in ("sharp", "blurry"):
        (tmp_path / "sizes" / kind).mkdir(parents=True)
        for number in range(60):
            Image.new("RGB", (16 + number, 16)).save(tmp_path / "sizes" / kind / f"{number}.png")
        pairs_tree["data"][kind] = str(tmp_path / "sizes" / kind)
    pairs_tree["data"]["workers"] = 1
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 45, limits[1]))
    try:
        cache = build_cache(parse_config(pairs_tree))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(cache.manifest.entries) == 60


def test_another_tile_size_is_said(built: Built, caplog: pytest.LogCaptureFixture) -> None:
    config, _ = built
    build_cache(parse_config({**config.model_dump(mode="json"), "teacher": config.teacher.model_dump() | {"tile": 256}}))
    assert "large images were restored in tiles of 640, and those that are computed now of 256" in caplog.text


def test_lines_of_no_image_are_removed_and_what_stands_in_their_place_stays(built: Built) -> None:
    """Lines of what lies below a file, and of a name in two lines: somebody, or something, wrote them."""
    config, images = built
    cache = TeacherCache(config.teacher.cache)
    entry = cache.manifest.entries["0"]
    cache.manifest.append([entry.model_copy(update={"stem": stem}) for stem in ("0.png/x", "a\nb", "y" * 200)])
    found = find_differences(cache, images)
    with pytest.raises(CacheError, match=r"3 images have a teacher image, but are no longer there") as caught:
        refuse(cache, found)
    assert "\n" not in str(caught.value)
    cache.remove(found.removed)
    assert find_differences(TeacherCache(config.teacher.cache), images, thorough=True).complaint() is None


def test_a_new_cache_begins_whatever_lines_the_old_one_had(built: Built) -> None:
    config, images = built
    cache = TeacherCache(config.teacher.cache)
    assert cache.manifest.header is not None
    cache.manifest.append([cache.manifest.entries["0"].model_copy(update={"stem": "manifest.jsonl/x"})])
    teacher_cache.reset_cache(cache.folder, images, cache.manifest.header)
    assert TeacherCache(cache.folder).manifest.entries == {}
    assert not list(cache.folder.rglob("*.png"))


def test_the_reason_why_an_input_could_not_be_read_is_one_line(built: Built) -> None:
    config, images = built
    cache = TeacherCache(config.teacher.cache)
    cache.manifest.append([cache.manifest.entries["0"].model_copy(update={"output": None, "unreadable": "a\nb" * 1000})])
    with pytest.raises(ImageError, match="a ba b") as caught:
        cache.read(images[0])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
