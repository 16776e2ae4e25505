"""Times the training loop as a whole and part by part: the cost of a step, and the overhead between its parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from distill.benchmark.roofline import synchronize
from distill.config import AugmentConfig, Config
from distill.data.batch import Batch, on_device, unpack
from distill.data.datasets import TrainingPatches
from distill.data.image_files import write_image
from distill.data.loader import training_loader
from distill.data.sources import cached_images
from distill.networks.fast_teacher import speed_up_for_training
from distill.networks.student import build_student
from distill.networks.teacher import Teacher, build_teacher, identify
from distill.networks.vgg import VggFeatures
from distill.runtime.device import choose_device
from distill.runtime.ranks import Ranks
from distill.scoring.half_precision import choose_precisions, known_precisions
from distill.synthesis.augment import augment
from distill.synthesis.eight_bit import to_uint8
from distill.teacher_cache.fill import fill
from distill.teacher_cache.store import TeacherCache, new_header
from distill.training.plan import learning_rate
from distill.training.state import TrainingState, new_training_state
from distill.training.step import make_images, training_step

# Batches that each loader worker makes ahead of use (torch's prefetch_factor).
PREFETCHED = 2
# Least number of images in the benchmark's teacher cache. Each has a training patch's size.
CACHED_IMAGES = 64


@dataclass
class LoopFigures:
    """Milliseconds per step, one value per round.

    `online` and `cached` are whole loops with their loaders. `degrade_augment`, `teacher` and `student_step` are the parts of an
    online step on the device. Each is timed on one batch, repeatedly. With `teacher.reuse`, a batch's cost is divided among the
    steps that use it.
    """

    batch: int
    loader: list[float] = field(default_factory=list)
    """The online loop's loading and its copy to the device, without training. `cached_loader` is the same for the cached loop."""
    degrade_augment: list[float] = field(default_factory=list)
    teacher: list[float] = field(default_factory=list)
    student_step: list[float] = field(default_factory=list)
    """Forward, loss, backward and update, on images already on the device."""
    online: list[float] = field(default_factory=list)
    cached_loader: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    fill_ms_per_image: float = float("nan")
    """The one-time cost of a cache: reading an image of a patch's size, restoring it and writing the result."""
    peak_memory_bytes: int | None = None
    """Most memory that the allocator took from the device during the online loop, networks and optimiser included. CUDA only."""

    def parts(self) -> list[float]:
        """The sum of the three parts of an online step, round by round. Loading is not one of them."""
        return [sum(ms) for ms in zip(self.degrade_augment, self.teacher, self.student_step, strict=True)]

    def overhead(self) -> float:
        """The online step's time over the sum of its parts, median over rounds."""
        return median(whole / parts for whole, parts in zip(self.online, self.parts(), strict=True))

    def break_even_epochs(self) -> float:
        """Epochs after which a cache has paid for itself, if an epoch uses every image once. Infinite if a cached step is not
        faster."""
        gain = (median(self.online) - median(self.cached)) / self.batch
        return self.fill_ms_per_image / gain if gain > 0 else float("inf")


def measure_loop(config: Config, device_name: str) -> LoopFigures:
    """Times in turn the configuration's online loop, its parts, and the same loop with cached teacher images.

    Raises the errors of building them.
    """
    device = choose_device(device_name)
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"mode": "online"})})
    known = known_precisions(config, None, None, device)
    teacher, filler = (build_teacher(known.applied(config).teacher, device) for _ in range(2))
    assert teacher is not None
    assert filler is not None
    student = build_student(config.student, config.run.seed)
    with closing(training_loader(TrainingPatches(_in_this_process(config)), 0, 1, pin=False)) as loader:
        blurry = unpack(next(loader).to(device), config.degrade)[1]
    assert blurry is not None
    config = choose_precisions(known, config, teacher, student, [(blurry[:1], None)], Ranks()).applied(config)
    speed_up_for_training(teacher, config, Ranks())
    reuse = config.teacher.reuse
    figures = LoopFigures(config.data.batch)
    with TemporaryDirectory() as folder:
        cached_config = _cached_config(config, Path(folder), device)
        figures.fill_ms_per_image = _fill(cached_config, filler, device)  # in fp32 on a CPU, as distill.cache does
        cache = TeacherCache(cached_config.teacher.cache)
        online, cached = _Loop(config, device, teacher), _Loop(cached_config, device, None, cache)
        parts = _Parts(config, next(online.batches), teacher, device)
        with closing(online.loader), closing(cached.loader):
            for round_number in range(config.bench.rounds + 1):
                measured = {
                    "degrade_augment": parts.time(parts.degrade_augment) / reuse,
                    "teacher": parts.time(parts.restore) / reuse,
                    "student_step": parts.time(parts.student_step),
                    "online": _with_peak(online.step_ms, figures, device),
                    "cached": cached.step_ms(),
                    "loader": online.loading_ms(),
                    "cached_loader": cached.loading_ms(),
                }
                if round_number:  # the first round warms up
                    for name, ms in measured.items():
                        getattr(figures, name).append(ms)
    return figures


def _with_peak(work: Callable[[], float], figures: LoopFigures, device: torch.device) -> float:
    """Runs `work` and notes its peak memory on CUDA."""
    if device.type != "cuda":
        return work()
    torch.cuda.empty_cache()  # frees what the other measurements left
    torch.cuda.reset_peak_memory_stats(device)
    ms = work()
    figures.peak_memory_bytes = max(figures.peak_memory_bytes or 0, torch.cuda.max_memory_reserved(device))
    return ms


class _Loop:
    """The training loop of `distill.train` without its log, run a few steps at a time."""

    def __init__(self, config: Config, device: torch.device, teacher: Teacher | None, cache: TeacherCache | None = None) -> None:
        self.config, self.device, self.teacher = config, device, teacher
        # 10**9 steps: more than are ever taken.
        self.loader = training_loader(TrainingPatches(config, reader=cache), 0, 10**9, pin=device.type == "cuda")
        self.batches = on_device(self.loader, device)
        self.state, self.vgg = _student(config, device)

    def step_ms(self) -> float:
        """Milliseconds per whole step, loading included."""

        def step(batch: Batch) -> None:
            _steps(batch, self.state, self.teacher, self.vgg, self.config)

        return self._ms_per_step(step)

    def loading_ms(self) -> float:
        """Milliseconds per step for loading and for the copy to the device, without training."""
        return self._ms_per_step(lambda batch: None)

    def _ms_per_step(self, use: Callable[[Batch], None]) -> float:
        steps = self.config.bench.steps

        def go(count: int) -> None:
            for batch in islice(self.batches, count):
                use(batch)

        # Not timed: uses up the batches that the workers made while something else was measured.
        go(PREFETCHED * self.config.data.workers + 1)
        return _timed(lambda: go(steps), self.device) / steps / self.config.teacher.reuse


class _Parts:
    """The parts of an online step, each run alone on one batch that is on the device."""

    def __init__(self, config: Config, batch: Batch, teacher: Teacher, device: torch.device) -> None:
        self.config, self.batch, self.teacher, self.device = config, batch, teacher, device
        sharp, self.blurry = self.degrade_augment()
        target = teacher(self.blurry)
        # For `student_step`: a batch that need not be degraded, a configuration that does not augment it, and a teacher that
        # computes nothing.
        pixels = None if sharp is None else to_uint8(sharp)
        self.images = replace(batch, sharp=pixels, blurry=to_uint8(self.blurry), has_blurry=[True] * len(batch.names))
        once = config.teacher.model_copy(update={"reuse": 1})
        self.plain = config.model_copy(update={"augment": AugmentConfig(flip=False, rotate=False), "teacher": once})
        self.known = _Known(target)
        self.state, self.vgg = _student(config, device)

    def degrade_augment(self) -> tuple[Tensor | None, Tensor]:
        images = unpack(self.batch, self.config.degrade)
        sharp, blurry = augment(images, self.config.augment, self.batch.draws)
        assert blurry is not None
        return sharp, blurry

    def restore(self) -> None:
        for part in self.blurry.chunk(self.config.optimizer.accumulate):
            self.teacher(part)

    def student_step(self) -> None:
        _steps(self.images, self.state, self.known, self.vgg, self.plain)

    def time(self, part: Callable[[], object]) -> float:
        """Mean milliseconds per call."""
        steps = self.config.bench.steps
        return _timed(lambda: [part() for _ in range(steps)], self.device) / steps


class _Known(nn.Module):
    """Stands in for the teacher and returns images that were computed before. For a part of a batch, it returns the first ones:
    which ones does not change the time."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images

    def forward(self, blurry: Tensor) -> Tensor:
        return self.images[: len(blurry)]


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of `work`, until the device has finished it."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def _student(config: Config, device: torch.device) -> tuple[TrainingState, VggFeatures | None]:
    state = new_training_state(build_student(config.student, config.run.seed), config.optimizer, device)
    state.student.train()
    if config.student.compile:
        state.student.compile()
    return state, VggFeatures(config.vgg).to(device) if config.stages[0].vgg > 0 else None


def _steps(batch: Batch, state: TrainingState, teacher: nn.Module | None, vgg: VggFeatures | None, config: Config) -> None:
    """The `teacher.reuse` steps that use one batch."""
    lr = learning_rate(config.optimizer, state.step, 10**9)  # in so long a run, a cosine schedule does not fall
    images = make_images(batch, teacher, config.stages[0], config)  # type: ignore[arg-type]
    for repeat in range(config.teacher.reuse):
        training_step(images.turned_again(batch, repeat, config.augment), state, vgg, config.stages[0], lr, config)


def _in_this_process(config: Config) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update={"workers": 0})})


def _cached_config(config: Config, folder: Path, device: torch.device) -> Config:
    """Writes pairs of a patch's size to `folder`. Returns the configuration of the same run, but on those pairs and with cached
    teacher images. The cache itself is not filled here."""
    dataset = TrainingPatches(_in_this_process(config))
    has_sharp = any(source.has_sharp for source in dataset.sources)
    written = 0
    with closing(training_loader(dataset, 0, 10**9, pin=False)) as loader:
        for batch in loader:
            sharp, blurry = unpack(batch.to(device), config.degrade)
            # In place of a sharp image that there is not, the blurry one: that costs the same time.
            images = {"blurry": blurry} | ({"sharp": blurry if sharp is None else sharp} if has_sharp else {})
            for name, image in images.items():
                for number, pixels in enumerate(to_uint8(image).permute(0, 2, 3, 1).cpu().numpy(), start=written):
                    write_image(folder / name / f"{number:04d}.png", pixels)
            written += len(blurry)
            if written >= CACHED_IMAGES:
                break
    pairs = {"sharp": str(folder / "sharp") if has_sharp else None, "blurry": str(folder / "blurry"), "sources": None}
    data = config.data.model_copy(update={**pairs, "val": config.data.val.model_copy(update=pairs), "images_per_epoch": None})
    teacher = config.teacher.model_copy(update={"mode": "cached", "reuse": 1, "cache": str(folder / "teacher")})
    return config.model_copy(update={"data": data, "teacher": teacher, "degrade": []})


def _fill(config: Config, teacher: Teacher, device: torch.device) -> float:
    """Fills the configuration's cache and returns milliseconds per image. Fills another cache first, to warm up the teacher."""
    images = cached_images(config.data)
    for folder in (f"{config.teacher.cache}_warm_up", config.teacher.cache):
        cache = TeacherCache(folder)
        cache.manifest.write_header(new_header(identify(teacher), images, config.data, config.teacher.tile))
        start = time.perf_counter()
        # Times the fill as a whole, not image by image: the teacher restores images of a patch's size in groups, and the images
        # of a group are written together.
        for _ in fill(cache, teacher, images, config.teacher.tile, config.data.workers, device):
            pass
        ms = 1e3 * (time.perf_counter() - start) / len(images)
    return ms
