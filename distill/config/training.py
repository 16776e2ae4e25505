"""The sections `run`, `stages`, `vgg`, `optimizer`, `eval` and `bench`: how a run trains, validates and is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill.config.types import Count, Positive, Precision, Section, Shape

DEVICE_NAMES = r"^(auto|cpu|mps|cuda(:\d+)?)$"


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


LOSS_TERMS = ("l1", "kd", "vgg")
"""The terms of the loss. Each is a key of a stage, its weight, and the name under which the term is logged."""


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
        if not any(self.weights.values()):
            raise ValueError("l1, kd and vgg are all 0: there is nothing to learn from")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term of the loss, by its name."""
        return {term: getattr(self, term) for term in LOSS_TERMS}

    def needs_target(self, vgg: VggConfig) -> bool:
        """Whether the loss compares with the teacher's image."""
        return self.kd > 0 or (self.vgg > 0 and vgg.against == "teacher")


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


TeacherForm = Literal[
    "reference",
    "reference_keeping_pages",
    "reference_compiled",
    "reference_compiled_keeping_pages",
    "ours",
    "ours_eager",
    "ours_kernels",
]


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
