"""The YAML schema: one file describes one run, and a typo in it stops the run before anything is built.

Every key has its default and its meaning here. Loading checks names, types and contradictions; that paths exist is checked by
the command that uses them. Needs neither torch nor a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from distill.config_errors import explain, short
from distill.config_types import Count, Positive, Precision, Probability, Section, Shape, range_of
from distill.degradations import Degradations, Recipe
from distill.strict_yaml import apply_override, dump_yaml, parse_yaml

MAX_BYTES = 2**20
SHOWN_ERRORS = 3
DEVICE_NAMES = r"^(auto|cpu|mps|cuda(:\d+)?)$"


class ConfigError(ValueError):
    """A configuration that cannot be run. The message is one line that names the key, what was found and what would be right."""


Schema = TypeVar("Schema", bound=BaseModel)


class RunConfig(Section):
    dir: str = "runs/default"
    """The run folder. A run whose folder holds a checkpoint goes on from it."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Every random draw is a function of this, the epoch and the image's path."""
    device: Annotated[str, Field(pattern=DEVICE_NAMES)] = "auto"
    """`auto` is `cuda` where there is one, else `cpu`; Apple's GPU is taken where `mps` is named."""
    save_minutes: Positive = 10.0
    """A checkpoint at least this often, besides those at the ends of epochs."""
    log_steps: Count = 20
    """Losses are read from the device, and written, every so many steps."""


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


TeacherForm = Literal[
    "reference",
    "reference_keeping_pages",
    "reference_compiled",
    "reference_compiled_keeping_pages",
    "ours",
    "ours_eager",
    "ours_kernels",
]

StudentConfig = Annotated[
    Annotated[UNetConfig, Tag("unet")] | Annotated[RestormerConfig, Tag("restormer")],
    Discriminator(
        lambda v: v.get("arch", "unet") if isinstance(v, dict) else getattr(v, "arch", "unet"),
        custom_error_type="student_arch",
        custom_error_message="arch is unet or restormer",
    ),
]


class StageConfig(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    """Names the file that the stage ends with: student_model_<name>.pth."""
    epochs: Count
    """Of `data.images_per_epoch` samples each."""
    l1: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the L1 distance to the sharp image."""
    kd: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the L1 distance to the teacher's image."""
    vgg: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the L1 distance between VGG16 features."""

    @model_validator(mode="after")
    def _check_any(self) -> StageConfig:
        if self.l1 == self.kd == self.vgg == 0:
            raise ValueError("l1, kd and vgg are all 0: there is nothing to learn from")
        return self


class VggConfig(Section):
    weights: str = "imagenet"
    """`imagenet` (torchvision downloads 528 MB), `random`, or a file of torchvision's vgg16 weights."""
    normalize: bool = True
    """Subtract ImageNet's mean and divide by its deviation first. The original project did not."""
    resize: Annotated[int, Field(ge=16)] | None = None
    """Resize bilinearly to this side first. The original project: 224."""
    against: Literal["sharp", "teacher"] = "sharp"
    """Whose features the prediction's are compared with."""


class OptimizerConfig(Section):
    lr: Positive = 1e-4
    """Adam's learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine` falls to zero at the end of the last stage."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Linear rise from zero."""
    clip_norm: Positive | None = None
    """Largest norm of the whole gradient."""
    accumulate: Count = 1
    """Splits each batch into so many parts, one after the other, for less memory; the step stays the same but for
    BatchNorm's statistics."""
    max_skipped: Count = 30
    """Updates in a row that may not be finite, and are skipped; one more stops the run. fp16's loss scaler may need 15 at the
    start."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the moving average of the weights, which is then what is validated and kept."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """The student's mixed precision, on CUDA only: `auto` is bf16 where the GPU has it, else fp16 with a loss scaler."""


class EvalConfig(Section):
    crop: Annotated[int, Field(ge=16)] | None = 512
    """Validation uses a centre crop of at most this side; null: whole images."""
    images: Count | None = None
    """At most so many validation images, evenly spread; null: all."""
    every_epochs: Count = 1
    """Validates after so many epochs, and at the end of each stage."""
    samples: Count = 4
    """Rows of the picture blurry | student | teacher | sharp."""


class BenchConfig(Section):
    """What `distill.bench` measures besides the loop that the other sections describe. Shapes are [images, height, width]."""

    rounds: Count = 5
    """Timed repetitions of everything, in turn; medians count."""
    steps: Annotated[int, Field(ge=4)] = 10
    """Training steps in each of them."""
    network: Literal["teacher", "published"] = "teacher"
    """Whose forward pass: of `teacher.weights`, or of the published Restormer with random weights, for which nothing is
    downloaded."""
    teacher_shapes: list[Shape] = []
    """Of the teacher's input; empty: the training batch."""
    teacher_forms: Annotated[list[TeacherForm], Field(min_length=1)] = ["reference", "ours"]
    """`reference`: as the paper writes it, uncompiled. `_compiled`: with torch.compile. `_keeping_pages`, on a CPU: with the C
    library told to keep freed memory, as our commands tell it. `ours_eager` and `ours_kernels`, on a GPU: without compiling, and
    with the Triton kernels whatever their speed."""
    precisions: Annotated[list[Literal["auto", Precision]], Field(min_length=1)] = ["auto"]
    """Of the teacher."""
    student_shapes: list[Shape] = []
    """Of the student's input at inference; empty: the training batch."""
    student_widths: list[Count] = []
    """Of U-Nets that are otherwise as `student`; empty: the student alone."""


class Config(Section):
    run: RunConfig = RunConfig()
    """Where a run is kept, and on what it computes."""
    data: DataConfig = DataConfig()
    """Which images, and in what portions."""
    degrade: Degradations = []
    """What makes a blurry image of a sharp one, in this order, or the name of a preset."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes that blurry and sharp images share."""
    teacher: TeacherConfig = TeacherConfig()
    """The network to learn from."""
    student: StudentConfig = UNetConfig()
    """The network that is trained."""
    stages: Annotated[list[StageConfig], Field(min_length=1)]
    """What is minimised, and for how long; stages run one after the other with one optimiser."""
    vgg: VggConfig = VggConfig()
    """The perceptual loss, where a stage has a `vgg` weight."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How a batch becomes an update."""
    eval: EvalConfig = EvalConfig()
    """What is validated, and when."""
    bench: BenchConfig = BenchConfig()

    @model_validator(mode="after")
    def _check_contradictions(self) -> Config:
        needs_degrade = [key for key, d in (("data", self.data), ("data.val", self.data.val)) if d.blurry is None]
        if needs_degrade and not self.degrade:
            raise ValueError(f"{needs_degrade[0]}.blurry is null and degrade is empty: give one, or nothing makes a blurry image")
        if self.degrade and not needs_degrade:
            raise ValueError("degrade is given although data.blurry and data.val.blurry are folders; remove one")
        if self.data.batch % self.optimizer.accumulate:
            raise ValueError(f"optimizer.accumulate: {self.optimizer.accumulate} does not divide data.batch: {self.data.batch}")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("stages: two have the same name, and would write the same file")
        for index, stage in enumerate(self.stages):
            if self.teacher.mode == "none" and stage.kd > 0:
                raise ValueError(f"stages.{index}.kd: {stage.kd:g} needs a teacher, but teacher.mode is none; set one of them")
            if self.teacher.mode == "none" and stage.vgg > 0 and self.vgg.against == "teacher":
                raise ValueError("vgg.against: teacher needs a teacher, but teacher.mode is none")
        if self.teacher.mode == "cached":
            self._check_cacheable()
        endless = "dead_leaves" in ([self.data.sharp] if isinstance(self.data.sharp, str) else self.data.sharp)
        if endless and self.data.images_per_epoch is None:
            raise ValueError("data.images_per_epoch: dead_leaves has no end; say how many images make an epoch")
        return self

    def _check_cacheable(self) -> None:
        if self.data.blurry is None:
            raise ValueError(
                "teacher.mode: cached needs data.blurry, a folder: a teacher's image can be kept only of a blur that is kept;"
                " python -m distill.prepare makes one"
            )
        photometric = {"gamma": (1.0, 1.0), "brightness": (0.0, 0.0), "shuffle_channels": 0.0}
        for key, neutral in photometric.items():
            if (value := getattr(self.augment, key)) != neutral:
                raise ValueError(
                    f"augment.{key}: {value} changes colours, and a cached teacher image would be wrong for the changed input;"
                    " remove it, or set teacher.mode: online"
                )


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a YAML file, applies `key.path=value` overrides, and validates.

    Raises FileNotFoundError, and ConfigError for whatever is wrong in the file or the overrides.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"config not found: {path}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ConfigError(f"{path}: {size} bytes are no configuration; {MAX_BYTES} are allowed")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError(f"a config is a mapping of sections, found {short(tree)}")
        for override in overrides:
            apply_override(tree, override)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ConfigError(f"{path}: {error}") from None
    return parse_config(tree, source=str(path))


def parse_config(tree: dict[str, Any], source: str = "config") -> Config:
    """Validates a nested dictionary; raises ConfigError."""
    return _validate(Config, tree, source)


def parse_recipe(text: str) -> list[Any]:
    """The degradations that `text` says: a preset, a YAML list, or a config file whose `degrade` is meant. Raises ConfigError and
    FileNotFoundError."""
    if text.endswith((".yaml", ".yml")):
        return load_config(text).degrade
    try:
        tree = {"degrade": parse_yaml(text)}
    except ValueError as error:
        raise ConfigError(f"degrade: {error}") from None
    return _validate(Recipe, tree, short(text)).degrade


def _validate(schema: type[Schema], tree: dict[str, Any], source: str) -> Schema:
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        errors = error.errors()
        more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        shown = "; ".join(explain(schema, tree, e) for e in errors[:SHOWN_ERRORS])
        raise ConfigError(f"{source}: {shown}{more}") from None


def dump_config(config: Config) -> str:
    """YAML from which `load_config` makes an equal Config, defaults included."""
    return dump_yaml(config.model_dump(mode="json"))
