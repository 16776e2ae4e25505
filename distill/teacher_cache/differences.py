"""Differences between a cache's manifest and its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from distill.errors import listed, shown

State = Literal["valid", "touched", "missing", "changed", "damaged"]


@dataclass
class Differences:
    """Image stems (paths below the folder, without suffix), listed by what is wrong with their teacher image. If nothing changed,
    all lists are empty."""

    missing: list[str] = field(default_factory=list)
    """Never computed, or deleted."""
    changed: list[str] = field(default_factory=list)
    """An input changed after the teacher image was computed or packed."""
    misread: list[str] = field(default_factory=list)
    """An earlier version read another picture in an input than this one does."""
    damaged: list[str] = field(default_factory=list)
    """The stored teacher image is not what was written."""
    unread: list[str] = field(default_factory=list)
    """An earlier version, which read fewer kinds of files, made no teacher image. Training goes on without it."""
    removed: list[str] = field(default_factory=list)
    """The image is no longer among the inputs."""
    touched: list[str] = field(default_factory=list)
    """Valid, but a file's modification time is not the one in the manifest, as after a copy, or an earlier version wrote its
    line. Until `TeacherCache.restamp` records both, every comparison must checksum its files, or read its inputs' headers."""

    @property
    def to_compute(self) -> list[str]:
        return sorted([*self.missing, *self.changed, *self.misread, *self.unread, *self.damaged])

    def complaint(self) -> str | None:
        """All differences that make the cache wrong, in one line. None if there are none: `touched` and
        `unread` do not count."""
        words = {
            "have no teacher image": self.missing,
            "changed since their teacher image was computed": self.changed,
            "were read wrongly by the version that computed their teacher image": self.misread,
            "have a damaged teacher image": self.damaged,
            "have a teacher image, but are no longer there": self.removed,
        }
        found = [f"{len(stems)} images {what} ({listed([*map(shown, stems)], 3)})" for what, stems in words.items() if stems]
        return "; ".join(found) if found else None
