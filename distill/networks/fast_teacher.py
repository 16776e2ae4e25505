"""Speeds up a teacher on a GPU for the batches of a run. Triton kernels are timed on that GPU and used if they are faster.

A form of the teacher is its network, captured in a CUDA graph, with or without compiled blocks and Triton kernels. The plain
network is the network as it was loaded.

On a CPU there is nothing to do: Restormer itself takes its fast path, `restormer/fused.py`, which needs neither a compiler nor a
fixed shape.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import cast

import torch
from torch import Tensor

from distill.config import Config
from distill.errors import one_line
from distill.networks.teacher import Teacher
from distill.runtime.ranks import Ranks
from restormer import kernels
from restormer.layers import TransformerBlock
from restormer.model import Restormer

logger = logging.getLogger(__name__)

# Our Triton kernels are used if they speed the teacher up at least by this factor.
MIN_GAIN = 1.2
# Largest RMS difference between a form's images and the plain network's, divided by the RMS of the network's correction.
# Half precision itself differs from fp32 by 0.7 % (fp16) or 5.8 % (bf16); the limit is twice that.
MAX_DIFFERENCE = {torch.float32: 0.001, torch.float16: 0.014, torch.bfloat16: 0.116}
TIMED_CALLS = 5
# torch.compile makes a version of the block's code for each kind of block (its width, heads and input size), with and without
# kernels. By default it makes at most 8 versions of the same code, and then stops compiling without an error.
RECOMPILE_LIMIT = 64

Form = Callable[[Tensor], Tensor]


def speed_up_for_training(teacher: Teacher, config: Config, ranks: Ranks) -> None:
    """`speed_up` for the shape that the teacher gets in a training step on one rank: a batch or a part of one."""
    part = config.data.batch // (config.optimizer.accumulate * ranks.count)
    images = min(part, config.teacher.micro_batch or part)
    speed_up(teacher, (images, 3, config.data.patch, config.data.patch), config.teacher.compile)


def speed_up(teacher: Teacher, shape: tuple[int, ...], compile_blocks: bool) -> None:
    """Captures the teacher in a CUDA graph for inputs of `shape`, (B, 3, H, W). Other shapes go through the plain network.

    The captured network has padded hidden widths (see `Restormer.padded_copy`). Its blocks are compiled if `compile_blocks`, and
    it uses Triton kernels if they are faster. If any of these fails on this GPU or changes the images, a warning names it and the
    teacher runs without it. An earlier form is given up first: memory need not hold both. On a CPU, or for a network that is not
    a Restormer, that is all.
    """
    teacher.replay(shape, None)
    if teacher.device.type != "cuda" or not isinstance(teacher.network, Restormer):
        return
    with torch.cuda.device(teacher.device), torch.no_grad():
        start = time.perf_counter()
        gc.collect()  # an earlier form refers to itself
        inputs = torch.rand(shape, device=teacher.device).to(memory_format=torch.channels_last)
        form = _fastest(teacher, inputs, compile_blocks)
        torch.cuda.empty_cache()  # frees the forms that were not chosen
        if form is not None:
            teacher.replay(shape, form)
            ms, seconds = 1e3 * _time(form, inputs), time.perf_counter() - start
            logger.info("teacher: %.1f ms for %d patches, prepared in %.0f s", ms, len(inputs), seconds)


def _fastest(teacher: Teacher, inputs: Tensor, compile_blocks: bool) -> Form | None:
    """The form to use; None if no form gives the teacher's images on this GPU."""
    network = teacher.network
    assert isinstance(network, Restormer)
    image = torch.rand_like(inputs)  # not the image that the CUDA graph is captured with
    example = _Example(image, network(image).clone(), MAX_DIFFERENCE[teacher.dtype])
    plain = _try("compiled blocks", network.padded_copy(), inputs, example, compile_blocks=True) if compile_blocks else None
    compiled = plain is not None
    if plain is None:
        plain = _try("a CUDA graph", network.padded_copy(), inputs, example, compile_blocks=False)
    if plain is None or not kernels.AVAILABLE or teacher.dtype == torch.float32:
        return plain
    with_kernels = network.padded_copy()
    with_kernels.use_kernels()
    form = _try("Triton kernels", with_kernels, inputs, example, compiled)
    if form is None:
        return plain
    gain = _time(plain, inputs) / _time(form, inputs)
    used = "used" if gain >= MIN_GAIN else "not used"
    logger.info("teacher: %.2f times as fast with Triton kernels%s: %s", gain, " as compiled" if compiled else "", used)
    return form if gain >= MIN_GAIN else plain


@dataclass(frozen=True)
class _Example:
    """An image, the plain network's output for it, and the largest difference from that output that a form may have."""

    image: Tensor
    expected: Tensor
    largest: float

    def difference(self, form: Form) -> float:
        correction = (self.expected - self.image).square().mean().sqrt()
        return float((form(self.image) - self.expected).square().mean().sqrt() / correction.clamp_min(1e-6))


def _try(what: str, network: Restormer, inputs: Tensor, example: _Example, compile_blocks: bool) -> Form | None:
    """The captured network. If the capture fails or changes the teacher's images, logs a warning and returns None."""
    try:
        form = _capture(network, inputs, compile_blocks)
        difference = example.difference(form)
    except Exception as error:  # noqa: BLE001 (an untested GPU, driver or compiler may raise anything)
        logger.warning("WARNING: the teacher goes without %s: it fails here: %s: %s", what, type(error).__name__, one_line(error))
        return None
    if not difference <= example.largest:  # also true for NaN
        changed = 100 * difference
        logger.warning("WARNING: the teacher goes without %s: it changes its correction by %.1f %% here", what, changed)
        return None
    return form


def _capture(network: Restormer, inputs: Tensor, compile_blocks: bool) -> Form:
    """Captures the network in a CUDA graph for inputs of the shape of `inputs`. Each call overwrites the previous output.

    The graph reads the weights at their present addresses, so nothing else may use or move the network. The returned callable
    keeps the network alive.
    """
    if compile_blocks:
        for module in network.modules():
            if isinstance(module, TransformerBlock):
                module.compile(dynamic=False)
    # If the capture fails, torch leaves the capture's stream as the current stream. The context below then makes the previous
    # stream current again. The graph keeps the clone as its input: each call copies its own input there.
    with torch._dynamo.config.patch(cache_size_limit=RECOMPILE_LIMIT), torch.cuda.stream(torch.cuda.current_stream()):
        return cast(Form, torch.cuda.make_graphed_callables(network, (inputs.clone(),)))


def _time(form: Form, inputs: Tensor) -> float:
    """Median seconds per call."""
    times = []
    for _ in range(TIMED_CALLS):
        torch.cuda.synchronize(inputs.device)
        start = time.perf_counter()
        form(inputs)
        torch.cuda.synchronize(inputs.device)
        times.append(time.perf_counter() - start)
    return median(times)
