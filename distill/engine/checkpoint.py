"""Checkpoints: written whole or not at all, one older one kept, and read back without running code from them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from restormer.weights import WeightsError, read_torch_file

logger = logging.getLogger(__name__)

CHECKPOINT = "student_checkpoint.pth"
PREVIOUS = "student_checkpoint.previous.pth"


def save_atomically(path: Path, content: Any) -> None:
    """`torch.save` beside the file, flushed to the disk, then renamed over it: a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Keeps the checkpoint that was there as the previous one."""
    if (folder / CHECKPOINT).exists():
        os.replace(folder / CHECKPOINT, folder / PREVIOUS)
    save_atomically(folder / CHECKPOINT, content)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None where there is none. A damaged one is named, and the previous one taken.

    Raises WeightsError where there are checkpoints and none can be read.
    """
    error: WeightsError | None = None
    for name in (CHECKPOINT, PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            content: dict[str, Any] = read_torch_file(folder / name)
        except WeightsError as damage:
            logger.warning("%s", damage)
            error = error or damage
            continue
        if error is not None:
            logger.warning("going on from %s", folder / name)
        return content
    if error is not None:
        raise WeightsError(f"{error}; no older checkpoint can be read either: --fresh starts over")
    return None
