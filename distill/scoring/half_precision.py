"""Whether a run on a CPU computes in bf16 where its configuration says `auto`.

Most processors compute bf16 many times slower than float32. Those with instructions for it (AMX, AVX512-BF16) may be faster, by
how much depends on the network and the shape of its input. So a new run times its own networks on inputs of its own shape, and
takes bf16 where that pays and is precise enough. The choice becomes part of the run: checkpoints, student files and the run
folder hold the configuration with the choice in place of `auto`.

On a GPU there is nothing to time, and `auto` stays. Without such instructions it stays too, and means float32.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from distill.config import Config
from distill.config.types import Precision
from distill.networks.teacher import Teacher, teacher_precision
from distill.runtime.device import multiplies_bf16
from distill.runtime.ranks import Ranks
from distill.scoring.teacher_check import MAX_HALF_ERROR

logger = logging.getLogger(__name__)

# bf16 must be this many times as fast as float32.
MIN_GAIN = 1.2
# Timing ends with the round in which it has taken this long.
SECONDS, ROUNDS = 5.0, 5
# Largest relative error of the student's gradient. A batch's gradient differs from the next batch's by more than its own size.
MAX_GRADIENT_ERROR = 0.1
_FOUND = "bf16 is %.2f times as fast as fp32 here, and changes %s by %.1f %%"


def chosen_before(config: Config, saved: Config | None, cached: Precision | None, device: torch.device) -> Config:
    """The configuration with `auto` replaced by what was chosen before: on a CPU by the run that `saved` is the configuration of;
    on any device, for the teacher, by whoever made the cache, whose images are of precision `cached`.

    Warns if the run goes on in bf16 on a processor without instructions for it.
    """
    teacher, amp = config.teacher.precision, config.optimizer.amp
    if saved is not None and device.type == "cpu":
        teacher = saved.teacher.precision if teacher == "auto" else teacher
        amp = saved.optimizer.amp if amp == "auto" else amp
        if "bf16" in (teacher, amp) and not multiplies_bf16(device):
            logger.warning(
                "the run goes on in bf16, as it began; on this processor fp32 would be faster (teacher.precision, optimizer.amp)"
            )
    if teacher == "auto" and cached not in (None, teacher_precision("auto", device)):
        teacher = cached
    return _with_choice(config, teacher, amp)


def _with_choice(config: Config, teacher: str, amp: str) -> Config:
    changed = {
        "teacher": config.teacher.model_copy(update={"precision": teacher}),
        "optimizer": config.optimizer.model_copy(update={"amp": amp}),
    }
    return config.model_copy(update=changed)


def choose_precisions(config: Config, teacher: Teacher | None, student: nn.Module, blurry: Tensor, ranks: Ranks) -> Config:
    """The configuration without `auto`, for a run that begins on a CPU with instructions for bf16; on any other device it is not
    changed. `blurry`, (1, 3, H, W) in [0, 1], is an image of the run. The first rank measures for all. Changes the teacher to the
    precision that is chosen for it."""
    if not multiplies_bf16(blurry.device):
        return config
    side = config.data.patch
    top, left = (max(0, extent - side) // 2 for extent in blurry.shape[-2:])
    patch = blurry[..., top : top + side, left : left + side]
    images = config.data.batch // ranks.count // config.optimizer.accumulate

    def choose() -> tuple[str, str]:
        precision, amp = config.teacher.precision, config.optimizer.amp
        if precision == "auto" and teacher is not None:
            runs = config.teacher.mode == "online" and config.learns_from_teacher
            together = min(images, config.teacher.micro_batch or images)
            precision = _choose_for_teacher(teacher, patch, together) if runs else "fp32"
        return precision, _choose_for_student(student, patch, images) if amp == "auto" else amp

    precision, amp = ranks.broadcast(choose)
    if teacher is not None and precision == "bf16":
        teacher.use_precision("bf16")
    return _with_choice(config, precision, amp)


def _choose_for_teacher(teacher: Teacher, blurry: Tensor, images: int) -> Precision:
    """bf16 or fp32 for a float32 teacher on a CPU. `blurry`, (1, 3, H, W) in [0, 1], is like a training patch; the teacher
    restores `images` of them at a time."""
    half = Teacher(copy.deepcopy(teacher.network), torch.bfloat16)
    batch = blurry.expand(images, -1, -1, -1)
    exact, rounded = teacher(blurry), half(blurry)
    error = float((rounded - exact).square().mean().sqrt() / (exact - blurry).square().mean().sqrt().clamp_min(1e-6))
    gain = _gain(lambda: teacher(batch), lambda: half(batch))
    taken = gain >= MIN_GAIN and error <= MAX_HALF_ERROR["bf16"]
    chosen: Precision = "bf16" if taken else "fp32"
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
