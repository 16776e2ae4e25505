"""The sections `teacher` and `student`: the network to learn from, and the one that is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from distill.config.types import Count, Positive, Precision, Section


class TeacherConfig(Section):
    mode: Literal["online", "cached", "none"] = "online"
    """`online`: the teacher restores every batch inside the loop. `cached`: its images are read from `cache`. `none`: no
    teacher; L1 and VGG alone."""
    weights: str = "motion_deblurring"
    """`embedded` (the small teacher that comes with the package), a file, or a published Restormer: `motion_deblurring`,
    `real_denoising`, `gaussian_color_denoising_blind`; `single_image_defocus_deblurring` and `deraining` need `sha256` too. The
    architecture is read off the file; BasicSR's files will do."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of the weights file: checked when given, needed for a published name whose hash is not known."""
    precision: Literal["auto", Precision] = "auto"
    """`auto` is fp16 on CUDA and fp32 elsewhere; on a CPU half precision is slower."""
    micro_batch: Count | None = None
    """The teacher takes at most so many patches at a time; null: the whole batch. Bounds memory, changes no result."""
    compile: bool = False
    """On CUDA: torch.compile the network's blocks for the training batch, which takes a minute at the start. Changes rounding
    alone."""
    check: Literal["warn", "error", "off"] = "warn"
    """What to do before training when the teacher does not improve the validation images."""
    cache: str = "outputs/teacher_output"
    """The folder that `distill.cache` writes, or packs, and mode `cached` reads."""
    on_missing: Literal["error", "compute"] = "error"
    """Mode `cached`, where images have no valid cached one: stop before the first step, or compute each when it first comes
    and store it."""
    tile: Annotated[int, Field(ge=128, multiple_of=8)] = 640
    """At most tile x tile pixels at once when the teacher restores whole images for the cache: larger ones are cut into
    overlapping tiles, smaller ones batched. The published Restormer at 640 takes 2.4 GB in fp32 on a CPU."""


class UNetConfig(Section):
    arch: Literal["unet"] = "unet"
    """Which network; the other keys are its own."""
    width: Annotated[int, Field(ge=1, le=1024)] = 32
    """Channels of the first level; each level down doubles them."""
    depth: Annotated[int, Field(ge=2, le=5)] = 4
    """Levels, the bottleneck included."""
    residual: bool = True
    """Predict a correction of the input, zero at the start, instead of the image."""
    norm: Literal["batch", "none"] = "batch"
    """BatchNorm after each 3x3 convolution, or nothing."""
    compile: bool = False
    """torch.compile the network for training; takes a minute at the start. For long runs on a GPU."""
    init: str | None = None
    """Weights to start from: a file that this project or the original one wrote. With the original's resume file Adam's moments
    come along."""


class RestormerConfig(Section):
    """The keywords of the published network; the defaults are its 26 million parameters."""

    arch: Literal["restormer"]
    """Which network; the other keys are its own."""
    dim: Count = 48
    """Channels of the first level, an even number; each level down doubles them."""
    num_blocks: Annotated[list[Count], Field(min_length=4, max_length=4)] = [4, 6, 6, 8]
    """Transformer blocks of each level."""
    num_refinement_blocks: Annotated[int, Field(ge=0)] = 4
    """Blocks at full resolution, at the end."""
    heads: Annotated[list[Count], Field(min_length=4, max_length=4)] = [1, 2, 4, 8]
    """Attention heads of each level, which divide its channels."""
    ffn_expansion_factor: Positive = 2.66
    """Hidden channels of a feed-forward part, as a multiple of its level's."""
    bias: bool = False
    """Of the convolutions."""
    LayerNorm_type: Literal["WithBias", "BiasFree"] = "WithBias"
    """Whether LayerNorm subtracts the mean and adds a bias, or only scales."""
    compile: bool = False
    """As of the U-Net."""
    init: str | None = None
    """Weights to start from: a published name, a file, or `embedded`."""


StudentConfig = Annotated[
    Annotated[UNetConfig, Tag("unet")] | Annotated[RestormerConfig, Tag("restormer")],
    Discriminator(
        lambda v: v.get("arch", "unet") if isinstance(v, dict) else getattr(v, "arch", "unet"),
        custom_error_type="student_arch",
        custom_error_message="arch is unet or restormer",
    ),
]
