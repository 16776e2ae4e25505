"""The bound on the memory of a fuzz test."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.runtime.device import M_MMAP_MAX, M_TRIM_THRESHOLD

# The largest image that Pillow lets through has 179 million pixels, which it keeps in 4 bytes each, twice while it rotates them:
# 1.4 GB. No other reader has a reason to take as much.
MAX_GROWTH_GB = 1.5


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """Fails where the process's resident memory grew beyond the bound at any time during the test. Does nothing without Linux."""
    if not Path("/proc/self/clear_refs").exists():
        yield
        return
    _return_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
    before = _peak_gb()
    yield
    assert _peak_gb() - before < MAX_GROWTH_GB


def _return_freed_memory() -> None:
    """Undoes what tests before may have asked of glibc with `choose_device`: to keep it, and with it whatever was once large."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 65_536)
        libc.mallopt(M_TRIM_THRESHOLD, 128 * 1024)
        libc.malloc_trim(0)


def _peak_gb() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e9
