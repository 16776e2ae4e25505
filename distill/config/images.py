"""The sections `data` and `augment`: which images a run uses, how it cuts and batches them, and how it augments them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from distill.config.types import Count, PathName, Probability, Section, Side, range_of

# Names that stand in place of a folder.
SAMPLES, DEAD_LEAVES = "samples", "dead_leaves"


def check_blurry_name(name: str | None, is_pair: bool) -> None:
    """Raises ValueError if the name does not say what a blurry image of a pair is called."""
    if name is not None and not is_pair:
        raise ValueError("blurry_name is for pairs: give a folder of sharp images and one of blurry images")
    if name is not None and (name.count("{stem}") != 1 or "/" in name):
        raise ValueError(f"blurry_name: a file's name without suffix, with {{stem}} for its sharp image's, found {name}")


class ImageSource(Section):
    """One source of images."""

    sharp: PathName | None = None
    """A folder, or `samples`. null: nobody has the sharp images."""
    blurry: PathName | None = None
    """A folder. With a `sharp` folder, the two pair by name. null: `degrade` makes the blurry images."""
    blurry_name: str | None = None
    """As `data.blurry_name`."""

    @model_validator(mode="after")
    def _check_images(self) -> ImageSource:
        if self.sharp is None and self.blurry is None:
            raise ValueError("no images: give sharp, blurry, or both")
        if self.blurry is not None and self.sharp in (SAMPLES, DEAD_LEAVES):
            raise ValueError(f"a blurry folder pairs with a folder of sharp images, and {self.sharp} is no folder")
        check_blurry_name(self.blurry_name, is_pair=self.sharp is not None and self.blurry is not None)
        return self

    @property
    def folder(self) -> str:
        """How messages name the source."""
        return self.sharp if self.blurry is None and self.sharp is not None else str(self.blurry)


class TrainingSource(ImageSource):
    sharp: PathName | None = None
    """A folder, `samples` or `dead_leaves`. null: only the teacher says what the images should be."""
    parts: Count = 1
    """Its share of the samples, in proportion to the `parts` of the others."""


class ImagesConfig(Section):
    sharp: PathName | list[PathName] | None = None
    """A folder of sharp images, searched recursively; in its path `*` matches folder names, and `**` any number of folders.
    `samples`: photographs that scikit-image ships. `dead_leaves`: an endless stream of synthetic shapes. A list mixes its sources
    in equal parts. null: nobody has the sharp images. If no images are given: `samples`."""
    blurry: PathName | None = None
    """A folder of blurry images. Each pairs with the image of the same path below `sharp`; suffixes may differ. null: `degrade`
    makes them. With `sharp: null`: photographs without sharp images."""
    blurry_name: str | None = None
    """Name of a pair's blurry image without suffix, where it differs: `"{stem}_blur"` pairs `0801.png` with `0801_blur.png`."""

    @model_validator(mode="before")
    @classmethod
    def _default(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or any(tree.get(key) is not None for key in ("sharp", "blurry", "sources")):
            return tree
        if "sharp" in tree:
            raise ValueError("sharp is null, and there is no blurry folder either: give one of them, or sources")
        return tree | {"sharp": SAMPLES}

    @model_validator(mode="after")
    def _check_pairs(self) -> ImagesConfig:
        if self.blurry is not None and (isinstance(self.sharp, list) or self.sharp in (SAMPLES, DEAD_LEAVES)):
            raise ValueError(
                "a blurry folder pairs with one folder of sharp images; to mix several, list them as sources; if nobody has the"
                " sharp images, sharp: null"
            )
        if isinstance(self.sharp, list) and not self.sharp:
            raise ValueError("sharp is an empty list")
        if getattr(self, "sources", None) is None:
            check_blurry_name(self.blurry_name, is_pair=self.sharp is not None and self.blurry is not None)
        return self

    def _one_form(self, sources: Sequence[ImageSource] | None) -> None:
        """Raises ValueError if the images are written in both forms."""
        beside = [key for key in ("sharp", "blurry", "blurry_name") if getattr(self, key) is not None]
        if sources is not None and beside:
            raise ValueError(f"{' and '.join(beside)} beside sources; list all images as sources, and set {beside[0]}: null")

    def _short_form(self) -> list[ImageSource]:
        """The sources that `sharp` and `blurry` name."""
        names = self.sharp if isinstance(self.sharp, list) else [self.sharp]
        return [ImageSource(sharp=sharp, blurry=self.blurry, blurry_name=self.blurry_name) for sharp in names]


class ValidationImagesConfig(ImagesConfig):
    # The type admits a list, so that `_check_one_folder` can refuse it in its own words. The JSON schema admits only a string.
    sharp: Annotated[PathName | list[PathName] | None, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})] = None
    """A folder, or `samples`: here chelsea and coffee, on which nothing shipped is trained. null: the student is compared with
    the teacher."""
    sources: Annotated[list[ImageSource], Field(min_length=1)] | None = None
    """Several sources, instead of `sharp` and `blurry`. If some have sharp images, those decide which student is the best."""

    @field_validator("sharp")
    @classmethod
    def _check_one_folder(cls, sharp: str | list[str] | None) -> str | list[str] | None:
        if isinstance(sharp, list) or sharp == DEAD_LEAVES:
            raise ValueError("validation images are one folder, or samples; list several as sources")
        return sharp

    @model_validator(mode="after")
    def _check_sources(self) -> ValidationImagesConfig:
        self._one_form(self.sources)
        if any(source.sharp == DEAD_LEAVES for source in self.sources or []):
            raise ValueError("sources: validation images are folders, or samples")
        return self

    @property
    def entries(self) -> list[ImageSource]:
        """The sources, in whichever form they are written."""
        return self._short_form() if self.sources is None else self.sources

    @property
    def has_sharp(self) -> bool:
        """Whether any image has its sharp one. Then those images decide which student is the best."""
        return any(source.sharp is not None for source in self.entries)


class DataConfig(ImagesConfig):
    sources: Annotated[list[TrainingSource], Field(min_length=1)] | None = None
    """Several sources, instead of `sharp` and `blurry`, used in turn. Random numbers and a teacher cache depend on their
    order."""
    patch: Side = 256
    """Side of the square training patches, in pixels. Smaller images are extended by reflection."""
    batch: Count = 8
    """Samples per optimiser step, summed over all GPUs."""
    images_per_epoch: Count | None = None
    """Samples per epoch; may exceed the number of images. null: that number; with several sources, enough to use each image of
    the largest once."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Loader processes, which decode images."""
    keep_mb: Annotated[float, Field(ge=0)] = 128.0
    """Memory in MB in which each loader process keeps decoded images. If all fit, it decodes each once."""
    val: ValidationImagesConfig = ValidationImagesConfig()
    """Images to validate on, and to score with `distill.evaluate`."""

    @model_validator(mode="after")
    def _check_sources(self) -> DataConfig:
        self._one_form(self.sources)
        return self

    @property
    def entries(self) -> list[TrainingSource]:
        """The sources, in whichever form they are written."""
        return [TrainingSource(**dict(source)) for source in self._short_form()] if self.sources is None else self.sources

    @property
    def has_sharp(self) -> bool:
        """Whether any training image has its sharp one."""
        return any(source.sharp is not None for source in self.entries)


class AugmentConfig(Section):
    flip: bool = True
    """Horizontal and vertical flips, each for half of the samples."""
    rotate: bool = True
    """Rotations by a random multiple of 90 degrees."""
    gamma: range_of(0.1, 10) = (1.0, 1.0)  # type: ignore[valid-type]
    """Exponent of a gamma correction, drawn on a logarithmic scale."""
    brightness: range_of(-1, 1) = (0.0, 0.0)  # type: ignore[valid-type]
    """Offset. 1 is the whole range from black to white."""
    shuffle_channels: Probability = 0.0
    """Probability that the colour channels change places."""
