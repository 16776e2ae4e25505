"""The sections `data` and `augment`: which images a run uses, how it cuts and batches them, and how it augments them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from distill.config.types import Count, Probability, Section, range_of


class ImagesConfig(Section):
    sharp: str | list[str] = "samples"
    """A folder of sharp images, `samples` or `dead_leaves`. A folder is searched recursively, and `*` in its path matches folder
    names. `samples` are photographs that scikit-image ships. `dead_leaves` are synthetic images of shapes that cover one another;
    they never end. A list mixes its sources in equal parts."""
    blurry: str | None = None
    """A folder of blurry images. Each forms a pair with the image that has the same path below the folder `sharp`; only the
    suffixes may differ. null: `degrade` makes the blurry images on the device."""

    @model_validator(mode="after")
    def _check_pairs(self) -> ImagesConfig:
        if self.blurry is not None and (isinstance(self.sharp, list) or self.sharp in ("samples", "dead_leaves")):
            raise ValueError("a blurry folder pairs with one folder of sharp images")
        if isinstance(self.sharp, list) and not self.sharp:
            raise ValueError("sharp is an empty list")
        return self


class ValidationImagesConfig(ImagesConfig):
    # The type admits a list, so that `_check_one_folder` can refuse it in its own words. The JSON schema admits only a string.
    sharp: Annotated[str | list[str], WithJsonSchema({"type": "string"})] = "samples"
    """A folder as in `data.sharp`, or `samples`. Here `samples` are the photographs chelsea and coffee. Nothing that this project
    ships is trained on them."""

    @field_validator("sharp")
    @classmethod
    def _check_one_folder(cls, sharp: str | list[str]) -> str | list[str]:
        if not isinstance(sharp, str) or sharp == "dead_leaves":
            raise ValueError("validation images are one folder, or samples")
        return sharp


class DataConfig(ImagesConfig):
    patch: Annotated[int, Field(ge=16)] = 256
    """Side of the square training patches, in pixels. A smaller image is extended to this size by reflection."""
    batch: Count = 8
    """Samples per optimiser step, summed over all GPUs."""
    images_per_epoch: Count | None = None
    """Number of samples per epoch. After the last image, a new pass over the images begins. null: one pass over all images, or
    over those of the largest source if `sharp` is a list."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Number of loader processes. They decode images and draw random numbers. Degrading, augmenting and the networks run on the
    device."""
    keep_mb: Annotated[float, Field(ge=0)] = 128.0
    """Memory in which each loader process keeps decoded images, in MB. If all images fit, a process decodes each of them once."""
    val: ValidationImagesConfig = ValidationImagesConfig()
    """Images to validate on, and to score with `distill.evaluate`."""


class AugmentConfig(Section):
    flip: bool = True
    """Horizontal and vertical flips, each for half of the samples."""
    rotate: bool = True
    """Rotations by a random multiple of 90 degrees."""
    gamma: range_of(0.1, 10) = (1.0, 1.0)  # type: ignore[valid-type]
    """Exponent of a gamma correction, the same for the blurry and the sharp image. It is drawn on a logarithmic scale."""
    brightness: range_of(-1, 1) = (0.0, 0.0)  # type: ignore[valid-type]
    """Offset added to the blurry and the sharp image. 1 is the whole range from black to white."""
    shuffle_channels: Probability = 0.0
    """Probability that the colour channels change places, in the blurry and the sharp image alike."""
