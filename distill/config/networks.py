"""The sections `teacher` and `student`: the network to learn from, and the network that is trained."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from safetensors import safe_open

from distill.config.types import Count, Positive, Precision, Section

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
    """`online`: the teacher restores every batch during training. `cached`: training reads the teacher's images from `cache`.
    `none`: no teacher; the loss has only the terms `l1` and `vgg`."""
    weights: str = "motion_deblurring"
    """A small teacher that comes with the package: `general` (softness, defocus, motion blur, noise and JPEG) or `embedded`
    (softness only). Or a file. Or a published Restormer: `motion_deblurring`, `real_denoising`, `gaussian_color_denoising_blind`,
    `single_image_defocus_deblurring`, `deraining`. The hashes of the last two are not known here: `sha256` must be given, or the
    file. A file can hold a Restormer, a U-Net of this
    project, or, with `pip install -e ".[teachers]"`, another restoration network that the package spandrel recognises."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """sha256 of the weights file, checked if given. Required for a published name whose hash this project lacks."""
    each_channel: bool = False
    """For weights of one channel, the published grey denoisers: apply the network to each channel of a colour image. false: only
    grey images are restored, and an image with colours ends the run."""
    precision: Literal["auto", Precision] = "auto"
    """`auto` in mode `cached`: the precision of the cache. Else on CUDA: fp16. Else: bf16 if the CPU has instructions for it and
    the teacher is at least 1.2 times as fast in it on a batch of the run, and precise enough; if not, fp32. A run that goes on
    keeps what it had. On other CPUs half precision is many times slower than fp32. A network of spandrel that cannot compute in
    the precision takes another one, with a warning."""
    micro_batch: Count | None = None
    """Largest number of patches that the teacher restores at once. null: the whole batch. Limits memory, changes no result."""
    reuse: Count = 1
    """Mode `online`: number of steps in a row that use the same patches and the same teacher's images, flipped and turned anew
    for each step as `augment` allows. The teacher runs in the first of them only. Data echoing is the name of this in
    arXiv:1907.05550. A flipped image of the teacher is not exactly its image of the flipped patch."""
    compile: bool = False
    """On CUDA: compile the network's blocks with torch.compile, for the shape of the batches that it gets in training. Inputs of
    other shapes go through the network that is not compiled. Compiling takes a minute at the start. Results differ only by
    rounding."""
    check: Literal["warn", "error", "off"] = "warn"
    """The teacher is tested before training. If it does not improve the validation images, `warn` prints a warning and `error`
    stops the run. `off`: no test."""
    cache: str = "outputs/teacher_output"
    """Folder of the teacher's images, which mode `cached` reads. The command `distill.cache` writes them there as PNG files. The
    pack that its option `--pack` writes elsewhere can be given instead."""
    on_missing: Literal["error", "compute"] = "error"
    """Mode `cached`: what to do if the cache lacks a valid teacher image. `error`: stop before the first step. `compute`:
    compute the image when training first needs it, and store it."""
    tile: Annotated[int, Field(ge=128, multiple_of=8)] = 640
    """The teacher restores at most tile x tile pixels at once when it restores whole images for the cache. Larger images are cut
    into overlapping tiles, and smaller images are batched. The published Restormer at 640 takes 2.4 GB in fp32 on a CPU."""


class UNetConfig(Section):
    arch: Literal["unet"] = "unet"
    """The architecture of the student. Each architecture has its own keys."""
    width: Annotated[int, Field(ge=1, le=1024)] = 32
    """Channels of the first level. Each level down doubles the number."""
    depth: Annotated[int, Field(ge=2, le=5)] = 4
    """Number of levels, including the bottleneck."""
    residual: bool = True
    """Whether the network predicts a correction of its input instead of the image itself. The correction is zero at the start."""
    norm: Literal["batch", "none"] = "batch"
    """`batch`: BatchNorm after each 3x3 convolution. `none`: no normalisation."""
    block: Literal["double_conv", "residual"] = "double_conv"
    """What a level consists of. `double_conv`, as in the original project: two convolutions, max-pooling, skips that are
    concatenated. `residual`: residual blocks, and skips that are added. Somewhat better in the same time."""
    blocks: list[Annotated[int, Field(ge=0)]] | None = None
    """For `block: residual`, and needed there: the number of residual blocks of each level, the bottleneck last. Encoder and
    decoder of a level have as many each."""
    compile: bool = False
    """Compile the network with torch.compile for training, which takes a minute at the start. For long runs on a GPU."""
    init: str | None = None
    """Weights to start from. `general`: the student that comes with the package; keys of the architecture that are not given are
    then its own. Or a file that this project or the original project wrote. From a checkpoint of the original project, Adam's
    moments are loaded too."""

    @model_validator(mode="before")
    @classmethod
    def _as_the_general_student(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("init") != GENERAL:
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
    """The architecture of the student. Each architecture has its own keys."""
    dim: Count = 48
    """Channels of the first level, an even number. Each level down doubles the number."""
    num_blocks: Annotated[list[Count], Field(min_length=4, max_length=4)] = [4, 6, 6, 8]
    """Number of transformer blocks at each level."""
    num_refinement_blocks: Annotated[int, Field(ge=0)] = 4
    """Number of transformer blocks at full resolution, at the end of the network."""
    heads: Annotated[list[Count], Field(min_length=4, max_length=4)] = [1, 2, 4, 8]
    """Number of attention heads at each level. It must divide the level's channels."""
    ffn_expansion_factor: Positive = 2.66
    """Hidden channels of each feed-forward part, as a multiple of its level's channels."""
    bias: bool = False
    """Whether the convolutions have a bias."""
    LayerNorm_type: Literal["WithBias", "BiasFree"] = "WithBias"
    """`WithBias`: LayerNorm subtracts the mean and adds a bias. `BiasFree`: LayerNorm only scales."""
    compile: bool = False
    """Compile the network with torch.compile for training, which takes a minute at the start. For long runs on a GPU."""
    init: str | None = None
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
