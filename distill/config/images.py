"""The sections `data` and `augment`: which images, in what portions, and how they are varied."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from distill.config.types import Count, Probability, Section, range_of


class ImagesConfig(Section):
    sharp: str | list[str] = "samples"
    """A folder, searched recursively (`*` in the path matches folder names), or `samples` (photographs that scikit-image
    ships), or `dead_leaves` (synthetic, endless). A list mixes sources in equal parts."""
    blurry: str | None = None
    """A folder whose files pair with `sharp` by relative stem; null: `degrade` makes the blurry image on the device."""

    @model_validator(mode="after")
    def _check_pairs(self) -> ImagesConfig:
        if self.blurry is not None and (isinstance(self.sharp, list) or self.sharp in ("samples", "dead_leaves")):
            raise ValueError("a blurry folder pairs with one folder of sharp images")
        if isinstance(self.sharp, list) and not self.sharp:
            raise ValueError("sharp is an empty list")
        return self


class ValidationImagesConfig(ImagesConfig):
    sharp: Annotated[str | list[str], WithJsonSchema({"type": "string"})] = "samples"
    """As `data.sharp`; `samples` are here chelsea and coffee, on which nothing shipped is trained."""

    @field_validator("sharp")
    @classmethod
    def _check_finite(cls, sharp: str | list[str]) -> str | list[str]:
        if not isinstance(sharp, str) or sharp == "dead_leaves":
            raise ValueError("validation images are one folder, or samples")
        return sharp


class DataConfig(ImagesConfig):
    patch: Annotated[int, Field(ge=16)] = 256
    """Side of the square training patches, in pixels; a smaller image is mirrored to it."""
    batch: Count = 8
    """Samples per optimiser step, over all GPUs."""
    images_per_epoch: Count | None = None
    """How far an epoch walks through the images, wrapping round; null: once through all of them."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Loader processes. They decode and draw random numbers; the rest happens on the device."""
    keep_mb: Annotated[float, Field(ge=0)] = 128.0
    """Decoded images that each of them keeps, in MB: a set of images that fits is decoded once."""
    val: ValidationImagesConfig = ValidationImagesConfig()
    """Images to validate on, and to score with `distill.evaluate`."""


class AugmentConfig(Section):
    flip: bool = True
    """Horizontal and vertical flips, each for half of the samples."""
    rotate: bool = True
    """Rotations by a random multiple of 90 degrees."""
    gamma: range_of(0.1, 10) = (1.0, 1.0)  # type: ignore[valid-type]
    """Exponent applied to blurry and sharp alike, drawn on a logarithmic scale."""
    brightness: range_of(-1, 1) = (0.0, 0.0)  # type: ignore[valid-type]
    """Added to blurry and sharp alike; 1 is the whole range from black to white."""
    shuffle_channels: Probability = 0.0
    """How often the colour channels of both change places."""
