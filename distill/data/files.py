"""Files that appear whole or not at all, in folders that one process writes at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


class WriteError(ValueError):
    """A file that cannot be written, or a folder that another process writes. The message is one line that begins with the
    path."""


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file, which appears whole or not at all. Raises WriteError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # it may not be there, and the first error is the one to tell
            temporary.unlink()
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error


def append_bytes(path: Path, data: bytes) -> None:
    """Adds to a file's end in one write. Raises WriteError."""
    try:
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second process from writing the folder; a dead process's lock does not. Removes the half-written files that a
    killed one left. Raises WriteError."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            for torn in folder.rglob(".*.tmp"):
                torn.unlink()
            yield
    except Timeout:
        raise WriteError(f"{folder}: another process is writing there") from None
