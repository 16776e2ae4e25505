"""The image files that a configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from distill.config import DEAD_LEAVES, SAMPLES, DataConfig, ImageSource, ValidationImagesConfig
from distill.data.find import find_images, pair_images
from distill.data.image_files import ImageError
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


def list_images(source: ImageSource, samples: Sequence[str]) -> list[ImageFile]:
    """The files of one source: those of a folder, of a pair of folders, or, if the source is called samples, the photographs of
    scikit-image that `samples` lists. Raises FileNotFoundError and ImageError."""
    if source.sharp == SAMPLES:
        folder = Path(str(files("skimage.data")))
        return [ImageFile(Path(name).stem, folder / name) for name in samples]
    if source.sharp is None:
        return [ImageFile(stem, None, path) for stem, path in find_images(str(source.blurry)).items()]
    if source.blurry is None:
        return [ImageFile(stem, path) for stem, path in find_images(source.sharp).items()]
    pairs = pair_images(source.sharp, source.blurry, source.blurry_name or "{stem}")
    return [ImageFile(stem, *paths) for stem, paths in pairs.items()]


def numbered(images: Sequence[ImageFile], source: int) -> list[ImageFile]:
    """The images with the source's number before their stems, so that stems of two sources cannot be the same."""
    return [replace(image, stem=f"{source}/{image.stem}") for image in images]


def paired_with_itself(images: Sequence[ImageFile]) -> Path | None:
    """A file that is its own sharp image, such as when a folder is given both as sharp and as blurry. None if there is none."""
    pairs = ((image.sharp, image.blurry) for image in images if image.sharp is not None and image.blurry is not None)
    return next((sharp for sharp, blurry in pairs if sharp == blurry or sharp.samefile(blurry)), None)


@dataclass(frozen=True)
class Source:
    """One source of training images."""

    name: str
    """The source as the configuration spells it, or `sources` for one of a list, whose stems begin with its number. A sample's
    name contains it, so that the random numbers depend on it."""
    images: list[ImageFile] | None
    """None for dead leaves, which are endless and have no files."""
    has_sharp: bool = True
    parts: int = 1
    """How many samples in a row come from it before it is the next source's turn."""
    number: int | None = None
    """Its place in the list `data.sources`, so that two sources of the same length have orders of their own. None in the short
    form."""

    @property
    def label(self) -> str:
        """How messages name the source."""
        return self.name if self.number is None else f"data.sources.{self.number}"


def training_sources(data: DataConfig) -> list[Source]:
    """The sources of training images. Raises FileNotFoundError and ImageError if images are missing."""
    found = []
    for number, source in enumerate(data.entries):
        images = None if source.sharp == DEAD_LEAVES else list_images(source, SAMPLES_FOR_TRAINING)
        has_sharp = source.sharp is not None
        if data.sources is None:
            found.append(Source(source.folder if source.sharp is None else source.sharp, images, has_sharp))
        else:
            images = None if images is None else numbered(images, number)
            found.append(Source("sources", images, has_sharp, source.parts, number))
    return found


def cached_images(data: DataConfig) -> list[ImageFile]:
    """The training images of all sources whose blurry file is on disk: a teacher cache has the teacher's images of these. Raises
    what `training_sources` raises."""
    return [image for source in training_sources(data) for image in source.images or [] if image.blurry is not None]


def validation_images(val: ValidationImagesConfig) -> list[ImageFile]:
    """All validation images. Raises FileNotFoundError and ImageError if images are missing, or if one is its own sharp image."""
    found: list[ImageFile] = []
    for number, source in enumerate(val.entries):
        images = list_images(source, SAMPLES_FOR_VALIDATION)
        if (path := paired_with_itself(images)) is not None:
            raise ImageError(
                f"data.val: {path} is its own sharp image; to validate without sharp images, set data.val.sharp: null"
            )
        found += images if val.sources is None else numbered(images, number)
    return found
