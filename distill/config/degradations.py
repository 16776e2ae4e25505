"""The schema of `degrade`: the operations that make a blurry image from a sharp one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from distill.config.types import Probability, Section, range_of


class _Degradation(Section):
    probability: Probability = 1.0
    """Probability that a sample gets this degradation."""


class GaussianBlur(_Degradation):
    kind: Literal["gaussian_blur"]
    """Blurs equally in all directions."""
    sigma: range_of(0.1, 50)  # type: ignore[valid-type]
    """Standard deviation in pixels."""


class Defocus(_Degradation):
    kind: Literal["defocus"]
    """Blurs as a lens out of focus: each point becomes an even disc."""
    radius: range_of(0.5, 25)  # type: ignore[valid-type]
    """Radius of the disc in pixels."""


class MotionBlur(_Degradation):
    kind: Literal["motion_blur"]
    """Blurs along a straight line."""
    length: range_of(3, 99)  # type: ignore[valid-type]
    """Length of the line in pixels, rounded to an odd number. Its direction is random."""


class Rescale(_Degradation):
    kind: Literal["rescale"]
    """Reduces the resolution."""
    factor: range_of(1, 16)  # type: ignore[valid-type]
    """The image is scaled down by this factor and up again, both bicubic."""
    antialias: bool = True
    """true: as PIL. false: as OpenCV, without antialiasing; fine patterns can turn into coarse ones."""


class Noise(_Degradation):
    kind: Literal["noise"]
    """Adds noise."""
    sigma: range_of(0, 255)  # type: ignore[valid-type]
    """Standard deviation of white Gaussian noise, in 8-bit levels."""


class Jpeg(_Degradation):
    kind: Literal["jpeg"]
    """Compresses as JPEG."""
    quality: range_of(1, 100)  # type: ignore[valid-type]
    """JPEG quality on libjpeg's scale."""


Degradation = Annotated[GaussianBlur | Defocus | MotionBlur | Rescale | Noise | Jpeg, Field(discriminator="kind")]

_ORIGINAL = {"kind": "rescale", "factor": [4.0, 4.0], "antialias": False}
DEGRADE_PRESETS: dict[str, list[dict[str, Any]]] = {
    # The blur in the original project's code: OpenCV's bicubic scaling, down by 4 and up again.
    "bicubic_x4": [_ORIGINAL],
    # The blur in the original project's text: the same, then motion blur. The text gives no length; 5 to 15 was chosen here.
    "bicubic_x4_motion": [_ORIGINAL, {"kind": "motion_blur", "length": [5.0, 15.0]}],
}


def _expand_preset(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in DEGRADE_PRESETS:
        raise ValueError(f"a list of degradations, or one of the presets {', '.join(DEGRADE_PRESETS)}")
    return DEGRADE_PRESETS[value]


# The JSON schema for editors accepts a preset's name in place of a list.
_Written = list[Degradation] | Literal["bicubic_x4", "bicubic_x4_motion"]
Degradations = Annotated[list[Degradation], BeforeValidator(_expand_preset, json_schema_input_type=_Written)]


class Recipe(Section):
    """`degrade` without the rest of a configuration: a list of degradations or a preset's name."""

    degrade: Degradations
