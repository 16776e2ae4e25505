"""What is wrong with a cache's teacher images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from distill.errors import shown

State = Literal["valid", "touched", "missing", "changed", "damaged"]


@dataclass
class Differences:
    """Stems by what is wrong with their teacher image; nothing is where all are valid."""

    missing: list[str] = field(default_factory=list)
    """Never computed, or deleted."""
    changed: list[str] = field(default_factory=list)
    """The input is another than the one it was computed from."""
    damaged: list[str] = field(default_factory=list)
    """The output is not what was written."""
    removed: list[str] = field(default_factory=list)
    """The input is gone."""
    touched: list[str] = field(default_factory=list)
    """Valid, with other times than when it was written: a copy. Costs a checksum each time."""

    @property
    def to_compute(self) -> list[str]:
        return sorted([*self.missing, *self.changed, *self.damaged])

    def complaint(self) -> str | None:
        """All differences that make the cache wrong, in one line."""
        words = {
            "have no teacher image": self.missing,
            "changed since their teacher image was computed": self.changed,
            "have a damaged teacher image": self.damaged,
            "have a teacher image, but are no longer there": self.removed,
        }
        found = [f"{len(stems)} images {what} ({_some(stems)})" for what, stems in words.items() if stems]
        return "; ".join(found) if found else None


def _some(stems: Sequence[str]) -> str:
    return ", ".join(map(shown, stems[:3])) + (f" and {len(stems) - 3} more" if len(stems) > 3 else "")
