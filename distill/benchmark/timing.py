"""A function in a process of its own, timed in turn with others: its memory and its allocator's settings are its own, and what
the machine does meanwhile hits all alike."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from distill.benchmark.roofline import synchronize

# Writing 5 makes a process's peak, VmHWM, what it takes now. Linux only.
PEAK_RESET = Path("/proc/self/clear_refs")

Build = Callable[..., Callable[[], Tensor]]


@dataclass(frozen=True)
class Timing:
    """Of one function; `failure` says why there is nothing else."""

    rounds: list[float] = field(default_factory=list)
    """Seconds of one call, round by round."""
    first_call_s: float = float("nan")
    """Until the first result: building the network, compiling and recording it, and a call."""
    memory_bytes: int | None = None
    """How much the process grew at most during the first call; on CUDA, all that was taken from the device until then."""
    output: Tensor | None = None
    failure: str | None = None

    @property
    def seconds(self) -> float:
        """Of one call, the median; NaN where there is none."""
        return median(self.rounds or [float("nan")])

    def times_as_fast_as(self, other: Timing) -> float:
        """The median of the rounds' ratios: what slows the machine down slows both."""
        ratios = [theirs / mine for theirs, mine in zip(other.rounds, self.rounds, strict=False)]
        return median(ratios or [float("nan")])


def time_in_turn(functions: Mapping[str, tuple[Build, tuple[Any, ...]]], device: torch.device, rounds: int) -> dict[str, Timing]:
    """Builds each function by `build(*arguments)` in a fresh process, calls it once, and then all of them in turn.

    `build` and its arguments are pickled. A function that fails, or whose process is killed, is reported and left out.
    """
    context = multiprocessing.get_context("spawn")
    pools = {name: ProcessPoolExecutor(1, mp_context=context) for name in functions}
    first: dict[str, _First] = {}
    failures: dict[str, str] = {}
    times: dict[str, list[float]] = {name: [] for name in functions}
    try:
        for name, (build, arguments) in functions.items():
            _try(name, pools[name].submit(_first_call, build, arguments, device), first.__setitem__, failures)
        for _ in range(rounds):
            for name in [name for name in functions if name not in failures]:
                _try(name, pools[name].submit(_call, device), lambda n, s: times[n].append(s), failures)
    except BaseException:
        stop_children()
        raise
    finally:
        for pool in pools.values():
            pool.shutdown()
    return {
        name: Timing(failure=failures[name])
        if name in failures
        else Timing(times[name], first[name].seconds, first[name].memory_bytes, first[name].output)
        for name in functions
    }


def stop_children() -> None:
    """Ends all processes of this one's pools at once, whatever they compute: a pool would wait for them."""
    for child in multiprocessing.active_children():
        child.terminate()


def _try(name: str, future: Future[Any], keep: Callable[[str, Any], None], failures: dict[str, str]) -> None:
    try:
        keep(name, future.result())
    except BrokenProcessPool:
        failures[name] = "its process was killed; out of memory?"
    except Exception as error:  # noqa: BLE001 (one form that cannot be measured must not cost the others)
        failures[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


@dataclass(frozen=True)
class _First:
    seconds: float
    memory_bytes: int | None
    output: Tensor


_function: Callable[[], Tensor] | None = None  # of this process


def _first_call(build: Build, arguments: tuple[Any, ...], device: torch.device) -> _First:
    global _function
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    start = time.perf_counter()
    _function = build(*arguments)
    peak = PeakMemory(device)
    output = _function().float().cpu()
    return _First(time.perf_counter() - start, peak.bytes(), output)


def _call(device: torch.device) -> float:
    assert _function is not None
    synchronize(device)
    start = time.perf_counter()
    _function()
    synchronize(device)
    return time.perf_counter() - start


class PeakMemory:
    """The most memory that is taken from now on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before: int | None = None
        if device.type != "cuda" and PEAK_RESET.exists():
            PEAK_RESET.write_text("5")
            self.before = _resident("VmRSS")

    def bytes(self) -> int | None:
        """On CUDA all that was taken from the device, whenever; else the growth of the process on Linux, and None elsewhere."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device)  # allocations alone leave out what a CUDA graph holds
        return None if self.before is None else _resident("VmHWM") - self.before


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
