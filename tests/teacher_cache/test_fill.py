"""What cached mode feeds is what online mode would have computed, up to rounding, whoever computed it and when."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter
from torch import Tensor
from trees import flip_byte

from distill.cache import build_cache
from distill.config import Config, parse_config
from distill.data.batch import Batch
from distill.data.datasets import TrainingPatches
from distill.data.image_files import ImageError
from distill.data.loader import training_loader
from distill.data.sources import cached_images, training_sources
from distill.data.triplets import ImageFile
from distill.networks.student import build_student
from distill.networks.teacher import Teacher, build_teacher
from distill.networks.vgg import VggFeatures
from distill.synthesis.augment import augment
from distill.teacher_cache.differences import find_differences
from distill.teacher_cache.fill import fill, restore
from distill.teacher_cache.online_filler import OnlineFiller
from distill.teacher_cache.opening import open_for_training
from distill.teacher_cache.store import TeacherCache
from distill.train import train
from distill.training.resume import read_saved
from distill.training.state import new_training_state
from distill.training.step import make_images, training_step

CPU = torch.device("cpu")
# Rounding to 8 bits, and what a matrix product of another size sums in another order.
HALF_STEP = 0.5 / 255 + 1e-6


@pytest.fixture
def whole_patches(pairs_tree: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Augmentation off, and images of the size of a patch."""
    for kind in ("sharp", "blurry"):
        source = Path(pairs_tree["data"][kind])
        for path in source.rglob("*.png"):
            target = tmp_path / "whole" / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).crop((0, 0, 48, 48)).save(target)
        pairs_tree["data"][kind] = str(tmp_path / "whole" / kind)
    pairs_tree["data"] |= {"patch": 48, "batch": 6, "images_per_epoch": 6}
    pairs_tree["augment"] = {"flip": False, "rotate": False}
    return pairs_tree


def the_teacher(config: Config) -> Teacher:
    teacher = build_teacher(config.teacher, CPU)
    assert teacher is not None
    return teacher


def cached_patches(config: Config) -> tuple[TrainingPatches, TeacherCache, OnlineFiller | None]:
    (source,) = training_sources(config.data)
    assert source.images is not None
    cache, filler = open_for_training(config.teacher, config.data, the_teacher(config), source.images, CPU)
    return TrainingPatches(config, [source], cache), cache, filler


def first_batch(config: Config) -> Batch:
    dataset, filler = TrainingPatches(config), None
    if config.teacher.mode == "cached":
        dataset, _, filler = cached_patches(config)
    batch: Batch = next(training_loader(dataset, 0, 1, pin=False))
    if filler is not None:
        filler.complete(batch)
    return batch


def first_losses(config: Config, batch: Batch) -> dict[str, Tensor]:
    state = new_training_state(build_student(config.student, config.run.seed), config.optimizer, CPU)
    vgg = VggFeatures(config.vgg)
    images = make_images(batch, the_teacher(config), config.stages[0], config)
    return training_step(images, state, vgg, config.stages[0], 1e-3, config)


@pytest.mark.parametrize("how", ["distill.cache", "computed while training"])
def test_cached_and_online_mode_agree_up_to_rounding(whole_patches: dict[str, Any], how: str) -> None:
    whole_patches |= {"stages": [{"name": "v1", "epochs": 1, "kd": 1.0, "vgg": 0.1}], "vgg": {"weights": "random"}}
    online_config = parse_config({**whole_patches, "teacher": whole_patches["teacher"] | {"mode": "online"}})
    if how == "distill.cache":
        build_cache(parse_config(whole_patches))
    else:
        whole_patches["teacher"]["on_missing"] = "compute"
    cached_config = parse_config(whole_patches)
    online, cached = first_batch(online_config), first_batch(cached_config)
    assert online.names == cached.names
    assert online.blurry is not None
    assert torch.equal(online.blurry, cached.blurry)  # type: ignore[arg-type]
    assert cached.teacher is not None
    target = the_teacher(online_config)(online.blurry.float() / 255)
    assert float((cached.teacher.float() / 255 - target).abs().max()) <= HALF_STEP
    assert not torch.equal(cached.teacher, cached.blurry)  # type: ignore[arg-type]

    losses, cached_losses = first_losses(online_config, online), first_losses(cached_config, cached)
    assert float(cached_losses["l1"]) == pytest.approx(float(losses["l1"]), rel=1e-5)
    assert float(cached_losses["vgg"]) == pytest.approx(float(losses["vgg"]), rel=1e-5)
    assert float(cached_losses["kd"]) == pytest.approx(float(losses["kd"]), abs=0.5 / 255)
    assert float(losses["kd"]) > 0.01


def test_the_cached_image_is_cut_and_turned_with_its_pair(pairs_tree: dict[str, Any]) -> None:
    """A teacher image that is its sharp image stays that, whatever is cut out of it and however it is turned."""
    config = parse_config(pairs_tree)
    cache = build_cache(config)
    for stem, entry in cache.manifest.entries.items():
        cache.path_of(entry).write_bytes((Path(str(config.data.sharp)) / f"{stem}.png").read_bytes())
    for name in ("manifest.json", "manifest.jsonl"):
        (cache.folder / name).unlink()  # a folder of bare images now
    batch = first_batch(config)
    assert batch.teacher is not None
    sharp, _, teacher = augment([batch.sharp, batch.blurry, batch.teacher], config.augment, batch.draws)  # type: ignore[list-item]
    assert torch.equal(sharp, teacher)
    assert not torch.equal(sharp, batch.sharp)


def test_the_first_epoch_fills_the_cache_and_the_second_reads_it(pairs_tree: dict[str, Any], tmp_path: Path) -> None:
    pairs_tree["data"]["sharp"] = str(shutil.copytree(pairs_tree["data"]["sharp"], tmp_path / "sharp"))
    for kind in ("sharp", "blurry"):  # of one size with the first now
        Image.open(tmp_path / kind / "1.png").crop((0, 0, 80, 64)).save(tmp_path / kind / "1.png")
    pairs_tree["teacher"]["on_missing"] = "compute"
    pairs_tree["data"] |= {"batch": 3, "workers": 1}
    config = parse_config(pairs_tree)
    dataset, cache, filler = cached_patches(config)
    assert filler is not None
    holes = []
    for batch in training_loader(dataset, 0, 20, pin=False):
        holes.append(len(batch.uncached))
        filler.complete(batch)
        assert not batch.uncached
    assert holes[0] == 3
    assert holes[-1] == 0  # workers see what was stored since they started
    assert len(filler.computed) == 6
    filled = build_cache(parse_config({**pairs_tree, "teacher": pairs_tree["teacher"] | {"cache": f"{config.teacher.cache}2"}}))
    for image in dataset.sources[0].images or []:
        # the command restores images of one size together, which may round a pixel the other way
        difference = np.abs(filled.read(image).teacher.astype(int) - cache.read(image).teacher)  # type: ignore[union-attr]
        assert difference.max() <= 1
        assert difference.mean() < 1e-3  # a pixel in a thousand


@pytest.mark.parametrize("keep_time", [False, True], ids=["found at the start", "found when it is read"])
def test_a_damaged_image_is_computed_again_while_training(
    pairs_tree: dict[str, Any], keep_time: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = build_cache(parse_config(pairs_tree)).png_path("2")
    before = path.read_bytes()
    flip_byte(path, keep_time)
    pairs_tree["teacher"]["on_missing"] = "compute"
    pairs_tree["data"]["batch"] = 6
    batch = first_batch(parse_config(pairs_tree))
    assert len(set(batch.names)) == 6
    assert ("1 of 6 teacher images are computed when they first come" in caplog.text) != keep_time
    assert path.read_bytes() == before


def test_a_changed_input_is_computed_again_while_training(pairs_tree: dict[str, Any]) -> None:
    """And not skipped: what the cache holds is of another image."""
    config = parse_config(pairs_tree)
    cache = build_cache(config)
    before = cache.png_path("2").read_bytes()
    blurry = Path(str(config.data.blurry)) / "2.png"
    ImageOps.mirror(Image.open(blurry)).save(blurry)
    pairs_tree["teacher"]["on_missing"] = "compute"
    pairs_tree["data"]["batch"] = 6
    batch = first_batch(parse_config(pairs_tree))
    assert len(set(batch.names)) == 6
    assert cache.png_path("2").read_bytes() != before
    images = cached_images(config.data)
    assert find_differences(TeacherCache(cache.folder), images, thorough=True).complaint() is None


def test_an_image_that_the_teacher_cannot_restore_ends_a_run_that_is_saved(
    pairs_tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def restored(teacher: Teacher, images: Tensor, *rest: Any) -> tuple[Tensor, list[bool]]:
        return images, [images.shape[-2] != 66] * len(images)

    monkeypatch.setattr("distill.teacher_cache.fill.restore", restored)
    pairs_tree["teacher"] |= {"on_missing": "compute", "check": "off"}
    pairs_tree["data"] |= {"batch": 1, "images_per_epoch": 6}
    pairs_tree["stages"] = [{"name": "v1", "epochs": 1}]
    config = parse_config(pairs_tree)
    with pytest.raises(ImageError, match=r"2\.png: the teacher's image of it is not finite"):
        train(config)
    saved = read_saved(Path(config.run.dir))
    assert saved is not None
    assert 0 < saved["step"] < 6


def test_an_image_damaged_after_it_was_computed_is_computed_again(pairs_tree: dict[str, Any]) -> None:
    pairs_tree["teacher"]["on_missing"] = "compute"
    pairs_tree["data"]["batch"] = 6
    config = parse_config(pairs_tree)
    dataset, cache, filler = cached_patches(config)
    assert filler is not None
    first: Batch = next(training_loader(dataset, 0, 1, pin=False))
    holes = dict(first.uncached)
    filler.complete(first)
    assert first.teacher is not None
    expected = first.teacher.clone()
    path = cache.png_path("2")
    stored = path.read_bytes()
    Image.new("RGB", Image.open(path).size).save(path)
    cache.png_path("3").unlink()
    first.uncached = holes
    first.teacher.zero_()
    filler.complete(first)
    assert torch.equal(first.teacher, expected)
    assert path.read_bytes() == stored


def in_one(teacher: Teacher, images: Tensor) -> Tensor:
    return (teacher(images.float() / 255) * 255).round().byte()


@pytest.fixture
def embedded(pairs_tree: dict[str, Any]) -> Teacher:
    return the_teacher(parse_config(pairs_tree))


def test_a_large_image_is_restored_in_tiles_nearly_as_in_one(embedded: Teacher) -> None:
    blurry = gaussian_filter(skimage.data.astronaut()[:300, :333].astype(np.float32), (1.6, 1.6, 0)).round()
    photo = torch.from_numpy(blurry.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)[None]
    calls: list[int] = []
    forward: Callable[[Tensor], Tensor] = embedded.network.forward
    embedded.network.forward = lambda x: calls.append(x.shape[-1] * x.shape[-2]) or forward(x)  # type: ignore[func-returns-value]
    tiled, _ = restore(embedded, photo, 192, CPU)
    assert len(calls) == 4
    assert max(calls) <= 192 * 192
    difference = tiled.float() - in_one(embedded, photo).float()
    # the attention sums over all pixels of a tile, so that tiles differ by more than their seams
    assert float(difference.square().mean().sqrt()) < 1.5
    seam = slice(333 - 192, 192)
    across, whole = (image.float()[..., seam].diff(dim=-1).abs().mean() for image in (tiled, in_one(embedded, photo)))
    assert float(across) < 1.02 * float(whole)


def test_images_of_one_size_are_restored_together(pairs_tree: dict[str, Any], embedded: Teacher) -> None:
    config = parse_config(pairs_tree)
    images = cached_images(config.data)  # of six heights
    sizes: list[tuple[int, ...]] = []
    forward = embedded.network.forward
    embedded.network.forward = lambda x: sizes.append(tuple(x.shape)) or forward(x)  # type: ignore[func-returns-value]
    cache = TeacherCache(config.teacher.cache)
    cache.folder.mkdir()
    thrice = [ImageFile(f"{image.stem}_{number}", image.sharp, image.blurry) for number in range(3) for image in images]
    entries = list(fill(cache, embedded, thrice, 128, 0, CPU))
    assert {entry.stem for entry in entries} == {image.stem for image in thrice}
    # 128 x 128 pixels hold three images of 80x68, and two of 80x69
    assert sorted(size[0] for size in sizes) == [1, 2, 3, 3, 3, 3, 3]
