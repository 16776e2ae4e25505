"""Images of several sources: which sample comes from which, with which bits, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distill.config import Config, ConfigError, parse_config
from distill.data.batch import Batch, unpack
from distill.data.datasets import TrainingPatches, ValidationImages
from distill.data.image_files import ImageError
from distill.data.loader import training_loader
from distill.data.sources import Source, training_sources, validation_images
from distill.synthesis.augment import augment


@pytest.fixture
def sources(sharp_folder: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """Sharp images, pairs, and three samples in a row without sharp images; all files have the same names."""
    for name in ("blurry", "mine"):
        (tmp_path / name).mkdir()
    for number in range(5):
        pixels = Image.open(sharp_folder / f"{number}.png")
        pixels.resize((40, 40)).resize(pixels.size).save(tmp_path / "blurry" / f"{number}.png")
        pixels.point(lambda level: 255 - level).save(tmp_path / "mine" / f"{number}.png")
    (tmp_path / "sharp").mkdir()
    for number in range(5):
        Image.open(sharp_folder / f"{number}.png").save(tmp_path / "sharp" / f"{number}.png")
    return [
        {"sharp": str(sharp_folder)},
        {"sharp": str(tmp_path / "sharp"), "blurry": str(tmp_path / "blurry")},
        {"blurry": str(tmp_path / "mine"), "parts": 3},
    ]


def samples(config: Config, positions: int) -> list[tuple[str, list[Tensor]]]:
    """(name, [blurry, sharp if there is one]) of the first samples, augmented as a step does it."""
    found: list[tuple[str, list[Tensor]]] = []
    loader = training_loader(TrainingPatches(config), 0, positions // config.data.batch, pin=False)
    for batch in loader:
        images = augment(unpack(batch, config.degrade), config.augment, batch.draws)
        for index, name in enumerate(batch.names):
            sharp, blurry = (None if image is None else image[index] for image in images)
            assert blurry is not None
            found.append((name, [blurry, *([sharp] if sharp is not None and batch.has_sharp[index] else [])]))
    return found


@pytest.mark.parametrize(("batch", "workers"), [(8, 0), (4, 2), (2, 1)])
def test_a_sample_has_the_same_bits_in_any_batch(
    tiny_config: Callable[..., Config], sources: list[dict[str, Any]], batch: int, workers: int
) -> None:
    def data(**keys: Any) -> Config:
        changes = {"shuffle_channels": 0.5, "gamma": [0.8, 1.2]}
        return tiny_config(data={"sharp": None, "sources": sources, "workers": 0, **keys}, augment=changes)

    one, other = samples(data(batch=4), 24), samples(data(batch=batch, workers=workers), 24)
    assert len(one) == 24
    for (name, images), (other_name, other_images) in zip(one, other, strict=True):
        assert name == other_name
        assert all(torch.equal(*pair) for pair in zip(images, other_images, strict=True))


def test_sources_take_turns_by_their_parts(tiny_config: Callable[..., Config], sources: list[dict[str, Any]]) -> None:
    dataset = TrainingPatches(tiny_config(data={"sharp": None, "sources": sources, "images_per_epoch": None}))
    batches = [dataset[position] for position in range(30)]
    assert [batch.names[0].split("/")[1] for batch in batches[:10]] == list("0122201222")
    assert [batch.has_sharp[0] for batch in batches[:5]] == [True, True, False, False, False]
    assert [dataset.count_sharp(first, 4) for first in range(5)] == [2, 1, 1, 2, 2]
    mine = [batch.names[0] for batch in batches if batch.names[0].startswith("sources/2/")][:5]
    assert len({*mine}) == 5  # each image once before any comes again
    assert len(dataset) == 5 * 6  # until the largest source, of six images, has been gone through


def test_each_source_of_a_list_has_draws_and_an_order_of_its_own(tiny_config: Callable[..., Config], sharp_folder: Path) -> None:
    twice = TrainingPatches(tiny_config(data={"sharp": None, "sources": [{"sharp": str(sharp_folder)}] * 2}))
    names = [[twice[position].names[0].partition("/")[2].partition("/")[2] for position in range(n, 12, 2)] for n in (0, 1)]
    assert sorted(names[0]) == sorted(names[1])
    assert names[0] != names[1]


def test_the_short_form_keeps_its_names(tiny_config: Callable[..., Config], sharp_folder: Path) -> None:
    """Random numbers depend on them."""
    assert TrainingPatches(tiny_config())[0].names[0].startswith(f"{sharp_folder}/")
    blurry = tiny_config(data={"sharp": None, "blurry": str(sharp_folder)}, stages=[{"name": "v", "epochs": 1}])
    assert training_sources(blurry.data) == [
        Source(str(sharp_folder), training_sources(blurry.data)[0].images, has_sharp=False, parts=1, number=None)
    ]
    assert TrainingPatches(blurry)[0].sharp is None


def test_a_bad_blurry_file_is_replaced_by_one_of_its_source(
    tiny_config: Callable[..., Config], sources: list[dict[str, Any]], tmp_path: Path
) -> None:
    for number in range(4):
        (tmp_path / "mine" / f"{number}.png").write_bytes(b"nothing")
    dataset = TrainingPatches(tiny_config(data={"sharp": None, "sources": sources}))
    batch = dataset[2]
    assert batch.names == ["sources/2/4"]
    assert {Path(bad.path).parent for bad in batch.skipped} <= {tmp_path / "mine"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"sources": [{}]}}, "data.sources.0: no images: give sharp, blurry, or both"),
        ({"data": {"sharp": "a", "sources": [{"sharp": "a"}]}}, "data: sharp beside sources; list all images as sources"),
        ({"data": {"sources": [{"sharp": "samples", "blurry": "b"}]}}, "data.sources.0: .*samples is no folder"),
        ({"data": {"sources": [{"sharp": "a", "parts": 0}]}}, "data.sources.0.parts"),
        ({"data": {"sharp": "a", "blurry_name": "{stem}x4"}}, "data: blurry_name is for pairs"),
        ({"data": {"sharp": "a", "blurry": "b", "blurry_name": "x4"}}, "data: blurry_name: a file's name without suffix"),
        ({"data": {"sources": [{"blurry": "b", "blurry_name": "{stem}x4"}]}}, "data.sources.0: blurry_name is for pairs"),
        ({"data": {"blurry_name": "{stem}x4", "sources": [{"sharp": "a"}]}}, "data: blurry_name beside sources"),
        ({"data": {"sources": [{"sharp": "a"}], "val": {"sources": [{"sharp": "dead_leaves"}]}}}, "data.val"),
        ({"data": {"blurry": "b"}, "teacher": {"mode": "none"}}, r"data \(b\) has no sharp images, and teacher.mode is none"),
        (
            {"data": {"sources": [{"sharp": "a"}, {"blurry": "b"}]}, "stages": [{"name": "s", "epochs": 1, "kd": 0.0}]},
            r"data.sources.1 \(b\) has no sharp images, and stages.0 learns from sharp images alone",
        ),
        (
            {
                "data": {"sharp": "a", "val": {"blurry": "b"}},
                "teacher": {"mode": "none"},
                "stages": [{"name": "s", "epochs": 1, "kd": 0.0}],
            },
            r"data.val \(b\) has no sharp images, and teacher.mode is none",
        ),
        ({"data": {"sharp": None}}, "data: sharp is null, and there is no blurry folder either"),
        ({"data": {"sharp": "a", "val": {"sharp": None}}}, "data.val: sharp is null, and there is no blurry folder either"),
        (
            {"data": {"blurry": "b"}, "stages": [{"name": "s", "epochs": 1, "vgg": 1.0}]},
            r"data \(b\) has no sharp images, but stages.0.vgg compares with them; set vgg.against: teacher",
        ),
        (
            {"data": {"sources": [{"blurry": "b"}, {"sharp": "a"}]}, "teacher": {"mode": "cached"}},
            "teacher.mode: cached needs data.sources.1.blurry, .* the blur of a is new",
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:40],
)
def test_what_cannot_be_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    tree = {"stages": [{"name": "s", "epochs": 1}], "degrade": [{"kind": "noise", "sigma": [1.0, 2.0]}]} | change
    with pytest.raises(ConfigError, match=message):
        parse_config(tree)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"blurry": "b", "val": {"blurry": "b"}},
        {"sources": [{"sharp": "a"}, {"blurry": "b", "parts": 2}], "val": {"sources": [{"blurry": "c"}, {"sharp": "samples"}]}},
    ],
    ids=["default", "blurry", "list"],
)
def test_a_dumped_configuration_reads_back_as_itself(data: dict[str, Any]) -> None:
    degrade = [] if data.get("blurry") else [{"kind": "noise", "sigma": [1.0, 2.0]}]
    config = parse_config({"data": data, "degrade": degrade, "stages": [{"name": "s", "epochs": 1}]})
    assert parse_config(config.model_dump(mode="json")) == config


def test_validation_images_of_several_sources(tiny_config: Callable[..., Config], sources: list[dict[str, Any]]) -> None:
    listed = [{key: value for key, value in source.items() if key != "parts"} for source in sources]
    images = ValidationImages(tiny_config(data={"val": {"sharp": None, "sources": listed}}))
    assert len(images) == 6 + 5 + 5
    batches = [batch for index in range(16) if isinstance(batch := images[index], Batch)]
    assert [batch.has_sharp[0] for batch in batches] == [True] * 11 + [False] * 5
    assert len({batch.names[0] for batch in batches}) == 16


@pytest.mark.parametrize(("count", "sharp"), [(1, 1), (4, 1), (10, 3)])
def test_a_choice_of_validation_images_has_both_kinds(
    tiny_config: Callable[..., Config], sources: list[dict[str, Any]], sharp_folder: Path, count: int, sharp: int
) -> None:
    """Otherwise it would be chance which measure decides. Of 16 images 5 have a sharp one."""
    listed = [
        {"blurry": str(sharp_folder)},
        {key: sources[1][key] for key in ("sharp", "blurry")},
        {"blurry": sources[2]["blurry"]},
    ]
    images = ValidationImages(tiny_config(data={"val": {"sharp": None, "sources": listed}}, eval={"images": count})).images
    assert len(images) == count
    assert sum(image.sharp is not None for image in images) == sharp


def test_validation_blur_is_the_same_in_a_list(tiny_config: Callable[..., Config], sharp_folder: Path) -> None:
    listed = [{"blurry": str(sharp_folder)}, {"sharp": str(sharp_folder)}]
    alone = ValidationImages(tiny_config())
    later = ValidationImages(tiny_config(data={"val": {"sharp": None, "sources": listed}}))
    for index in range(6):
        one, other = alone[index], later[6 + index]
        assert isinstance(one, Batch)
        assert isinstance(other, Batch)
        assert one.draws == other.draws


def test_an_image_that_is_its_own_sharp_image_is_refused_for_validation(
    tiny_config: Callable[..., Config], sharp_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(sharp_folder)
    config = tiny_config(data={"val": {"sharp": str(sharp_folder), "blurry": str(tmp_path / "link")}})
    with pytest.raises(ImageError, match=r"data.val: .*png is its own sharp image; to validate without sharp"):
        ValidationImages(config)


def test_pixels_of_a_blurry_file_are_the_networks_input(
    tiny_config: Callable[..., Config], sources: list[dict[str, Any]], tmp_path: Path
) -> None:
    """And not the file of the same name of another source."""
    config = tiny_config(data={"sharp": None, "sources": sources}, augment={"flip": False, "rotate": False})
    dataset = TrainingPatches(config)
    batch = next(batch for position in range(30) if (batch := dataset[position]).names[0] == "sources/2/0")
    _, blurry = unpack(batch, config.degrade)
    patch = (blurry[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    whole = np.asarray(Image.open(tmp_path / "mine" / "0.png"))
    places = [(y, x) for y in range(whole.shape[0] - 31) for x in range(whole.shape[1] - 31)]
    assert any(np.array_equal(whole[y : y + 32, x : x + 32], patch) for y, x in places)


def test_a_template_pairs_images_of_other_names(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    for path in ("hr/0801.png", "lr/0801x4.png"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).touch()
    pair = {"sharp": str(tmp_path / "hr"), "blurry": str(tmp_path / "lr"), "blurry_name": "{stem}x4"}
    for data in (pair, {"sharp": None, "sources": [pair]}):
        config = tiny_config(data={**data, "val": pair}, degrade=[])
        (source,) = training_sources(config.data)
        for (image,) in (source.images, validation_images(config.data.val)):
            assert image.stem.endswith("0801")
            assert (image.sharp, image.blurry) == (tmp_path / "hr/0801.png", tmp_path / "lr/0801x4.png")
