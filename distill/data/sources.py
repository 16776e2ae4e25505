"""The image files that a configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from distill.config import DataConfig, ImagesConfig
from distill.data.find import find_images, pair_images
from distill.data.triplets import ImageFile

# The colour photographs in scikit-image's wheel. Both views of the motorcycle's stereo pair stay in one set. chelsea and coffee
# are for validation only, so that the figures of every shipped configuration come from photographs that nothing was trained on.
SAMPLES_FOR_TRAINING = (
    "astronaut.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
SAMPLES_FOR_VALIDATION = ("chelsea.png", "coffee.png")


def list_images(images: ImagesConfig, source: str, samples: Sequence[str]) -> list[ImageFile]:
    """The files of one source: those of a folder, of a pair of folders, or, if the source is called samples, the photographs of
    scikit-image that `samples` lists. Raises FileNotFoundError and ImageError."""
    if source == "samples":
        folder = Path(str(files("skimage.data")))
        return [ImageFile(Path(name).stem, folder / name) for name in samples]
    if images.blurry is None:
        return [ImageFile(stem, path) for stem, path in find_images(source).items()]
    return [ImageFile(stem, *paths) for stem, paths in pair_images(source, images.blurry).items()]


@dataclass(frozen=True)
class Source:
    """One source of training images."""

    name: str
    """The source as the configuration spells it. Every sample's name contains it, so that the random numbers depend on it."""
    images: list[ImageFile] | None
    """None for dead leaves, which are endless and have no files."""


def training_sources(data: DataConfig) -> list[Source]:
    """The sources that `data.sharp` names. Raises FileNotFoundError and ImageError if images are missing."""
    names = [data.sharp] if isinstance(data.sharp, str) else data.sharp
    return [Source(name, None if name == "dead_leaves" else list_images(data, name, SAMPLES_FOR_TRAINING)) for name in names]
