"""Files that appear whole or not at all, in folders that one process writes at a time."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from distill.errors import UserError

LOCK = ".lock"
# As `_temporary` names it, and as it did before, with the whole name of the file: other programs' files can lie here too.
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp", re.DOTALL)


class WriteError(UserError):
    """A file that cannot be written, or a folder that another process writes. The message is one line that begins with the
    path."""


def write_bytes(path: Path, data: bytes | memoryview, durable: bool = False, previous: Path | None = None) -> None:
    """Writes a file, which appears whole or not at all; a durable one survives a loss of power. The file that was there becomes
    `previous`, where that is given. A full disk leaves everything as it was. Raises WriteError."""
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        if durable:
            _sync_names(path.parent)
    except OSError as error:
        with suppress(OSError):  # it may not be there, and the first error is the one to tell
            temporary.unlink()
        needed = f"; {len(data)} bytes are needed in {path.parent}" if error.errno == errno.ENOSPC else ""
        raise WriteError(f"{path}: cannot be written: {error.strerror}{needed}") from error


def save_atomically(path: Path, content: Any, previous: Path | None = None) -> None:
    """A file of torch's. A crash, a loss of power or a full disk leaves the old one or the new one; the old one becomes
    `previous`, where that is given. Raises WriteError."""
    # In memory first: torch.save reports a full disk as a RuntimeError that says nothing of it.
    file = io.BytesIO()
    torch.save(content, file)
    write_bytes(path, file.getbuffer(), durable=True, previous=previous)


def check_writable(path: Path) -> None:
    """Raises WriteError where `write_bytes` would for another reason than a full disk: before a long computation, not after it.
    Leaves nothing but the folder."""
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error


def _temporary(path: Path) -> Path:
    """Beside the file, hidden, and short: the file's own name may be as long as a name can be. It is another for every file, also
    where processes of two machines have one number."""
    digest = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    return path.with_name(f".{digest}.{os.getpid()}.tmp")


def _sync_names(folder: Path) -> None:
    """Puts the folder's own changes, such as a new name for a file, onto the disk, where the system can (not on Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_bytes(path: Path, data: bytes) -> None:
    """Adds to a file's end in one write, or, on a full disk, nothing. Raises WriteError."""
    try:
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            if file.write(data) < len(data):
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second process from writing the folder; a dead process's lock does not. Removes the half-written files that a
    killed one left. Raises WriteError."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise WriteError(f"{folder}: another process is writing there") from None
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        _sweep(folder)
        yield
    finally:
        lock.release()


def _sweep(folder: Path) -> None:
    for here, folders, names in os.walk(folder):  # which passes over folders that cannot be read: lost+found is one
        # In a folder with a lock of its own another process may be writing.
        folders[:] = [name for name in folders if not os.path.exists(os.path.join(here, name, LOCK))]
        for name in filter(_TEMPORARY.fullmatch, names):
            with suppress(OSError):  # another user's: it is in nobody's way
                os.unlink(os.path.join(here, name))
