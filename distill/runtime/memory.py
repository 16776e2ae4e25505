"""Whether an error says that there was not enough memory, which every device does in its own way."""

from __future__ import annotations

import re

import torch

# "DefaultCPUAllocator: can't allocate memory", "not enough memory" on Windows, and "MPS backend out of memory".
_WORDS = re.compile(r"out of memory|(can't|cannot) allocate memory|not enough memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """torch has a class of its own for CUDA alone; others are RuntimeErrors that say it in words."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None
