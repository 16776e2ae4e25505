"""A teacher on a GPU, made fast for the batches of a run: what is faster on that GPU is found out on it.

On a CPU there is nothing to do: `restormer/fused.py` needs neither a compiler nor a fixed shape.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import cast

import torch
from torch import Tensor

from distill.config import Config
from distill.networks.teacher import Teacher
from distill.runtime.ranks import Ranks
from restormer import kernels
from restormer.layers import TransformerBlock
from restormer.model import Restormer

logger = logging.getLogger(__name__)

# Kernels of our own are worth having only where they gain this much.
MIN_GAIN = 1.2
# RMS difference from the network as it is, over the RMS of its correction: twice what the precision itself differs from fp32 by,
# which is 0.7 % for fp16 and 5.8 % for bf16.
MAX_DIFFERENCE = {torch.float32: 0.001, torch.float16: 0.014, torch.bfloat16: 0.116}
TIMED_CALLS = 5
# One for each kind of block, with and without kernels: more than the 8 after which torch.compile gives up without failing.
RECOMPILE_LIMIT = 64

Form = Callable[[Tensor], Tensor]


def speed_up_for_training(teacher: Teacher, config: Config, ranks: Ranks) -> None:
    """`speed_up` for the batches, or parts of them, that a rank's training step gives its teacher."""
    part = config.data.batch // (config.optimizer.accumulate * ranks.count)
    images = min(part, config.teacher.micro_batch or part)
    speed_up(teacher, (images, 3, config.data.patch, config.data.patch), config.teacher.compile)


def speed_up(teacher: Teacher, shape: tuple[int, ...], compile_blocks: bool) -> None:
    """Records the teacher's work on (B, 3, H, W) `shape` as a CUDA graph: with padded widths, its blocks compiled if asked for,
    with Triton kernels where they are faster. Inputs of other shapes go through the network as before.

    Does nothing on a CPU, or for a network that is no Restormer. What fails or gives other images on this GPU is named in a
    warning, and the teacher goes without it.
    """
    if teacher.device.type != "cuda" or not isinstance(teacher.network, Restormer):
        return
    with torch.cuda.device(teacher.device), torch.no_grad():
        start = time.perf_counter()
        sample = torch.rand(shape, device=teacher.device).to(memory_format=torch.channels_last)
        form = _fastest(teacher, sample, compile_blocks)
        torch.cuda.empty_cache()  # of what was tried and not taken
        if form is not None:
            teacher.replay(shape, form)
            ms, seconds = 1e3 * _time(form, sample), time.perf_counter() - start
            logger.info("teacher: %.1f ms for %d patches, prepared in %.0f s", ms, len(sample), seconds)


def _fastest(teacher: Teacher, sample: Tensor, compile_blocks: bool) -> Form | None:
    """None where nothing can be recorded on this GPU."""
    network = teacher.network
    assert isinstance(network, Restormer)
    image = torch.rand_like(sample)  # another than the one that is recorded
    example = _Example(image, network(image).clone(), MAX_DIFFERENCE[teacher.dtype])
    plain = _try("compiled blocks", network.padded_copy(), sample, example, compile_blocks=True) if compile_blocks else None
    compiled = plain is not None
    if plain is None:
        plain = _try("a CUDA graph", network.padded_copy(), sample, example, compile_blocks=False)
    if plain is None or not kernels.AVAILABLE or teacher.dtype == torch.float32:
        return plain
    with_kernels = network.padded_copy()
    with_kernels.use_kernels()
    form = _try("Triton kernels", with_kernels, sample, example, compiled)
    if form is None:
        return plain
    gain = _time(plain, sample) / _time(form, sample)
    used = "used" if gain >= MIN_GAIN else "not used"
    logger.info("teacher: %.2f times as fast with Triton kernels%s: %s", gain, " as compiled" if compiled else "", used)
    return form if gain >= MIN_GAIN else plain


@dataclass(frozen=True)
class _Example:
    """What the teacher makes of an image by itself, and how far another form of it may be from that."""

    image: Tensor
    expected: Tensor
    largest: float

    def difference(self, form: Form) -> float:
        correction = (self.expected - self.image).square().mean().sqrt()
        return float((form(self.image) - self.expected).square().mean().sqrt() / correction.clamp_min(1e-6))


def _try(what: str, network: Restormer, sample: Tensor, example: _Example, compile_blocks: bool) -> Form | None:
    """The network, recorded; None, and a warning, where that fails or gives other images than the teacher's own."""
    try:
        form = _record(network, sample, compile_blocks)
        difference = example.difference(form)
    except Exception as error:  # noqa: BLE001 (whatever a GPU, a driver or a compiler that nobody has tried raises)
        reason = " ".join(str(error).split())[:200]
        logger.warning("WARNING: the teacher goes without %s: it fails here: %s: %s", what, type(error).__name__, reason)
        return None
    if not difference <= example.largest:
        changed = 100 * difference
        logger.warning("WARNING: the teacher goes without %s: it changes its correction by %.1f %% here", what, changed)
        return None
    return form


def _record(network: Restormer, sample: Tensor, compile_blocks: bool) -> Form:
    """A CUDA graph of a network that nobody else uses or moves, on inputs of the sample's shape; the next call overwrites what a
    call gave. The graph reads the weights where they are: what is returned keeps the network alive."""
    if compile_blocks:
        for module in network.modules():
            if isinstance(module, TransformerBlock):
                module.compile(dynamic=False)
    # A capture that fails leaves its own stream the current one; the outer context sets it back.
    with torch._dynamo.config.patch(cache_size_limit=RECOMPILE_LIMIT), torch.cuda.stream(torch.cuda.current_stream()):
        return cast(Form, torch.cuda.make_graphed_callables(network, (sample.clone(),)))


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
