"""Writes files that appear whole or not at all, and locks a folder so that one process writes it at a time."""

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
# Matches the names that `_temporary` makes, and those that it made in earlier versions, which held the file's whole name. It does
# not match every hidden *.tmp, because other programs' files can lie here too.
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp", re.DOTALL)


class WriteError(UserError):
    """A file cannot be written, or another process is writing the folder. The message is one line that begins with the path."""


def write_bytes(path: Path, data: bytes | memoryview, durable: bool = False, previous: Path | None = None) -> None:
    """Writes a file, which appears whole or not at all. If `durable`, it survives a power cut. If `previous` is given, the old
    file at `path` is renamed to it. A full disk leaves everything as it was. Raises WriteError."""
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
        with suppress(OSError):  # the temporary file may not exist, and the first error is the one to report
            temporary.unlink()
        needed = f"; {len(data)} bytes are needed in {path.parent}" if error.errno == errno.ENOSPC else ""
        raise WriteError(f"{path}: cannot be written: {error.strerror}{needed}") from error


def save_atomically(path: Path, content: Any, previous: Path | None = None) -> None:
    """Writes `content` with torch.save. A crash, a power cut or a full disk leaves the old file or the new one. If `previous` is
    given, the old file is renamed to it; after a crash it may be there already, with no file at `path` yet. Raises WriteError."""
    # Saved to memory first: torch.save reports a full disk as a RuntimeError that does not mention the disk.
    file = io.BytesIO()
    torch.save(content, file)
    write_bytes(path, file.getbuffer(), durable=True, previous=previous)


def check_writable(path: Path) -> None:
    """Raises WriteError if `write_bytes` would fail for any reason except a full disk, so that a command can fail before a long
    computation instead of after it. Creates the folder, and leaves nothing else behind."""
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
    """The path of a hidden temporary file beside `path`. Its name is short, because the name of `path` may already have the
    maximum length. It is made of the process id and a hash of `path`'s name: processes on two machines may have the same id and
    write different files to one folder."""
    digest = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    return path.with_name(f".{digest}.{os.getpid()}.tmp")


def _sync_names(folder: Path) -> None:
    """Flushes the folder's own changes, such as renamed files, to the disk, if the system can (Windows cannot)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_bytes(path: Path, data: bytes) -> None:
    """Appends to a file in one write. A full disk leaves the file as it was. Raises WriteError."""
    try:
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            if file.write(data) < len(data):  # unbuffered, so a full disk shows as a short write
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks the folder, so that no second process writes it. A process that dies releases its lock. Removes the half-written
    files that a killed process left. Raises WriteError if another process holds the lock, or the folder cannot be written."""
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


def is_locked(folder: Path) -> bool:
    """Whether another process holds the folder's lock. Raises WriteError if that cannot be found out."""
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror}") from error
    lock.release()
    return False


def _sweep(folder: Path) -> None:
    for here, folders, names in os.walk(folder):  # os.walk passes over unreadable folders such as lost+found
        # Another process may be writing in a folder that has its own lock.
        folders[:] = [name for name in folders if not os.path.exists(os.path.join(here, name, LOCK))]
        for name in filter(_TEMPORARY.fullmatch, names):
            with suppress(OSError):  # another user's file, which can stay
                os.unlink(os.path.join(here, name))
