"""What a teacher cache holds: by which teacher, of which files, and how to tell that any of it has changed since.

`manifest.json` says which teacher; `manifest.jsonl` has one line per image, appended when its teacher image is whole on the disk.
A line that a crash tore is no line: its image counts as missing. Of several lines about one image the last one counts. Where
several processes fill a cache, the first one writes `manifest.jsonl` and each other a file of its own, whose lines go over into
it: appending to one file from several machines is safe on no network file system."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from distill.errors import UserError
from distill.networks.teacher import Identity
from distill.runtime.files import append_bytes, write_bytes

HEADER = "manifest.json"
LINES = "manifest.jsonl"
PARTS = "manifest.rank*.jsonl"
# In bytes: a file's name, without a suffix, and its path below the folder.
MAX_NAME, MAX_STEM = 251, 2048


class CacheError(UserError):
    """A teacher cache that cannot be used as it is. `mend` holds the options of `distill.cache` that mend it, None where that
    command cannot."""

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(message)
        self.mend = mend


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)


class Stamp(_Record):
    """What a file was: size and time say cheaply that it is the same, the checksum surely."""

    size: int
    mtime_ns: int
    crc32: int
    """Of the whole file (zlib's); of a triplet's pixels where many are packed into one file."""

    @classmethod
    def of(cls, path: Path) -> tuple[Stamp, bytes]:
        """A file's stamp and content. Raises OSError."""
        mtime_ns = path.stat().st_mtime_ns  # before it is read: a change meanwhile must not pass as known
        data = path.read_bytes()
        return cls(size=len(data), mtime_ns=mtime_ns, crc32=zlib.crc32(data)), data

    def looks_like(self, path: Path) -> bool:
        """Whether a file has this size and time; reads nothing of it."""
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)

    def equals(self, path: Path) -> bool:
        """Whether a file has this size and checksum, whatever its time."""
        try:
            return path.stat().st_size == self.size and zlib.crc32(path.read_bytes()) == self.crc32
        except OSError:
            return False


class Inputs(_Record):
    """Which images the cache was made for, when it was filled last."""

    folder: str
    count: int
    sha256: str
    """Of the sorted stems, one per line."""


class Header(_Record):
    format: Literal["online-distill teacher cache 1"] = "online-distill teacher cache 1"
    storage: Literal["png", "safetensors"]
    teacher: Identity
    tile: int
    """`teacher.tile`: images of more pixels were restored in tiles of this side."""
    inputs: Inputs


class Entry(_Record):
    """One line: an image, and what the teacher made of it."""

    stem: str
    blurry: Stamp
    sharp: Stamp | None = None
    """Where the sharp image is packed beside the teacher's."""
    output: Stamp | None = None
    """Of the teacher's image; None where there is none, for the reason that `unreadable` gives."""
    shard: Annotated[str, Field(pattern=r"^\d{6}\.safetensors$")] | None = None
    """The packed file that holds it."""
    unreadable: str | None = None
    """Why there is no teacher's image: the input could not be read, or what the teacher made of it was not finite."""

    @field_validator("stem")
    @classmethod
    def _check_inside(cls, stem: str) -> str:
        """Files are written and removed by stem: one that leads out of the folder is refused."""
        path, name = PurePath(stem), os.fsencode(stem)  # which raises ValueError for what can be in no name
        if path.anchor or ".." in path.parts or not path.parts or "\0" in stem:
            raise ValueError("not a relative stem")
        if len(name) > MAX_STEM or any(len(part) > MAX_NAME for part in name.split(b"/")):
            raise ValueError("longer than the name of a file can be")
        return stem


class Manifest:
    """The header and lines of a cache folder."""

    def __init__(self, folder: Path) -> None:
        """Raises CacheError for a header that cannot be understood, or that is missing although there are lines."""
        self.folder = folder
        self.lines = folder / LINES
        """Where lines are appended."""
        self.header = _read_header(folder / HEADER)
        if self.header is None and (folder / LINES).exists():
            raise CacheError(f"{folder}: there is a {LINES} and no {HEADER}: nothing tells which teacher made this", "--fresh")
        self.entries: dict[str, Entry] = {}
        self._read_bytes = 0
        self.refresh()

    def refresh(self) -> None:
        """Reads the lines that were appended since. A last line without its end is left for the next time."""
        path = self.folder / LINES
        if not path.exists() or path.stat().st_size <= self._read_bytes:
            return
        with path.open("rb") as file:
            file.seek(self._read_bytes)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(whole) + len(newline)
        self.entries |= parse_lines(whole)

    def write_header(self, header: Header) -> None:
        """Raises WriteError."""
        if header != self.header:
            write_bytes(self.folder / HEADER, header_bytes(header))
            self.header = header

    def append(self, entries: Iterable[Entry]) -> None:
        """Adds lines, in one write. Raises WriteError."""
        new = {entry.stem: entry for entry in entries}
        _append_lines(self.lines, new)
        self.entries |= new

    def append_as(self, rank: int) -> None:
        """From now on lines are appended to a file of this rank's own, for `merge_parts`."""
        self.lines = self.folder / PARTS.replace("*", str(rank))

    def rewrite(self, entries: dict[str, Entry]) -> None:
        """Replaces all lines by these."""
        lines = _as_lines(entries)
        write_bytes(self.folder / LINES, lines)
        self.entries, self._read_bytes = dict(entries), len(lines)


def merge_parts(folder: Path) -> None:
    """Moves the lines of all ranks into one file. To be called by the process that holds the folder's lock, when no other writes
    lines; a kill in between leaves lines twice, which is the same as once. Raises WriteError."""
    for path in sorted(folder.glob(PARTS)):
        _append_lines(folder / LINES, parse_lines(path.read_bytes()))
        path.unlink()


def _append_lines(path: Path, entries: dict[str, Entry]) -> None:
    if entries:
        append_bytes(path, _mend_torn_end(path) + _as_lines(entries))


def _mend_torn_end(path: Path) -> bytes:
    """A newline where the last line has none: what follows must not become part of it."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return b""
        file.seek(-1, os.SEEK_END)
        return b"" if file.read(1) == b"\n" else b"\n"


def header_bytes(header: Header) -> bytes:
    return json.dumps(header.model_dump(), indent=1).encode() + b"\n"


def parse_lines(text: bytes) -> dict[str, Entry]:
    """Lines as entries by stem; what a crash tore is left out."""
    entries = {}
    for line in text.splitlines():
        try:
            entry = Entry.model_validate(json.loads(line))
        except (ValueError, RecursionError):  # pydantic's ValidationError is a ValueError
            continue
        entries[entry.stem] = entry
    return entries


def _as_lines(entries: dict[str, Entry]) -> bytes:
    # Through json, not pydantic's own: a file name need not be valid UTF-8, and only json's escapes carry what is not.
    return "".join(json.dumps(entry.model_dump(exclude_none=True)) + "\n" for entry in entries.values()).encode()


def _read_header(path: Path) -> Header | None:
    if not path.exists():
        return None
    try:
        return Header.model_validate(json.loads(path.read_bytes()))
    except (ValueError, RecursionError, OSError) as error:
        raise CacheError(f"{path}: not the header of a teacher cache ({' '.join(str(error).split())[:200]})", "--fresh") from None
