"""A sample is a function of (seed, epoch, index); each image comes once per pass; a bad image ends no run."""

from __future__ import annotations

import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.config import Config
from distill.data import datasets
from distill.data.batch import Batch, Skipped
from distill.data.datasets import TrainingPatches, ValidationImages
from distill.data.image_files import ImageError
from distill.data.loader import training_loader
from distill.data.pixels import cut
from distill.data.triplets import ImageFile, Triplet
from distill.synthesis.augment import augment
from distill.synthesis.degrade import degrade

EVERYTHING = [
    {"kind": "gaussian_blur", "sigma": [0.5, 3.0], "probability": 0.7},
    {"kind": "defocus", "radius": [0.8, 4.0], "probability": 0.5},
    {"kind": "motion_blur", "length": [3, 15], "probability": 0.7},
    {"kind": "rescale", "factor": [1, 4], "probability": 0.5},
    {"kind": "noise", "sigma": [0, 20]},
    {"kind": "jpeg", "quality": [30, 95], "probability": 0.5},
]
PHOTOMETRIC = {"gamma": [0.5, 2.0], "brightness": [-0.2, 0.2], "shuffle_channels": 0.5}


def batches(config: Config, first: int, last: int) -> list[Batch]:
    position, steps = first * config.data.batch, last - first
    return list(training_loader(TrainingPatches(config), position, steps, pin=False))


def finished(config: Config, steps: int) -> dict[int, torch.Tensor]:
    """{position: (6, P, P)}: sharp and blurry as the networks get them."""
    samples: dict[int, torch.Tensor] = {}
    for batch in batches(config, 0, steps):
        sharp = batch.sharp.float() / 255
        blurry = degrade(sharp, config.degrade, batch.draws)
        sharp, blurry = augment([sharp, blurry], config.augment, batch.draws)
        for row in torch.cat([sharp, blurry], dim=1):
            samples[len(samples)] = row
    return samples


@pytest.mark.parametrize("source", ["folder", "dead_leaves", "mixture"])
def test_a_sample_has_the_same_bits_at_any_batch_size_and_worker_count(
    tiny_config: Callable[..., Config], sharp_folder: Path, source: str
) -> None:
    sharp = {"folder": str(sharp_folder), "dead_leaves": "dead_leaves", "mixture": ["dead_leaves", str(sharp_folder)]}[source]
    runs = []
    for batch, workers in ((4, 0), (8, 2)):
        data = {"sharp": sharp, "batch": batch, "workers": workers}
        runs.append(finished(tiny_config(data=data, degrade=EVERYTHING, augment=PHOTOMETRIC), 32 // batch))
    assert len(runs[0]) == len(runs[1]) == 32
    for position, sample in runs[0].items():
        assert torch.equal(sample, runs[1][position]), position


@pytest.mark.parametrize(("keep_mb", "reads"), [(0, 12), (1000, 6)])
def test_images_that_fit_are_read_once_and_samples_stay_what_they_are(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, keep_mb: float, reads: int
) -> None:
    expected = finished(tiny_config(data={"keep_mb": 0}), 3)
    read, counted = ImageFile.read, []

    def counting(self: ImageFile) -> Triplet:
        counted.append(self.stem)
        return read(self)

    monkeypatch.setattr(ImageFile, "read", counting)
    samples = finished(tiny_config(data={"keep_mb": keep_mb}), 3)  # 12 samples of 6 images
    assert len(counted) == reads
    assert all(torch.equal(sample, expected[position]) for position, sample in samples.items())


def test_a_data_set_goes_to_a_loader_process_that_is_spawned(tiny_config: Callable[..., Config]) -> None:
    """As everywhere but on Linux: pickled, with what it has read."""
    dataset = TrainingPatches(tiny_config())
    sample = dataset[0]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0].sharp, sample.sharp)


def test_a_loader_that_starts_in_the_middle_gives_what_comes_there(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    whole, rest = batches(config, 0, 6), batches(config, 4, 6)
    assert [b.names for b in rest] == [b.names for b in whole[4:]]
    assert all(torch.equal(a.sharp, b.sharp) for a, b in zip(rest, whole[4:], strict=True))
    assert all(torch.equal(a.draws[key], b.draws[key]) for a, b in zip(rest, whole[4:], strict=True) for key in a.draws)


def test_each_image_comes_once_per_pass_and_passes_differ(tiny_config: Callable[..., Config]) -> None:
    names = [name for batch in batches(tiny_config(), 0, 9) for name in batch.names]  # 36 samples of 6 images
    passes = [names[start : start + 6] for start in range(0, 36, 6)]
    assert all(len(set(one)) == 6 for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_short_epochs_walk_on_where_the_last_one_ended(tiny_config: Callable[..., Config]) -> None:
    """Six images, four an epoch: the second epoch takes the other two, and wraps round into the next pass."""
    config = tiny_config(data={"images_per_epoch": 4, "batch": 2})
    assert len(TrainingPatches(config)) == 4
    names = [name for batch in batches(config, 0, 6) for name in batch.names]  # three epochs, two passes
    assert len(set(names[:4])) == 4
    assert set(names[4:6]) == set(names[:6]) - set(names[:4])
    assert set(names[:6]) == set(names[6:12])
    assert len(set(names)) == 6


def test_the_same_image_is_cropped_differently_in_every_pass(tiny_config: Callable[..., Config]) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    for batch in batches(tiny_config(), 0, 9):
        for name, patch in zip(batch.names, batch.sharp, strict=True):
            seen.setdefault(name, []).append(patch)
    for patches in seen.values():
        assert len({patch.numpy().tobytes() for patch in patches}) > 1


def test_another_seed_is_another_stream(tiny_config: Callable[..., Config]) -> None:
    first = batches(tiny_config(), 0, 1)[0]
    second = batches(tiny_config(run={"seed": 1}), 0, 1)[0]
    assert not torch.equal(first.sharp, second.sharp)


def test_a_mixture_takes_from_its_sources_in_equal_parts(tiny_config: Callable[..., Config], sharp_folder: Path) -> None:
    config = tiny_config(data={"sharp": ["dead_leaves", str(sharp_folder)]})
    names = [name for batch in batches(config, 0, 6) for name in batch.names]
    assert Counter(name.startswith("dead_leaves/") for name in names) == {True: 12, False: 12}
    assert len(set(names)) == 12 + 6


@pytest.fixture
def damaged(sharp_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(sharp_folder, folder)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:200])
    (folder / "2.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_replaced_by_the_next_of_its_pass_and_named(
    tiny_config: Callable[..., Config], damaged: Path, workers: int
) -> None:
    loaded = batches(tiny_config(data={"sharp": str(damaged), "workers": workers}), 0, 3)
    names = [Path(name).stem for batch in loaded for name in batch.names]
    assert len(names) == 12
    assert set(names) == {"0", "3", "4", "5"}
    skipped = {bad for batch in loaded for bad in batch.skipped}
    assert {Path(bad.path).name for bad in skipped} == {"1.png", "2.png"}
    assert all(isinstance(bad, Skipped) and bad.reason for bad in skipped)


def test_a_bad_image_is_named_whatever_its_path_holds(tiny_config: Callable[..., Config], damaged: Path, tmp_path: Path) -> None:
    folder = damaged.rename(tmp_path / "Trip: Rome")
    config = tiny_config(data={"sharp": str(folder), "val": {"sharp": str(folder)}})
    skipped = Skipped(str(folder / "2.png"), "an empty file")
    assert skipped in {bad for batch in batches(config, 0, 3) for bad in batch.skipped}
    assert skipped in list(ValidationImages(config))  # type: ignore[call-overload]


def test_bad_images_alone_end_the_run(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("text")
    with pytest.raises(ImageError, match="none of its 1 images can be used"):
        batches(tiny_config(data={"sharp": str(tmp_path / "bad")}), 0, 1)


def test_a_pair_of_different_size_is_skipped(tiny_config: Callable[..., Config], sharp_folder: Path, tmp_path: Path) -> None:
    blurry = tmp_path / "blurry"
    shutil.copytree(sharp_folder, blurry)
    Image.new("RGB", (40, 40)).save(blurry / "0.png")
    loaded = batches(tiny_config(data={"blurry": str(blurry)}), 0, 3)
    skipped = loaded[0].skipped + loaded[1].skipped
    assert skipped[0].reason.startswith("40x40 pixels, but its sharp image")
    for batch in loaded:
        assert batch.blurry is not None
        assert torch.equal(batch.blurry, batch.sharp)  # the same crop of both; these pairs hold the same pixels


def test_an_image_smaller_than_the_patch_is_padded(tiny_config: Callable[..., Config]) -> None:
    assert batches(tiny_config(data={"patch": 96}), 0, 1)[0].sharp.shape == (4, 3, 96, 96)


def test_validation_blur_depends_on_the_images_name_alone(
    tiny_config: Callable[..., Config], sharp_folder: Path, tmp_path: Path
) -> None:
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    shutil.copy(sharp_folder / "3.png", fewer)
    alone = ValidationImages(tiny_config(data={"val": {"sharp": str(fewer)}}))[0]
    among = {b.names[0]: b for b in ValidationImages(tiny_config(data={"val": {"sharp": str(sharp_folder)}}))}  # type: ignore[attr-defined]
    assert isinstance(alone, Batch)
    assert alone.draws == among["3"].draws
    assert len({float(b.draws["degrade.0.strength"]) for b in among.values()}) == 6


def test_a_file_name_that_is_no_utf_8_is_drawn_for_too(
    tiny_config: Callable[..., Config], sharp_folder: Path, tmp_path: Path
) -> None:
    names = ["a.png", os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"caf\xe8.png")]
    try:
        for name in names:
            shutil.copy(sharp_folder / "0.png", tmp_path / name)
    except (OSError, ValueError):
        pytest.skip("this file system takes valid UTF-8 alone")
    config = tiny_config(data={"sharp": str(tmp_path), "workers": 1, "val": {"sharp": str(tmp_path)}})
    (batch,) = batches(config, 0, 1)
    assert {Path(name).name for name in batch.names} == {Path(name).stem for name in names}
    strengths = {float(image.draws["degrade.0.strength"]) for image in ValidationImages(config)}  # type: ignore[attr-defined]
    assert len(strengths) == 3


def test_validation_takes_centres_and_an_even_choice(tiny_config: Callable[..., Config]) -> None:
    images = ValidationImages(tiny_config(eval={"crop": 48, "images": 2}))
    assert len(images) == 2
    assert [b.names[0] for b in images] == ["0", "sub/5"]  # type: ignore[attr-defined]
    assert all(b.sharp.shape == (1, 3, 48, 48) for b in images)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("suffix", "step"), [(".jpg", 8), (".JPEG", 8), (".jfif", 8), (".png", 1)])
def test_crops_keep_to_the_blocks_of_a_blurry_jpeg(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, step: int
) -> None:
    for number in range(4):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (70, 77, 3), np.uint8)).save(
            tmp_path / f"{number}{suffix}"
        )
    places: list[int] = []
    monkeypatch.setattr(
        datasets, "cut", lambda pixels, side, top, left: places.extend((top, left)) or cut(pixels, side, top, left)
    )
    images = {"sharp": None, "blurry": str(tmp_path)}
    config = tiny_config(data=images | {"val": images}, degrade=[], eval={"crop": 41})
    batches(config, 0, 10)
    assert len(set(places)) > 3
    assert any(place % 8 for place in places) == (step == 1)
    (first, *_) = ValidationImages(config)
    whole = np.asarray(Image.open(tmp_path / f"0{suffix}"))
    top, left = (14, 18) if step == 1 else (8, 16)  # of 70 - 41 and 77 - 41 pixels around the centre
    assert isinstance(first, Batch)
    np.testing.assert_array_equal(first.blurry[0].permute(1, 2, 0), whole[top : top + 41, left : left + 41])
