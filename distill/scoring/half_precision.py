"""Chooses a run's precision where its configuration says `auto`.

Most processors compute bf16 many times slower than float32. Those with instructions for it (AMX, AVX512-BF16) may be faster; by
how much depends on the network and the shape of its input. So a new run on such a CPU times its own networks on inputs of its own
shape, and takes bf16 where that pays and is precise enough. Its checkpoints hold the choice, and a run that goes on keeps it.

On a GPU there is nothing to time.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from distill.config import Config
from distill.config.types import Precision
from distill.networks.adapters import supported
from distill.networks.teacher import Teacher, teacher_precision
from distill.runtime.device import multiplies_bf16
from distill.runtime.ranks import Ranks
from distill.scoring.teacher_check import MAX_HALF_ERROR, check_teacher

logger = logging.getLogger(__name__)

# bf16 must be this many times as fast as float32.
MIN_GAIN = 1.2
# Timing ends with the round in which it has taken this long.
SECONDS, ROUNDS = 5.0, 5
# Largest relative error of the student's gradient. A batch's gradient differs from the next batch's by more than its own size.
MAX_GRADIENT_ERROR = 0.1
_FOUND = "bf16 is %.2f times as fast as fp32 here, and changes %s by %.1f %%"


@dataclass(frozen=True)
class Precisions:
    """The precisions of a run's networks. None: not chosen yet."""

    device: str
    """The type of the device that this holds for, such as `cpu`."""
    teacher: Precision | None
    student: str | None
    """As `optimizer.amp`. `auto` on a GPU."""

    def applied(self, config: Config) -> Config:
        """The configuration that asks for these. What is not chosen yet is float32."""
        changed = {
            "teacher": config.teacher.model_copy(update={"precision": self.teacher or "fp32"}),
            "optimizer": config.optimizer.model_copy(update={"amp": self.student or "off"}),
        }
        return config.model_copy(update=changed)


def known_precisions(
    config: Config, saved: Mapping[str, Any] | None, cached: Precision | None, device: torch.device
) -> Precisions:
    """The precisions that the configuration asks for. For `auto`, what is known without timing, else None.

    `saved` is the content of the checkpoint that the run goes on from, None for a new run. `cached` is the precision of the
    images in the teacher cache that it reads, if there is one.
    """
    asked, amp = config.teacher.precision, config.optimizer.amp
    teacher: Precision | None = cached if asked == "auto" and cached is not None else teacher_precision(asked, device)
    if device.type != "cpu":
        return Precisions(device.type, teacher, amp)
    record = _saved_on_cpu(saved)
    choosing = saved is None and multiplies_bf16(device)
    if asked == "auto" and cached is None:
        teacher = None if choosing else record.teacher
    student: str | None = amp
    if saved is not None and "precisions" not in saved:
        student = "off"  # an earlier version wrote it, and had no mixed precision on a CPU
    elif amp == "auto":
        student = None if choosing else record.student
    elif amp == "fp16":
        student = "off"
    if student == "bf16" and not multiplies_bf16(device):
        logger.warning("the student is trained in bf16 (optimizer.amp); on this processor fp32 would be faster")
    return Precisions(device.type, teacher, student)


def _saved_on_cpu(saved: Mapping[str, Any] | None) -> Precisions:
    record = None if saved is None else saved.get("precisions")
    return Precisions(**record) if record and record["device"] == "cpu" else Precisions("cpu", "fp32", "off")


def choose_precisions(
    known: Precisions,
    config: Config,
    teacher: Teacher | None,
    student: nn.Module,
    pairs: Sequence[tuple[Tensor, Tensor | None]],
    ranks: Ranks,
) -> Precisions:
    """Chooses what is not known yet, and switches the teacher, which is in float32, to what is chosen for it.

    `pairs` are the images on which the teacher is checked, (blurry, sharp), (1, 3, H, W) in [0, 1]. The first rank measures for
    all.
    """
    if known.teacher is not None and known.student is not None:
        return known
    patch = _of_side(pairs[0][0], config.data.patch)
    images = config.data.batch // ranks.count // config.optimizer.accumulate

    def choose() -> tuple[Precision, str]:
        precision, amp = known.teacher, known.student
        if precision is None and teacher is not None and config.learns_from_teacher and config.teacher.mode == "online":
            precision = _choose_for_teacher(teacher, patch, min(images, config.teacher.micro_batch or images), pairs)
        return precision or "fp32", amp or _choose_for_student(student, patch, images)

    precision, amp = ranks.broadcast(choose)
    if teacher is not None:
        teacher.use_precision(precision)
    return Precisions(known.device, precision, amp)


def _of_side(image: Tensor, side: int) -> Tensor:
    """The image's centre of side x side pixels; repeated where the image is smaller."""
    height, width = image.shape[-2:]
    image = image.repeat(1, 1, -(-side // height), -(-side // width))
    top, left = ((extent - side) // 2 for extent in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def _choose_for_teacher(
    teacher: Teacher, blurry: Tensor, images: int, pairs: Sequence[tuple[Tensor, Tensor | None]]
) -> Precision:
    """bf16 or fp32 for a float32 teacher on a CPU. `blurry`, (1, 3, H, W) in [0, 1], is like a training patch; the teacher
    restores `images` of them at a time. The error is what `check_teacher` measures."""
    if not supported(teacher.network, torch.bfloat16):
        return "fp32"
    half = Teacher(copy.deepcopy(teacher.network), torch.bfloat16, teacher.micro_batch)
    batch = blurry.expand(images, -1, -1, -1)
    gain = _gain(lambda: teacher(batch), lambda: half(batch))
    if gain < MIN_GAIN:
        logger.info("teacher.precision: fp32; bf16 is %.2f times as fast here", gain)
        return "fp32"
    error = check_teacher(half, pairs).half_error
    assert error is not None
    chosen: Precision = "bf16" if error <= MAX_HALF_ERROR["bf16"] else "fp32"
    logger.info(f"teacher.precision: {chosen}; {_FOUND}", gain, "its correction", 100 * error)
    return chosen


def _choose_for_student(student: nn.Module, blurry: Tensor, images: int) -> str:
    """`bf16` or `off` for `optimizer.amp` on a CPU. A training step's forward and backward pass on `images` patches like
    `blurry`, (1, 3, P, P), are timed."""
    copied, generator = copy.deepcopy(student).train(), torch.Generator().manual_seed(0)
    batch = blurry.expand(images, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    for parameter in copied.parameters():
        if not parameter.any():  # the last layer of a new student, which would hide the gradient of all others
            nn.init.normal_(parameter, std=0.05, generator=generator)

    def gradient(half: bool) -> Tensor:
        copied.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            restored = copied(batch)
        # Far from what any network has learned, so that the gradient is large.
        (restored.float() - batch.flip(-1)).abs().mean().backward()
        return torch.cat([parameter.grad.flatten() for parameter in copied.parameters() if parameter.grad is not None])

    exact, rounded = gradient(False), gradient(True)
    error = float((rounded - exact).norm() / exact.norm().clamp_min(1e-12))
    gain = _gain(lambda: gradient(False), lambda: gradient(True))
    taken = gain >= MIN_GAIN and error <= MAX_GRADIENT_ERROR
    chosen = "bf16" if taken else "off"
    logger.info(f"optimizer.amp: {chosen}; {_FOUND}", gain, "the gradient", 100 * error)
    return chosen


def _gain(full: Callable[[], object], half: Callable[[], object]) -> float:
    """The time of `full` over the time of `half`: the median over rounds in which both run in turn, after one round that is not
    counted."""
    gains: list[float] = []
    end = time.perf_counter() + SECONDS
    for number in range(ROUNDS + 1):
        times = []
        for work in (full, half):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        if number:
            gains.append(times[0] / times[1])
        if gains and time.perf_counter() > end:
            break
    return median(gains)
