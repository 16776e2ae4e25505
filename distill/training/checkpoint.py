"""Checkpoints. A checkpoint is written whole or not at all, the previous one is kept, and loading runs no code from the file."""

from __future__ import annotations

import logging
import zipfile
import zlib
from pathlib import Path
from typing import Any

from distill.runtime.files import save_atomically
from distill.training.run_folder import CHECKPOINT, PREVIOUS
from restormer.weight_files import WeightsError, read_torch_file

logger = logging.getLogger(__name__)


def save_checkpoint(folder: Path, content: dict[str, Any]) -> None:
    """Writes the checkpoint and keeps the one that was there as PREVIOUS. If this raises WriteError, both are unchanged."""
    save_atomically(folder / CHECKPOINT, content, previous=folder / PREVIOUS)


def _check_sums(path: Path) -> None:
    """Checks each tensor against its checksum. torch.save writes a zip archive with these checksums, and torch.load ignores them.
    Raises WeightsError."""
    if path.stat().st_size == 0:
        raise WeightsError(f"{path}: an empty file")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, zlib.error) as error:
        raise WeightsError(f"{path}: damaged or truncated ({path.stat().st_size} bytes): {error}") from None
    if damaged is not None:
        raise WeightsError(f"{path}: damaged: the checksum of {damaged} is wrong")


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None if there is none. If the newest is damaged, a warning names it and the
    previous one is loaded.

    Raises WeightsError if there are checkpoints but none can be read.
    """
    error: WeightsError | None = None
    for name in (CHECKPOINT, PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            _check_sums(folder / name)
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
