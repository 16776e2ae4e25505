"""The sections `teacher` and `student`: the network to learn from, and the network that is trained."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from safetensors import safe_open

from distill.config.types import Count, PathName, Positive, Precision, Section

GENERAL = "general"
"""The name of the weights, for a teacher and for each architecture of student, that were trained on common degradations."""


def general_student() -> Path:
    """The student file of the general U-Net, which comes with this package."""
    # The package `unet` is found, and not imported: that would load torch.
    spec = find_spec("unet")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pretrained" / "general.safetensors"


class TeacherConfig(Section):
    mode: Literal["online", "cached", "none"] = "online"
    """`online`: the teacher restores every batch. `cached`: its images are read from `cache`. `none`: no teacher."""
    weights: PathName = "motion_deblurring"
    """A small teacher of this package: `general` (Gaussian blur, defocus, motion blur, noise and JPEG) or `embedded` (Gaussian
    blur only). Or a published Restormer, which is downloaded: `motion_deblurring`, `real_denoising`,
    `gaussian_color_denoising_blind`, `single_image_defocus_deblurring`, `deraining`; the last two need `sha256`. Or a file: a
    Restormer, a U-Net of this project, or, with `pip install -e ".[teachers]"`, another network that spandrel recognises."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """sha256 of the weights file, checked if given."""
    each_channel: bool = False
    """For weights of one channel (grey denoisers): apply the network to each channel of a colour image. false: an image with
    colours ends the run."""
    precision: Literal["auto", Precision] = "auto"
    """`auto` in mode `cached`: the precision of the cache. On CUDA: fp16. On a CPU with instructions for bf16: bf16 if that is
    precise enough and at least 1.2 times as fast. Else fp32: on other CPUs half precision is many times slower."""
    micro_batch: Count | None = None
    """Most patches that the teacher restores at once. null: the whole batch. Limits memory, changes no result."""
    reuse: Count = 1
    """Mode `online`: steps in a row that share patches and the teacher's images, flipped and turned anew for each. The teacher
    runs in the first only; for the others its images are approximate."""
    compile: bool = False
    """On CUDA: torch.compile for the shape of the training batches, which takes a minute at the start. Results differ by
    rounding."""
    check: Literal["warn", "error", "off"] = "warn"
    """If the teacher does not improve the validation images: `warn` prints a warning, `error` stops the run before training.
    `off`: no test."""
    cache: PathName = "outputs/teacher_output"
    """Mode `cached`: folder of the teacher's images, which `distill.cache` writes, or a pack of its `--pack`."""
    on_missing: Literal["error", "compute"] = "error"
    """Mode `cached`, if the cache lacks a valid image: `error` stops before the first step, `compute` makes and stores it when
    first needed."""
    tile: Annotated[int, Field(ge=128, multiple_of=8)] = 640
    """For the cache, larger images are restored in overlapping tiles of this side in pixels. The published Restormer at 640
    takes 2.4 GB in fp32 on a CPU."""


class UNetConfig(Section):
    arch: Literal["unet"] = "unet"
    """Each architecture has its own keys."""
    width: Annotated[int, Field(ge=1, le=1024)] = 32
    """Channels of the first level. Each level down doubles them."""
    depth: Annotated[int, Field(ge=2, le=5)] = 4
    """Levels, including the bottleneck."""
    residual: bool = True
    """true: the network predicts a correction of its input, zero at the start. false: the image itself."""
    norm: Literal["batch", "none"] = "batch"
    """`batch`: BatchNorm after each 3x3 convolution."""
    block: Literal["double_conv", "residual"] = "double_conv"
    """`double_conv`: as in the original project. `residual`: residual blocks, and skips that are added; somewhat better at
    equal milliseconds."""
    blocks: list[Annotated[int, Field(ge=0)]] | None = None
    """Required for `block: residual`: residual blocks of each level, the bottleneck last. Encoder and decoder have as many
    each."""
    compile: bool = False
    """torch.compile for training, which takes a minute at the start. For long runs on a GPU."""
    init: PathName | None = None
    """Weights to start from. `general`: the student of this package, whose architecture is then the default. Or a file of this
    or the original project. A checkpoint of the original project brings Adam's moments."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_general_student(cls, given: Any) -> Any:
        # A section that says how deep the network is describes another one, whose other keys have their own defaults.
        if not isinstance(given, dict) or given.get("init") != GENERAL or given.keys() & {"depth", "block", "blocks"}:
            return given
        with safe_open(general_student(), framework="numpy") as file:
            return json.loads(file.metadata()["architecture"]) | given

    @model_validator(mode="after")
    def _has_its_blocks(self) -> UNetConfig:
        if (self.blocks is None) == (self.block == "residual"):
            raise ValueError("blocks is given for block: residual, and only there")
        if self.blocks is not None and len(self.blocks) != self.depth:
            raise ValueError(f"blocks has one number for each level: {self.depth}, as depth says, not {len(self.blocks)}")
        return self


class RestormerConfig(Section):
    """The Restormer network. Except for `arch`, `compile` and `init`, its keys are the keyword arguments of the published code.
    The defaults give the published network of 26 million parameters."""

    arch: Literal["restormer"]
    """Each architecture has its own keys."""
    dim: Count = 48
    """Channels of the first level, an even number. Each level down doubles them."""
    num_blocks: Annotated[list[Count], Field(min_length=4, max_length=4)] = [4, 6, 6, 8]
    """Transformer blocks at each level."""
    num_refinement_blocks: Annotated[int, Field(ge=0)] = 4
    """Transformer blocks at full resolution, at the end."""
    heads: Annotated[list[Count], Field(min_length=4, max_length=4)] = [1, 2, 4, 8]
    """Attention heads at each level. They must divide the level's channels."""
    ffn_expansion_factor: Positive = 2.66
    """Hidden channels of feed-forward parts, as a multiple of the level's channels."""
    bias: bool = False
    """Whether the convolutions have a bias."""
    LayerNorm_type: Literal["WithBias", "BiasFree"] = "WithBias"
    """`WithBias`: subtracts the mean and adds a bias. `BiasFree`: only scales."""
    compile: bool = False
    """torch.compile for training, which takes a minute at the start. For long runs on a GPU."""
    init: PathName | None = None
    """Weights to start from: a file, or a name as in `teacher.weights`."""


# A plain discriminator would require `arch` in every file. Here a section without `arch` describes a U-Net.
StudentConfig = Annotated[
    Annotated[UNetConfig, Tag("unet")] | Annotated[RestormerConfig, Tag("restormer")],
    Discriminator(
        lambda v: v.get("arch", "unet") if isinstance(v, dict) else getattr(v, "arch", "unet"),
        custom_error_type="student_arch",
        custom_error_message="arch is unet or restormer",
    ),
]
