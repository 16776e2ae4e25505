"""Checkpoints: written whole or not at all, one older one kept, and read back without running code from them."""

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
    """Keeps the checkpoint that was there as the previous one. Raises WriteError, after which both are as they were."""
    save_atomically(folder / CHECKPOINT, content, previous=folder / PREVIOUS)


def _check_sums(path: Path) -> None:
    """Compares each tensor's bytes with the checksum that torch wrote beside them and does not look at. Raises WeightsError."""
    if path.stat().st_size == 0:
        raise WeightsError(f"{path}: an empty file")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, zlib.error) as error:
        raise WeightsError(f"{path}: damaged or truncated ({path.stat().st_size} bytes): {error}") from None
    if damaged is not None:
        raise WeightsError(f"{path}: damaged: the checksum of {damaged} is wrong")


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one to go on from, whole or not."""
    return any((folder / name).exists() for name in (CHECKPOINT, PREVIOUS))


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None where there is none. A damaged one is named, and the previous one taken.

    Raises WeightsError where there are checkpoints and none can be read.
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
