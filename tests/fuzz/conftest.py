"""The bound on the memory of a fuzz test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

# The largest image that Pillow lets through has 179 million pixels, which it keeps in 4 bytes each, twice while it rotates them:
# 1.4 GB. No other reader has a reason to take as much.
MAX_GROWTH_GB = 1.5


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """Fails where the process's resident memory grew beyond the bound at any time during the test. Does nothing without Linux."""
    if not Path("/proc/self/clear_refs").exists():
        yield
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
    before = _peak_gb()
    yield
    assert _peak_gb() - before < MAX_GROWTH_GB


def _peak_gb() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e9
