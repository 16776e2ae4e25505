"""A cache of several sources, some without sharp images: no image is taken for another's, in PNG files and in a pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import checkpoint, same_bits

from distill.cache import build_cache, pack_cache
from distill.config import ConfigError, parse_config
from distill.data.batch import to_tensor
from distill.data.image_files import read_image
from distill.data.sources import cached_images
from distill.networks.teacher import build_teacher
from distill.synthesis.eight_bit import to_float, to_uint8
from distill.teacher_cache.differences import find_differences
from distill.teacher_cache.manifest import CacheError
from distill.teacher_cache.store import TeacherCache
from distill.train import train


@pytest.fixture
def tree(pairs_tree: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Pairs, and other blurry images of the same names without sharp ones."""
    data = pairs_tree["data"]
    (tmp_path / "mine").mkdir()
    for path in Path(data["blurry"]).glob("*.png"):
        Image.open(path).rotate(180).save(tmp_path / "mine" / path.name)
    sources = [{"sharp": data.pop("sharp"), "blurry": data.pop("blurry")}, {"blurry": str(tmp_path / "mine")}]
    pairs_tree["data"] = data | {"sources": sources}
    pairs_tree["stages"][0]["epochs"] = 1
    return pairs_tree


def test_every_image_has_the_teachers_image_of_its_own_source(tree: dict[str, Any], tmp_path: Path) -> None:
    config = parse_config(tree)
    cache, images = build_cache(config), cached_images(config.data)
    assert len({image.stem for image in images}) == len(images) == 6 + 5
    packed = pack_cache(config, tmp_path / "pack")
    teacher = build_teacher(config.teacher, torch.device("cpu"))
    assert teacher is not None
    for image in images:
        assert image.blurry is not None
        blurry = read_image(image.blurry)
        expected = to_uint8(teacher(to_float(to_tensor(blurry))))[0].permute(1, 2, 0).numpy()
        for triplet in (cache.read(image), packed.read(image)):
            assert np.array_equal(triplet.blurry, blurry)
            assert np.abs(np.subtract(triplet.teacher, expected, dtype=int)).max() <= 1  # type: ignore[arg-type]
            assert (triplet.sharp is None) == (image.sharp is None)


def test_a_run_learns_the_same_from_png_files_and_from_a_pack(tree: dict[str, Any], tmp_path: Path) -> None:
    results = []
    for name, missing in (("png", "error"), ("pack", "error"), ("filled", "compute")):
        changed = tree | {"run": tree["run"] | {"dir": str(tmp_path / name)}}
        if name == "png":
            build_cache(parse_config(changed))
            pack_cache(parse_config(changed), tmp_path / "pack")
        folder = {"png": tree["teacher"]["cache"], "pack": str(tmp_path / "pack"), "filled": str(tmp_path / "filled_cache")}[name]
        config = parse_config(changed | {"teacher": tree["teacher"] | {"cache": folder, "on_missing": missing}})
        train(config)
        results.append(checkpoint(config)["student"])
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


def test_a_pack_without_the_sharp_images_that_are_there_now_is_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    """It would be read as images that have none."""
    pairs, mine = tree["data"]["sources"]
    without = tree | {"data": tree["data"] | {"sources": [{"blurry": pairs["blurry"]}, mine]}}
    pack_cache(parse_config(without), tmp_path / "pack")
    packed = TeacherCache(tmp_path / "pack")
    assert find_differences(packed, cached_images(parse_config(without).data)).to_compute == []
    found = find_differences(packed, cached_images(parse_config(tree).data))
    assert found.changed == [image.stem for image in cached_images(parse_config(tree).data) if image.sharp is not None]
    with pytest.raises(CacheError, match="changed since their teacher image was computed"):
        train(parse_config(tree | {"teacher": tree["teacher"] | {"cache": str(tmp_path / "pack")}}))


def test_a_source_whose_blur_is_made_anew_is_refused_by_name(tree: dict[str, Any], sharp_folder: Path) -> None:
    sources = [*tree["data"]["sources"], {"sharp": str(sharp_folder)}]
    online = tree | {"data": tree["data"] | {"sources": sources}, "teacher": {"mode": "online", "weights": "embedded"}}
    with pytest.raises(ConfigError, match=rf"data.sources.2.blurry: null leaves nothing of {sharp_folder} to cache"):
        build_cache(parse_config(online))
