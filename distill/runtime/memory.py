"""Recognises out-of-memory errors, which every device reports in its own way."""

from __future__ import annotations

import re

import torch

# CPU: "DefaultCPUAllocator: can't allocate memory"; on Windows: "not enough memory"; MPS: "MPS backend out of memory".
_WORDS = re.compile(r"out of memory|(can't|cannot) allocate memory|not enough memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out. Only CUDA's error has a class of its own in torch; other devices raise a
    RuntimeError whose text says it."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None
