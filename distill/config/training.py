"""The sections `run`, `stages`, `vgg`, `optimizer`, `eval` and `bench`: how a run trains, validates and is measured."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from distill.config.types import Count, Name, Positive, Precision, Section, Shape, Side

DEVICE_NAMES = r"^(auto|cpu|mps|cuda(:\d+)?)$"


class RunConfig(Section):
    dir: str = "runs/default"
    """The run folder. If it holds a checkpoint, the run resumes from it."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the random numbers. A sample's draws depend only on the seed, the image's path, and the number of the pass over the
    images."""
    device: Annotated[str, Field(pattern=DEVICE_NAMES)] = "auto"
    """`auto` is `cuda` if there is a CUDA GPU, else `cpu`. Apple's GPU is used only if you give `mps`."""
    save_minutes: Positive = 10.0
    """A checkpoint is written when this many minutes have passed since the last one, and at the end of each epoch."""
    log_steps: Count = 20
    """Losses are read from the device and logged every `log_steps` steps, and at the end of each epoch."""


LOSS_TERMS = ("l1", "kd", "vgg")
"""The names of the loss terms. A stage gives the weight of a term under this name, and the term is logged under this name."""


class StageConfig(Section):
    name: Name
    """Name of the stage. The student at the end of the stage is saved as student_model_<name>.pth."""
    epochs: Count
    """Number of epochs, of `data.images_per_epoch` samples each."""
    l1: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the L1 distance to the sharp image."""
    kd: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the L1 distance to the teacher's image (knowledge distillation)."""
    vgg: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the L1 distance between the VGG16 features of the student's image and of the image that `vgg.against` names."""
    patch: Side | None = None
    """Side of the training patches in this stage. null: `data.patch`."""
    batch: Count | None = None
    """Samples per optimiser step in this stage, summed over all GPUs. null: `data.batch`."""
    lr: Positive | None = None
    """Learning rate in this stage, in place of `optimizer.lr`. Schedule and warm-up stay those of the whole run: a cosine does
    not begin again, so half-way through the run the rate is half of this."""

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
    weights: str = "imagenet"
    """`imagenet` (torchvision downloads 528 MB), `random`, or a file of torchvision's vgg16 weights."""
    normalize: bool = True
    """Whether images are normalised before VGG16: minus ImageNet's mean, divided by its standard deviation. The original project
    did not."""
    resize: Annotated[int, Field(ge=16)] | None = None
    """Side in pixels of the square to which images are resized before VGG16, bilinearly. null: no resizing. The original project
    used 224."""
    against: Literal["sharp", "teacher"] = "sharp"
    """The student's VGG16 features are compared with those of this image: the sharp image or the teacher's image."""


class OptimizerConfig(Section):
    lr: Positive = 1e-4
    """Adam's learning rate. A stage may have its own."""
    schedule: Literal["constant", "cosine", "multistep", "cosine_restarts"] = "constant"
    """Course of the learning rate. `constant`: no change. `cosine`: falls to `lr_min` at the end of the last stage.
    `multistep`: multiplied by `gamma` at each of the `milestones`, as torch's MultiStepLR. `cosine_restarts`: falls to `lr_min`
    and jumps back, again and again, as torch's CosineAnnealingWarmRestarts."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Number of steps at the start in which the learning rate rises linearly from zero. Cosines begin after them."""
    lr_min: Annotated[float, Field(ge=0)] = 0.0
    """Where a cosine ends."""
    milestones: list[Count] = []
    """The steps of the run after which `multistep` lowers the learning rate, in ascending order."""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The factor by which `multistep` lowers the learning rate."""
    restart_steps: Count | None = None
    """Number of steps of the first cosine of `cosine_restarts`."""
    restart_factor: Count = 1
    """Each cosine of `cosine_restarts` takes this many times as many steps as the one before."""
    clip_norm: Positive | None = None
    """Largest norm of the whole gradient. A larger gradient is scaled down. null: no limit."""
    accumulate: Count = 1
    """Number of parts into which each batch is split. The parts are computed one after the other, which saves memory. The step
    stays the same, except for BatchNorm's statistics."""
    max_skipped: Count = 30
    """Largest number of updates in a row that may be rejected because they are not finite. One more stops the run. At the start,
    fp16's loss scaler halves its scale with each rejected update, and may need 15 of them. The weights that are kept are those of
    the last finite update. A finite update may have spoilt them before."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the moving average of the weights. If given, the averaged weights are validated and saved. null: no average."""
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """The student's mixed precision. `auto` on CUDA: bf16 if the GPU supports it, else fp16 with a loss scaler. `auto` on a CPU:
    bf16 if the processor has instructions for it and the student's forward and backward pass on a batch is at least 1.2 times as
    fast in it, else none. fp16 is for CUDA only, and Apple's GPU has none."""

    @model_validator(mode="after")
    def _check_schedule(self) -> OptimizerConfig:
        for key, schedule in (("milestones", "multistep"), ("restart_steps", "cosine_restarts")):
            value = getattr(self, key)
            if self.schedule == schedule and not value:
                raise ValueError(f"schedule: {schedule} needs {key}")
            if self.schedule != schedule and value:
                raise ValueError(
                    f"{key}: {value} does nothing with schedule: {self.schedule}; give schedule: {schedule}, or leave it out"
                )
        if self.lr_min and not self.schedule.startswith("cosine"):
            raise ValueError(f"lr_min: {self.lr_min:g} does nothing with schedule: {self.schedule}; leave it out")
        if self.milestones != sorted(set(self.milestones)):
            raise ValueError(f"milestones: {self.milestones} are not in ascending order")
        return self


Metric = Literal[
    "psnr_y", "ssim_y", "ssim_rgb", "psnr_y_matlab", "ssim_y_matlab", "ssim_rgb_matlab", "ssim_rgb_skimage", "lpips_vgg", "dists"
]
FURTHER_METRICS: tuple[Metric, ...] = get_args(Metric)


class EvalConfig(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seed of the blur of validation images. null: `run.seed`. If runs with several values of `run.seed` are compared, give it,
    so that all are validated on the same images."""
    crop: Annotated[int, Field(ge=16)] | None = 512
    """Largest side of the centre crop that validation uses, in pixels. null: whole images."""
    images: Count | None = None
    """Largest number of validation images, chosen at even intervals. null: all images."""
    every_epochs: Count = 1
    """Number of epochs between two validations. The end of each stage is also validated."""
    samples: Count = 4
    """Number of rows of the validation picture. Each row shows an image as blurry | student | teacher | sharp."""
    metrics: list[Metric] = []
    """Further scores, beside PSNR and SSIM, in tables, CSV and report; docs/scores.md says which paper's table uses which.
    `psnr_y`, `ssim_y`, `ssim_rgb`: as BasicSR. `psnr_y_matlab`, `ssim_y_matlab`: the same with Y rounded to 8 bits, as MATLAB's
    rgb2ycbcr does. `ssim_rgb_matlab`: MATLAB's ssim of an RGB image. `ssim_rgb_skimage`: scikit-image's default. `lpips_vgg`,
    `dists`: distances by VGG16, lower is better; they need piq, `pip install -e ".[perceptual]"`, which downloads weights."""

    @field_validator("metrics")
    @classmethod
    def _check_once(cls, metrics: list[Metric]) -> list[Metric]:
        if len(set(metrics)) < len(metrics):
            raise ValueError("one of them is named twice")
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
    """Number of rounds. Each round times everything once, in turn. The result is the median of the rounds."""
    steps: Annotated[int, Field(ge=4)] = 10
    """Training steps per round."""
    network: Literal["teacher", "published"] = "teacher"
    """The teacher whose forward pass is timed. `teacher`: the network of `teacher.weights`. `published`: the published Restormer
    with random weights, which needs no download."""
    teacher_shapes: list[Shape] = []
    """Shapes of the teacher's input. Empty: the shape of the training batch."""
    teacher_forms: Annotated[list[TeacherForm], Field(min_length=1)] = ["reference", "ours"]
    """Forms of the teacher to compare. `reference`: as written in the paper, not compiled. `_compiled` in a name: with
    torch.compile. `_keeping_pages` in a name: on a CPU, the C library keeps freed memory, as in this project's commands. `ours`:
    the form that training uses. `ours_eager`, on a GPU only: our code, neither compiled nor captured in a CUDA graph.
    `ours_kernels`, on a GPU only: the same with the Triton kernels, even if they are slower. `onnxruntime`
    and `openvino`, on a CPU only: the exported ONNX file in these runtimes, where they are installed."""
    precisions: Annotated[list[Literal["auto", Precision]], Field(min_length=1)] = ["auto"]
    """Precisions in which the teacher is timed, named as in `teacher.precision`. bf16 is left out on a CPU without instructions
    for it."""
    student_peers: list[Literal["onnxruntime", "openvino"]] = []
    """Runtimes in which the student's exported ONNX file is timed beside the student, on a CPU only and where installed."""
    student_shapes: list[Shape] = []
    """Shapes of the student's input at inference. Empty: the shape of the training batch."""
    student_widths: list[Count] = []
    """Widths of the U-Nets to time. Their other keys are those of `student`. Empty: only the student itself."""
