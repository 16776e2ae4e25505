"""A teacher on a GPU, made fast for the batches of a run: what is faster on that GPU is found out on it.

On a CPU there is nothing to do: `restormer/fused.py` needs neither a compiler nor a fixed shape.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from statistics import median
from typing import cast

import torch
from torch import Tensor

from distill.config import Config
from distill.engine.teacher import Teacher
from restormer import kernels
from restormer.model import Restormer, TransformerBlock

logger = logging.getLogger(__name__)

# Kernels of our own are worth having only where they gain this much.
MIN_GAIN = 1.2
# RMS difference from the network without them over the RMS of its correction. fp16 itself differs from fp32 by 0.7 %.
MAX_DIFFERENCE = 0.02
TIMED_CALLS = 5
# One for each kind of block, with and without kernels: more than the 8 after which torch.compile gives up without failing.
RECOMPILE_LIMIT = 64

Form = Callable[[Tensor], Tensor]


def speed_up_for_training(teacher: Teacher, config: Config) -> None:
    """`speed_up` for the batches, or parts of them, that a training step gives its teacher."""
    part = config.data.batch // config.optimizer.accumulate
    images = min(part, config.teacher.micro_batch or part)
    speed_up(teacher, (images, 3, config.data.patch, config.data.patch), config.teacher.compile)


def speed_up(teacher: Teacher, shape: tuple[int, ...], compile_blocks: bool) -> None:
    """Records the teacher's work on (B, 3, H, W) `shape` as a CUDA graph: with padded widths, its blocks compiled if asked for,
    with Triton kernels where they are faster. Inputs of other shapes go through the network as before.

    Does nothing on a CPU, or for a network that is no Restormer.
    """
    if teacher.device.type != "cuda" or not isinstance(teacher.network, Restormer):
        return
    network = teacher.network.padded_copy()
    sample = torch.rand(shape, device=teacher.device).to(memory_format=torch.channels_last)
    start = time.perf_counter()
    form = _record(network, sample, compile_blocks)
    gain = None
    if kernels.AVAILABLE and teacher.dtype != torch.float32:
        with_kernels = _try_kernels(network, sample, compile_blocks, form)
        gain = None if with_kernels is None else _time(form, sample) / _time(with_kernels, sample)
        if with_kernels is not None and gain is not None and gain >= MIN_GAIN:
            form = with_kernels
    teacher.replay(shape, form)
    note = "" if gain is None else f"; Triton kernels make it {gain:.2f} times as fast and are {_used(gain)}"
    ms = 1e3 * _time(form, sample)
    logger.info("teacher: %.1f ms for %d patches, prepared in %.0f s%s", ms, len(sample), time.perf_counter() - start, note)


def _used(gain: float) -> str:
    return "used" if gain >= MIN_GAIN else "not used"


def _try_kernels(network: Restormer, sample: Tensor, compile_blocks: bool, plain: Form) -> Form | None:
    """The network with Triton kernels; None, and a warning, where they fail or give something else."""
    copied = copy.deepcopy(network)
    copied.use_kernels(True)
    try:
        form = _record(copied, sample, compile_blocks)
    except Exception as error:  # noqa: BLE001 (whatever a GPU, a driver or a Triton that nobody has tried raises)
        reason = " ".join(str(error).split())[:200]
        logger.warning("the teacher goes without Triton kernels, which fail here: %s: %s", type(error).__name__, reason)
        return None
    expected = plain(sample).clone()
    correction = (expected - sample).square().mean().sqrt()
    difference = float((form(sample) - expected).square().mean().sqrt() / correction.clamp_min(1e-6))
    if not difference <= MAX_DIFFERENCE:
        logger.warning("the teacher goes without Triton kernels, which change its correction by %.1f %% here", 100 * difference)
        return None
    return form


def _record(network: Restormer, sample: Tensor, compile_blocks: bool) -> Form:
    """A CUDA graph of the network on inputs of the sample's shape; the next call overwrites what a call gave.

    Of a copy: a graph reads its weights where they were, even after somebody has moved the network's.
    """
    network = copy.deepcopy(network)
    if compile_blocks:
        for module in network.modules():
            if isinstance(module, TransformerBlock):
                module.compile(dynamic=False)
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
        return cast(Form, torch.cuda.make_graphed_callables(network.forward, (sample.clone(),)))


def _time(form: Form, sample: Tensor) -> float:
    """Seconds of a call, the median of some."""
    times = []
    for _ in range(TIMED_CALLS):
        torch.cuda.synchronize(sample.device)
        start = time.perf_counter()
        form(sample)
        torch.cuda.synchronize(sample.device)
        times.append(time.perf_counter() - start)
    return median(times)
