"""A record of the settings, in the folder of the results. The record's time tells which results are up to date."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.data.decoding.versions import READER, was_misread
from distill.data.image_files import ImageError
from distill.pictures.selection import Job
from distill.runtime.files import write_bytes

logger = logging.getLogger(__name__)

RECORD = ".restored.json"


@dataclass(frozen=True)
class Since:
    """From which times on results are up to date, in seconds."""

    settings: float
    """Results that are older were made with other settings: the modification time of the record."""
    reader: float
    """Results that are older were made by a version that misread some pictures."""


def results_since(
    out: Path, jobs: Sequence[Job], settings: Mapping[str, str | int], *, overwrite: bool = False, compare: bool = False
) -> Since:
    """The times in the record of the folder `out`.

    Writes a new record if there is none or if its settings differ. If there is no record, a file with the path of a result is
    not a result but the user's own. Raises ImageError if there is such a file, unless `overwrite` is set. With `compare`,
    comparisons count as results. Raises WriteError if the record cannot be written.
    """
    record = out / RECORD
    there = [path for job in jobs for path in _written(job, compare) if os.path.isfile(path)]
    if record.is_file():
        before, since = _read(record), record.stat().st_mtime
        if {key: before.get(key) for key in settings} == settings:
            if before.get("reader") != READER:
                _write(record, settings, reader_since=0)
                _write(record, settings, reader_since=record.stat().st_mtime)  # in the time of the file system
                os.utime(record, (since, since))
            return Since(since, _read(record)["reader_since"])
        if there and not overwrite:
            logger.warning("%s: its results were made with other weights or another --quality; they are restored again", out)
    elif there and not overwrite:
        raise ImageError(
            f"{there[0]}: is there, and no result of this command ({record} is missing); give another --out, or --overwrite"
        )
    _write(record, settings, reader_since=0)
    return Since(record.stat().st_mtime, 0)


def _read(record: Path) -> dict[str, Any]:
    """Empty if the record cannot be understood."""
    try:
        content = json.loads(record.read_bytes())
    except ValueError:
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("reader_since", 0), int | float) else {}


def _write(record: Path, settings: Mapping[str, str | int], reader_since: float) -> None:
    content = {**settings, "reader": READER, "reader_since": reader_since}
    write_bytes(record, json.dumps(content, sort_keys=True).encode())


def is_done(job: Job, since: Since, compare: bool = False) -> bool:
    """Whether the result, and with `compare` the comparison, exist, are newer than the input, and are up to date. Logs a result
    that is not up to date because an earlier version misread its picture."""
    try:
        changed, made = job.source.stat().st_mtime, [path.stat().st_mtime for path in _written(job, compare) if path.is_file()]
    except OSError:  # reading the picture, or writing it, says why
        return False
    if len(made) < len(_written(job, compare)) or not changed < min(made) >= since.settings:
        return False
    if min(made) < since.reader and was_misread(job.source, restored=True):
        logger.warning("%s: an earlier version misread it, and it is restored again", job.source)
        return False
    return True


def _written(job: Job, compare: bool) -> list[Path]:
    return [job.target, job.comparison] if compare else [job.target]
