"""The schema of `degrade`: what makes a blurry image of a sharp one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from distill.config.types import Probability, Section, range_of


class _Degradation(Section):
    probability: Probability = 1.0
    """How often a sample gets this degradation."""


class GaussianBlur(_Degradation):
    kind: Literal["gaussian_blur"]
    """Blurs alike in all directions."""
    sigma: range_of(0.1, 50)  # type: ignore[valid-type]
    """Standard deviation in pixels."""


class MotionBlur(_Degradation):
    kind: Literal["motion_blur"]
    """Blurs along a stroke."""
    length: range_of(3, 99)  # type: ignore[valid-type]
    """Length of the stroke in pixels, rounded to an odd number; its direction is uniform over the circle."""


class Rescale(_Degradation):
    kind: Literal["rescale"]
    """Takes resolution away."""
    factor: range_of(1, 16)  # type: ignore[valid-type]
    """Bicubic down by this factor and up again."""
    antialias: bool = True
    """As PIL does it; false: as OpenCV does it, which lets fine patterns turn into coarse ones."""


class Noise(_Degradation):
    kind: Literal["noise"]
    """Adds noise."""
    sigma: range_of(0, 255)  # type: ignore[valid-type]
    """Standard deviation of white Gaussian noise, in 8-bit levels."""


class Jpeg(_Degradation):
    kind: Literal["jpeg"]
    """Compresses."""
    quality: range_of(1, 100)  # type: ignore[valid-type]
    """JPEG quality, as libjpeg counts it."""


Degradation = Annotated[GaussianBlur | MotionBlur | Rescale | Noise | Jpeg, Field(discriminator="kind")]

_ORIGINAL = {"kind": "rescale", "factor": [4.0, 4.0], "antialias": False}
DEGRADE_PRESETS: dict[str, list[dict[str, Any]]] = {
    # The original project's blur, as its code has it: OpenCV's bicubic down by 4 and up again.
    "bicubic_x4": [_ORIGINAL],
    # As its text has it, which adds motion blur without saying how much.
    "bicubic_x4_motion": [_ORIGINAL, {"kind": "motion_blur", "length": [5.0, 15.0]}],
}


def _expand_preset(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in DEGRADE_PRESETS:
        raise ValueError(f"a list of degradations, or one of the presets {', '.join(DEGRADE_PRESETS)}")
    return DEGRADE_PRESETS[value]


# For editors: a preset's name is as good as a list.
_Written = list[Degradation] | Literal["bicubic_x4", "bicubic_x4_motion"]
Degradations = Annotated[list[Degradation], BeforeValidator(_expand_preset, json_schema_input_type=_Written)]


class Recipe(Section):
    """A list of degradations, or a preset's name, by itself."""

    degrade: Degradations
