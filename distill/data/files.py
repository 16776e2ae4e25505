"""Files that appear whole or not at all, in folders that one process writes at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class FolderInUseError(ValueError):
    """A folder that another process writes."""


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, which appears whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second process from writing the folder; a dead process's lock does not. Removes the half-written files that a
    killed one left. Raises FolderInUseError."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            for torn in folder.rglob(".*.tmp"):
                torn.unlink()
            yield
    except Timeout:
        raise FolderInUseError(f"{folder}: another process is writing there") from None
