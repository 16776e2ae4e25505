"""The manifest of a teacher cache: which teacher made it, from which files, and how to tell whether a file changed since.

`manifest.json` describes the teacher. `manifest.jsonl` has one line per blurry image, appended once the teacher's image of it is
completely on disk. A line that a crash cut off is ignored: its image counts as missing. If several lines are about one image, the
last one counts.

If several processes fill a cache, the first process writes `manifest.jsonl` and every other process a file of its own, which is
merged into `manifest.jsonl` later. Appending to one file from several machines is not safe on any network file system."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from distill.errors import UserError, one_line
from distill.networks.teacher import Identity
from distill.runtime.files import append_bytes, write_bytes

HEADER = "manifest.json"
LINES = "manifest.jsonl"
PARTS = "manifest.rank*.jsonl"
# In bytes. A stem is an image's path below its folder, without suffix. One part of it may have 251 bytes: file systems allow 255,
# of which `.png` takes 4.
MAX_NAME, MAX_STEM = 251, 2048


class CacheError(UserError):
    """A teacher cache that cannot be used as it is. `mend` holds the options with which the command `distill.cache` mends the
    cache. It is empty if the plain command does, and None if the command cannot."""

    def __init__(self, message: str, mend: str | None = None) -> None:
        super().__init__(message)
        self.mend = mend


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)


class Stamp(_Record):
    """A file's size, time and checksum. Size and time are a cheap test for a change, the checksum is a sure one."""

    size: int
    mtime_ns: int
    crc32: int
    """zlib's crc32 of the whole file. For an image in a shard, which packs many images, the crc32 of this image's sharp, blurry
    and teacher pixels: `equals` does not apply then."""

    @classmethod
    def of(cls, path: Path) -> tuple[Stamp, bytes]:
        """A file's stamp and content. Raises OSError."""
        mtime_ns = path.stat().st_mtime_ns  # before reading: if the file changes meanwhile, a later check finds another time
        data = path.read_bytes()
        return cls(size=len(data), mtime_ns=mtime_ns, crc32=zlib.crc32(data)), data

    def looks_like(self, path: Path) -> bool:
        """Whether a file has this size and time. Does not read the file."""
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
    """The images for which the cache was last filled."""

    folder: str
    count: int
    sha256: str
    """sha256 of the sorted stems, one per line."""


class Header(_Record):
    format: Literal["online-distill teacher cache 1"] = "online-distill teacher cache 1"
    storage: Literal["png", "safetensors"]
    teacher: Identity
    tile: int
    """The configuration's `teacher.tile`: images with more than tile * tile pixels were restored in square tiles of this side."""
    inputs: Inputs


class Entry(_Record):
    """One manifest line: an image and its teacher image."""

    stem: str
    blurry: Stamp
    sharp: Stamp | None = None
    """Set only if the sharp image is in the same shard as the teacher's image."""
    output: Stamp | None = None
    """The stamp of the teacher's image. None if there is no teacher's image; `unreadable` gives the reason."""
    shard: Annotated[str, Field(pattern=r"^\d{6}\.safetensors$")] | None = None
    """The packed file that holds the triplet."""
    reader: int | None = None
    """The version of the reader that decoded the input. None in lines of versions before the second."""
    unreadable: str | None = None
    """Why there is no teacher's image: the input could not be read, or the teacher's image was not finite."""

    @field_validator("stem")
    @classmethod
    def _check_stem(cls, stem: str) -> str:
        """Refuses a stem that leads out of the folder, since files are written and removed by stem, and one that is too long."""
        path, name = PurePath(stem), os.fsencode(stem)  # fsencode raises ValueError if no file can have this name
        if path.anchor or ".." in path.parts or not path.parts or "\0" in stem:
            raise ValueError("not a relative stem")
        if len(name) > MAX_STEM or any(len(part) > MAX_NAME for part in name.split(b"/")):
            raise ValueError("longer than the name of a file can be")
        return stem


class Manifest:
    """The header and lines of a cache folder."""

    def __init__(self, folder: Path) -> None:
        """Raises CacheError if the header cannot be understood, or if there are lines without a header."""
        self.folder = folder
        self.lines = folder / LINES
        """The file to which lines are appended."""
        self.header = _read_header(folder / HEADER)
        if self.header is None and (folder / LINES).exists():
            raise CacheError(f"{folder}: there is a {LINES} and no {HEADER}: nothing tells which teacher made this", "--fresh")
        self.entries: dict[str, Entry] = {}
        self._bytes_read = 0
        self.refresh()

    def refresh(self) -> None:
        """Reads the lines that were appended since the last read. An unfinished last line is left for the next read."""
        path = self.folder / LINES
        if not path.exists() or path.stat().st_size <= self._bytes_read:
            return
        with path.open("rb") as file:
            file.seek(self._bytes_read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._bytes_read += len(whole) + len(newline)
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
        """From now on appends lines to a file of this rank's own, which `merge_parts` merges later."""
        self.lines = self.folder / PARTS.replace("*", str(rank))

    def rewrite(self, entries: dict[str, Entry]) -> None:
        """Replaces all lines by these entries."""
        lines = _as_lines(entries)
        write_bytes(self.folder / LINES, lines)
        self.entries, self._bytes_read = dict(entries), len(lines)


def merge_parts(folder: Path) -> None:
    """Moves the lines of all ranks into one file. Call it in the process that holds the folder's lock, while no other process
    writes lines. A kill midway leaves some lines twice, which does no harm. Raises WriteError."""
    for path in sorted(folder.glob(PARTS)):
        _append_lines(folder / LINES, parse_lines(path.read_bytes()))
        path.unlink()


def _append_lines(path: Path, entries: dict[str, Entry]) -> None:
    if entries:
        append_bytes(path, _missing_newline(path) + _as_lines(entries))


def _missing_newline(path: Path) -> bytes:
    """A newline if the last line lacks one, so that the next line does not become part of it. Empty otherwise."""
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
    """{stem: entry}. A line that a crash cut off is left out."""
    entries = {}
    for line in text.splitlines():
        try:
            entry = Entry.model_validate(json.loads(line))
        except (ValueError, RecursionError):  # pydantic's ValidationError is a ValueError
            continue
        entries[entry.stem] = entry
    return entries


def _as_lines(entries: dict[str, Entry]) -> bytes:
    # A file name need not be valid UTF-8. json.dumps escapes its surrogates; pydantic's own JSON writer fails on them.
    return "".join(json.dumps(entry.model_dump(exclude_none=True)) + "\n" for entry in entries.values()).encode()


def _read_header(path: Path) -> Header | None:
    if not path.exists():
        return None
    try:
        return Header.model_validate(json.loads(path.read_bytes()))
    except (ValueError, RecursionError, OSError) as error:
        raise CacheError(f"{path}: not the header of a teacher cache ({one_line(error)})", "--fresh") from None
