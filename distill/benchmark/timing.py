"""Times functions in turn, so that other load on the machine slows all of them alike. Each function runs in its own process, with
its own memory and allocator settings."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from distill.benchmark.roofline import synchronize

# Writing 5 resets a process's peak memory, VmHWM, to its present memory. Linux only.
PEAK_RESET = Path("/proc/self/clear_refs")

Build = Callable[..., Callable[[], Tensor]]


@dataclass(frozen=True)
class Timing:
    """The measurements of one function. If it failed, `failure` says why and the other fields are empty."""

    rounds: list[float] = field(default_factory=list)
    """Seconds of one call, round by round."""
    first_call_s: float = float("nan")
    """Seconds until the first result: building the network, compiling it, capturing it in a CUDA graph, and one call."""
    memory_bytes: int | None = None
    """Peak growth of the process during the first call. On CUDA: the most memory that the process had taken from the device by
    the end of that call."""
    output: Tensor | None = None
    failure: str | None = None

    @property
    def seconds(self) -> float:
        """Median seconds of one call; NaN without rounds."""
        return median(self.rounds or [float("nan")])

    def times_as_fast_as(self, other: Timing) -> float:
        """Median over rounds of the ratio of times: other load in a round slows both functions."""
        ratios = [theirs / mine for theirs, mine in zip(other.rounds, self.rounds, strict=False)]
        return median(ratios or [float("nan")])


def time_in_turn(functions: Mapping[str, tuple[Build, tuple[Any, ...]]], device: torch.device, rounds: int) -> dict[str, Timing]:
    """Builds each function by `build(*arguments)` in a fresh process and calls it once. Then times one call of each function in
    turn, `rounds` times.

    `build` and its arguments are pickled. If a function fails or its process is killed, its Timing holds the failure alone.
    """
    context = multiprocessing.get_context("spawn")
    pools = {name: ProcessPoolExecutor(1, mp_context=context) for name in functions}
    first: dict[str, Timing] = {}
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
        name: Timing(failure=failures[name]) if name in failures else replace(first[name], rounds=times[name])
        for name in functions
    }


def stop_children() -> None:
    """Terminates the pools' processes at once: shutting a pool down would wait for what they compute."""
    for child in multiprocessing.active_children():
        child.terminate()


def _try(name: str, future: Future[Any], keep: Callable[[str, Any], None], failures: dict[str, str]) -> None:
    """Waits for the result and calls `keep(name, result)`. If there is no result, writes the reason to `failures[name]`."""
    try:
        keep(name, future.result())
    except BrokenProcessPool:
        failures[name] = "its process was killed; out of memory?"
    except Exception as error:  # noqa: BLE001 (one form that cannot be measured must not cost the others)
        failures[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


_function: Callable[[], Tensor] | None = None  # the function that this process times


def _first_call(build: Build, arguments: tuple[Any, ...], device: torch.device) -> Timing:
    global _function
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    start = time.perf_counter()
    _function = build(*arguments)
    peak = PeakMemory(device)
    output = _function().float().cpu()
    return Timing([], time.perf_counter() - start, peak.bytes(), output)


def _call(device: torch.device) -> float:
    assert _function is not None
    synchronize(device)
    start = time.perf_counter()
    _function()
    synchronize(device)
    return time.perf_counter() - start


class PeakMemory:
    """Peak memory since construction; on CUDA, since the process began."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before: int | None = None
        if device.type != "cuda" and PEAK_RESET.exists():
            PEAK_RESET.write_text("5")
            self.before = _resident("VmRSS")

    def bytes(self) -> int | None:
        """On CUDA, all memory taken from the device. Otherwise the growth of the process on Linux, and None elsewhere."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device)  # max_memory_allocated would leave out a CUDA graph's memory
        return None if self.before is None else _resident("VmHWM") - self.before


def _resident(key: str) -> int:
    """Bytes of an entry of /proc/self/status, such as `VmRSS:  1234 kB`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
