"""Chooses the device of a run, and sets up the process for it: no TF32, and on a CPU an allocator that keeps freed pages."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from pathlib import Path

import torch

from distill.config import DEVICE_NAMES, ConfigError
from distill.runtime.ranks import Ranks

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def choose_device(name: str, ranks: Ranks | None = None, key: str = "run.device") -> torch.device:
    """Returns the device named `auto`, `cpu`, `mps`, `cuda` or `cuda:N`, and sets up the process for it. On CUDA, each of several
    processes on a machine gets a GPU of its own. Raises ConfigError for any other name, for `cuda:N` with several processes, and
    for a device that this machine does not have. The message names `key`, the setting that the user gave."""
    if not re.fullmatch(DEVICE_NAMES, name):
        raise ConfigError(f"{key}: auto, cpu, mps, cuda or cuda:N; found {name!r}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if ranks is not None and ranks.count > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise ConfigError(f"{key}: {name} is one GPU, but there are {ranks.count} processes; cuda gives each its own")
        name = f"cuda:{ranks.rank_on_node}"
    device = torch.device(name)
    present = {
        "cpu": True,
        "mps": torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
    }
    if not present[device.type]:
        raise ConfigError(f"{key}: {name} is not available here; auto takes CUDA or the CPU")
    set_up_process(device)
    return device


def set_up_process(device: torch.device) -> None:
    """Changes settings of the whole process: on a CPU glibc keeps freed pages, for speed; cuDNN uses no TF32, for exactness."""
    if device.type == "cpu":
        _keep_freed_pages()
    # A GPU computes in float32 only if half precision is not accurate enough. TF32 would be no better: its mantissa has ten bits,
    # as fp16's has. PyTorch allows TF32 by default in cuDNN's convolutions, but not in matrix products.
    torch.backends.cudnn.allow_tf32 = False


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device is a CPU with instructions for matrix products in bf16: AMX-BF16 or AVX512-BF16. Known on Linux only."""
    return device.type == "cpu" and not {"amx_bf16", "avx512_bf16"}.isdisjoint(_cpuinfo("flags").split())


def describe_device(device: torch.device) -> str:
    """The device, the number of CPU threads, and the versions of Python and torch, in one line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpuinfo("model name") or platform.machine()
    count = torch.get_num_threads()
    threads = "" if device.type == "cuda" else f", {count} thread{'s' * (count > 1)}"
    return f"{name}{threads}; Python {platform.python_version()}, torch {torch.__version__}"


def _cpuinfo(key: str) -> str:
    """What /proc/cpuinfo says of the first processor, such as its `flags`. Empty if there is no such file or entry."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _keep_freed_pages() -> None:
    """Makes glibc reuse large blocks instead of returning them to the system. Otherwise every layer's activations are fresh
    pages, and clearing fresh pages takes about a sixth of a small Restormer's training step. Other C libraries are left alone."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap too; a block of mmap's would be returned when it is freed
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # the heap shrinks only if more than 2 GiB at its end are free
