"""Compares the forms of the teacher's and the student's forward pass, on one machine in one run.

A form is one way to run a network, such as the paper's code, compiled or not, or ours. `bench.teacher_forms` explains the
teacher's forms.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill.benchmark.roofline import Cost, Machine, cost
from distill.benchmark.timing import Build, Timing, time_in_turn
from distill.benchmark.workloads import (
    RUNTIMES,
    is_rgb_restormer,
    photograph,
    reference_network,
    student_forward,
    student_network,
    teacher_forward,
    teacher_network,
)
from distill.config import Config, DataConfig, UNetConfig
from distill.config.types import Precision
from distill.networks.adapters import DTYPES
from distill.networks.teacher import teacher_precision
from distill.runtime.device import multiplies_bf16

logger = logging.getLogger(__name__)

GPU_FORMS = ("ours_eager", "ours_kernels")
# Forms of the student. Keeping pages: the C library keeps freed memory, as in our commands.
PLAIN, PLAIN_KEEPING_PAGES, OURS = "as trained, NCHW", "as trained, NCHW, keeping pages", "ours"


@dataclass(frozen=True)
class Row:
    """One form of one network on inputs of one shape. A value that was not measured is NaN or None."""

    network: str
    form: str
    precision: Precision
    shape: list[int]
    """Images, height, width."""
    ms: float
    images_per_s: float
    times_as_fast: float
    """Speed relative to the first form of the same network, precision and shape."""
    first_call_s: float
    memory_mb: float | None
    """See `Timing.memory_bytes`."""
    gflop_per_s: float
    matrix_share: float
    """FLOP/s of this form over the FLOP/s of a large matrix product in this precision on the same machine."""
    copy_share: float
    """Bytes that the operations of the unfused network read and write, divided by the bytes that the machine can copy in this
    form's time. If it is above 1, memory could not have moved all those bytes in that time: fusion saved the rest."""
    largest_difference: float | None
    """Largest absolute difference between this form's output and the exact output; pixels in [0, 1]. The exact output
    of a teacher is from the paper's form in float32. The exact output of a student is from the student as it is trained. It is
    clamped before it is compared with an output of onnxruntime or openvino, which is clamped too."""
    correction_error: float | None
    """RMS of the difference over the RMS of the network's correction, which is its output minus its input."""
    failure: str | None

    @property
    def title(self) -> str:
        """What is compared form by form, such as `student (unet, width 32), fp32, 1x3x512x512`."""
        return f"{self.network}, {self.precision}, {_by(self.shape)}"


def teacher_rows(config: Config, machine: Machine) -> list[Row]:
    """Times the teacher in every form, precision and shape that `bench` names. Raises the errors of loading the weights."""
    device = machine.device
    rows: list[Row] = []
    published = config.bench.network == "published"
    network = teacher_network(config.teacher, published)
    name = f"teacher ({'published architecture' if published else config.teacher.weights})"
    forms_here = _that_run_here("teacher_forms", config.bench.teacher_forms, device)
    if not is_rgb_restormer(network):
        forms_here = [form for form in forms_here if form != "ours_kernels"]
    precisions = _that_run_here("precisions", config.bench.precisions, device)
    for shape in config.bench.teacher_shapes or [_training_shape(config.data)]:
        exact: Tensor | None = None
        for asked in precisions:
            precision = teacher_precision(asked, device)
            forms = [form for form in forms_here if precision == "fp32" or form != "onnxruntime"]
            if not forms:
                continue
            logger.info("teacher %s %s: %s", _by(shape), precision, ", ".join(forms))
            calls: dict[str, tuple[Build, tuple[Any, ...]]] = {
                form: (teacher_forward, (config.teacher, published, form, precision, shape, device)) for form in forms
            }
            timings = time_in_turn(calls, device, config.bench.rounds)
            if precision == "fp32" and "reference" in timings:
                exact = timings["reference"].output
            if exact is None:  # the reference was not timed in float32: run it once, without timing, for its output
                alone = {"exact": (teacher_forward, (config.teacher, published, "reference", "fp32", shape, device))}
                exact = time_in_turn(alone, device, rounds=0)["exact"].output
            # In half precision, autocast decides which operations of another network are rounded: all are counted as float32.
            counted_in = DTYPES[precision] if is_rgb_restormer(network) else torch.float32
            needed = cost(reference_network(network), (shape[0], 3, *shape[1:]), counted_in)
            rows += _rows(name, timings, precision, shape, needed, exact, machine)
    return rows


def _that_run_here(key: str, asked: Sequence[str], device: torch.device) -> list[Any]:
    """The forms, precisions or runtimes of `bench.key` that make sense on this device; logs which are left out."""
    unfit = {
        *(GPU_FORMS if device.type != "cuda" else ()),
        *(runtime for runtime in RUNTIMES if device.type != "cpu" or importlib.util.find_spec(runtime) is None),
        *(("bf16",) if device.type == "cpu" and not multiplies_bf16(device) else ()),
    }
    if left_out := [name for name in asked if name in unfit]:
        logger.info("bench.%s: %s: not for this device, or not installed; left out", key, ", ".join(left_out))
    return [name for name in asked if name not in unfit]


def student_rows(config: Config, machine: Machine) -> list[Row]:
    """Times the student's inference in float32, as it is trained and in the form that we use."""
    rows: list[Row] = []
    widths: list[int | None] = [*config.bench.student_widths] or [None]  # None: the student's own width
    for width in widths:
        if width is not None and not isinstance(config.student, UNetConfig):
            logger.info("bench.student_widths: only for student.arch: unet, left out")
            continue
        for shape in config.bench.student_shapes or [_training_shape(config.data)]:
            own = config.student.width if isinstance(config.student, UNetConfig) else config.student.dim
            name = f"student ({config.student.arch}, width {own if width is None else width})"
            logger.info("%s %s", name, _by(shape))
            # Each form's `plain` and `keep_pages`, as in `student_forward`.
            forms = {PLAIN: (True, False), PLAIN_KEEPING_PAGES: (True, True), OURS: (False, True)}
            if machine.device.type != "cpu":
                del forms[PLAIN_KEEPING_PAGES]
            calls: dict[str, tuple[Build, tuple[Any, ...]]] = {
                form: (student_forward, (config.student, width, plain, pages, shape, machine.device))
                for form, (plain, pages) in forms.items()
            }
            if machine.device.type == "cpu":
                for runtime in _that_run_here("student_peers", config.bench.student_peers, machine.device):
                    calls[runtime] = student_forward, (config.student, width, False, True, shape, machine.device, runtime)
            timings = time_in_turn(calls, machine.device, config.bench.rounds)
            needed = cost(student_network(config.student, width), (shape[0], 3, *shape[1:]), torch.float32)
            rows += _rows(name, timings, "fp32", shape, needed, timings[PLAIN].output, machine)
    return rows


def _training_shape(data: DataConfig) -> list[int]:
    return [data.batch, data.patch, data.patch]


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]}x3x{shape[1]}x{shape[2]}"


def _rows(
    network: str,
    timings: Mapping[str, Timing],
    precision: Precision,
    shape: list[int],
    needed: Cost,
    exact: Tensor | None,
    machine: Machine,
) -> list[Row]:
    image, first = photograph(shape), next(iter(timings.values()))
    rate, bandwidth = machine.matrix_rate(DTYPES[precision]), machine.copy_bandwidth
    rows = []
    for form, timing in timings.items():
        difference = error = None
        if exact is not None and timing.output is not None:
            compared = exact.clamp(0, 1) if form in RUNTIMES else exact  # an exported file clamps its images
            apart = timing.output - compared
            difference = float(apart.abs().max())
            error = float(apart.square().mean().sqrt() / (compared - image).square().mean().sqrt())
        memory = None if timing.memory_bytes is None else timing.memory_bytes / 1e6
        row = Row(
            network=network,
            form=form,
            precision=precision,
            shape=shape,
            ms=1e3 * timing.seconds,
            images_per_s=shape[0] / timing.seconds,
            times_as_fast=timing.times_as_fast_as(first),
            first_call_s=timing.first_call_s,
            memory_mb=memory,
            gflop_per_s=needed.flop / timing.seconds / 1e9,
            matrix_share=needed.flop / timing.seconds / rate,
            copy_share=needed.traffic_bytes / timing.seconds / bandwidth,
            largest_difference=difference,
            correction_error=error,
            failure=timing.failure,
        )
        rows.append(row)
    return rows
