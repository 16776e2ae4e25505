"""What tests of written files share: what a folder holds, and damage to a file."""

from __future__ import annotations

import os
from pathlib import Path


def files(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """The content of all files below, by relative path."""
    paths = (path for path in sorted(folder.rglob(pattern)) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def flip_byte(path: Path, keep_time: bool) -> None:
    """Another byte among the last, where the pixels are, in a file of the same size."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
