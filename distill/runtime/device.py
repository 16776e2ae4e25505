"""The device a run computes on, how batches come to it, and the one setting of the allocator that pays on a CPU."""

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
    """`auto`, `cpu`, `mps`, `cuda` or `cuda:N`, prepared; of several processes on a machine each gets a GPU of its own. Raises
    ConfigError, which names the `key` that the user gave, for any other name and for a device this machine does not have."""
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
    prepare_process(device)
    return device


def prepare_process(device: torch.device) -> None:
    """Sets, for all of the process, what makes the device fast, or exact."""
    if device.type == "cpu":
        _keep_freed_pages()
    # What is computed in float32 on a GPU is so because half precision would not do, and TF32 has fp16's ten bits.
    torch.backends.cudnn.allow_tf32 = False


def describe_device(device: torch.device) -> str:
    """Device and versions, in one line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    count = torch.get_num_threads()
    threads = "" if device.type == "cuda" else f", {count} thread{'s' * (count > 1)}"
    return f"{name}{threads}; Python {platform.python_version()}, torch {torch.__version__}"


def _processor() -> str:
    """As the kernel names it; the architecture where there is no /proc."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _keep_freed_pages() -> None:
    """Lets glibc reuse large blocks instead of returning them: a network's activations are otherwise fresh pages in every
    layer, and clearing those costs a training step of a small Restormer about a sixth of its time. Other C libraries: no-op."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
