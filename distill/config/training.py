"""The sections `run`, `stages`, `vgg`, `optimizer`, `eval` and `bench`: how a run trains, validates and is measured."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from distill.config.types import Count, Name, PathName, Positive, Precision, Section, Shape, Side

DEVICE_NAMES = r"^(auto|cpu|mps|cuda(:\d+)?)$"


class RunConfig(Section):
    dir: PathName = "runs/default"
    """The run folder. A run resumes from the checkpoint in it, if there is one."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the random numbers."""
    device: Annotated[str, Field(pattern=DEVICE_NAMES)] = "auto"
    """`auto` is `cuda` if there is a CUDA GPU, else `cpu`. Apple's GPU is used only if you give `mps`."""
    save_minutes: Positive = 10.0
    """Minutes between two checkpoints. The end of an epoch writes one too."""
    log_steps: Count = 20
    """Steps between two log entries. The end of an epoch is logged too."""


LOSS_TERMS = ("l1", "kd", "vgg")
"""The names of the loss terms. A stage gives the weight of a term under this name, and the term is logged under this name."""


class StageConfig(Section):
    name: Name
    """The student at the end of the stage is saved as student_model_<name>.pth."""
    epochs: Count
    """Number of epochs, of `data.images_per_epoch` samples each."""
    l1: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the L1 distance to the sharp image."""
    kd: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the L1 distance to the teacher's image (knowledge distillation)."""
    vgg: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the perceptual loss, section `vgg`."""
    patch: Side | None = None
    """In place of `data.patch` in this stage."""
    batch: Count | None = None
    """In place of `data.batch` in this stage."""
    lr: Positive | None = None
    """In place of `optimizer.lr` in this stage. A schedule goes on over all stages: half-way through a cosine, the rate is half
    of this."""

    @model_validator(mode="after")
    def _check_any(self) -> StageConfig:
        if not any(self.weights.values()):
            raise ValueError(f"{', '.join(LOSS_TERMS[:-1])} and {LOSS_TERMS[-1]} are all 0: there is nothing to learn from")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term of the loss, keyed by its name."""
        return {term: getattr(self, term) for term in LOSS_TERMS}

    def needs_target(self, vgg: VggConfig) -> bool:
        """Whether the loss compares the student's image with the teacher's."""
        return self.kd > 0 or (self.vgg > 0 and vgg.against == "teacher")


class VggConfig(Section):
    weights: PathName = "imagenet"
    """`imagenet` (downloads 528 MB), `random`, or a file of torchvision's vgg16 weights."""
    normalize: bool = True
    """Whether images are normalised with ImageNet's mean and standard deviation."""
    resize: Annotated[int, Field(ge=16)] | None = None
    """Side in pixels of the square to which images are resized, bilinearly. null: no resizing."""
    against: Literal["sharp", "teacher"] = "sharp"
    """The image whose VGG16 features the student's are compared with."""


class OptimizerConfig(Section):
    lr: Positive = 1e-4
    """Adam's learning rate."""
    schedule: Literal["constant", "cosine", "multistep", "cosine_restarts"] = "constant"
    """`cosine`: the learning rate falls to `lr_min` at the end of the last stage. `multistep`: it is multiplied by `gamma` at
    each of the `milestones`. `cosine_restarts`: it falls to `lr_min` and jumps back, again and again."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps at the start in which the learning rate rises linearly from zero. Cosines begin after them."""
    lr_min: Annotated[float, Field(ge=0)] = 0.0
    """Where a cosine ends."""
    milestones: list[Count] = []
    """Steps of the run after which `multistep` lowers the learning rate, in ascending order."""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor of `multistep`."""
    restart_steps: Count | None = None
    """Steps of the first cosine of `cosine_restarts`."""
    restart_factor: Count = 1
    """Each cosine of `cosine_restarts` is this many times as long as the one before."""
    clip_norm: Positive | None = None
    """A gradient of a larger norm is scaled down to it. null: no limit."""
    accumulate: Count = 1
    """Parts into which each batch is split to save memory. The step stays the same, except for BatchNorm's statistics."""
    max_skipped: Count = 30
    """Updates in a row that may be rejected because they are not finite. One more stops the run. In fp16, up to 15 are normal
    at the start."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the moving average of the weights, which is then what is validated and saved. null: no average."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """The student's mixed precision. `auto` on CUDA: bf16 if the GPU supports it, else fp16. `auto` on a CPU: bf16 if it has
    instructions for it and a training step is at least 1.2 times as fast, else none. fp16 needs CUDA. On Apple's GPU there is
    none."""

    @model_validator(mode="after")
    def _check_schedule(self) -> OptimizerConfig:
        multistep, restarts = ("milestones", "gamma"), ("restart_steps", "restart_factor")
        for key in (*multistep, *restarts):
            schedule = "multistep" if key in multistep else "cosine_restarts"
            value = getattr(self, key)
            if self.schedule == schedule and not value:
                raise ValueError(f"schedule: {schedule} needs {key}")
            if self.schedule != schedule and value != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key}: {value} does nothing with schedule: {self.schedule}; give schedule: {schedule}, or leave it out"
                )
        if self.lr_min and not self.schedule.startswith("cosine"):
            raise ValueError(f"lr_min: {self.lr_min:g} does nothing with schedule: {self.schedule}; leave it out")
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones: {self.milestones} are not in ascending order")
        return self


MetricName = Literal[
    "psnr_y", "ssim_y", "ssim_rgb", "psnr_y_matlab", "ssim_y_matlab", "ssim_rgb_matlab", "ssim_rgb_skimage", "lpips_vgg", "dists"
]
FURTHER_METRICS: tuple[MetricName, ...] = get_args(MetricName)


class EvalConfig(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seed of the validation images' blur. null: `run.seed`. Set it to compare runs of several `run.seed` on the same images."""
    crop: Annotated[int, Field(ge=16)] | None = 512
    """Largest side of the centre crop, in pixels. null: whole images."""
    images: Count | None = None
    """Largest number of images, chosen at even intervals. null: all."""
    every_epochs: Count = 1
    """Epochs between two validations. The end of a stage is validated too."""
    samples: Count = 4
    """Rows of the validation picture: blurry | student | teacher | sharp."""
    metrics: list[MetricName] = []
    """Scores beside PSNR and SSIM. docs/scores.md defines them and says which paper uses which. `lpips_vgg` and `dists` need
    `pip install -e ".[perceptual]"` and download weights."""

    @field_validator("metrics")
    @classmethod
    def _check_once(cls, metrics: list[MetricName]) -> list[MetricName]:
        if len(set(metrics)) < len(metrics):
            raise ValueError("a score is given twice")
        return metrics


TeacherForm = Literal[
    "reference",
    "reference_keeping_pages",
    "reference_compiled",
    "reference_compiled_keeping_pages",
    "ours",
    "ours_eager",
    "ours_kernels",
    "onnxruntime",
    "openvino",
]


class BenchConfig(Section):
    """What `distill.bench` measures in addition to the training loop, which the other sections describe. Shapes are
    [images, height, width]."""

    rounds: Count = 5
    """Each round times everything once. The result is the median of the rounds."""
    steps: Annotated[int, Field(ge=4)] = 10
    """Training steps per round."""
    network: Literal["teacher", "published"] = "teacher"
    """The teacher that is timed: the network of `teacher.weights`, or the published Restormer with random weights."""
    teacher_shapes: list[Shape] = []
    """Shapes of the teacher's input. Empty: that of the training batch."""
    teacher_forms: Annotated[list[TeacherForm], Field(min_length=1)] = ["reference", "ours"]
    """Forms of the teacher to compare. `reference`: as written in the paper; `_compiled`: with torch.compile; `_keeping_pages`:
    on a CPU, freed memory is kept. `ours`: as in training. On a GPU only: `ours_eager`, without compilation and CUDA graph;
    `ours_kernels`, the same with Triton kernels, even if they are slower. On a CPU, if installed: `onnxruntime` and `openvino`,
    with the exported ONNX file."""
    precisions: Annotated[list[Literal["auto", Precision]], Field(min_length=1)] = ["auto"]
    """Precisions of the teacher, as in `teacher.precision`."""
    student_peers: list[Literal["onnxruntime", "openvino"]] = []
    """Runtimes in which the student's ONNX file is timed too, on a CPU and if installed."""
    student_shapes: list[Shape] = []
    """Shapes of the student's input. Empty: that of the training batch."""
    student_widths: list[Count] = []
    """Widths of U-Nets to time, with the other keys of `student`. Empty: only the student."""
