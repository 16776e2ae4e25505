"""A record of the settings, in the folder of the results. The record's time tells which results are up to date."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.data.image_files import ImageError
from distill.pictures.selection import Job
from distill.runtime.files import write_bytes

logger = logging.getLogger(__name__)

RECORD = ".restored.json"


def results_since(
    out: Path, jobs: Sequence[Job], settings: Mapping[str, str | int], *, overwrite: bool = False, compare: bool = False
) -> float:
    """The modification time of the record in `out`, in seconds. Results that are older were made with other settings.

    Writes a new record if there is none or if its settings differ. If there is no record, a file with the path of a result is
    not a result but the user's own. Raises ImageError if there is such a file, unless `overwrite` is set. With `compare`,
    comparisons count as results. Raises WriteError if the record cannot be written.
    """
    record, wanted = out / RECORD, json.dumps(settings, sort_keys=True).encode()
    there = [path for job in jobs for path in _written(job, compare) if os.path.isfile(path)]
    if record.is_file():
        if record.read_bytes() == wanted:
            return record.stat().st_mtime
        if there and not overwrite:
            logger.warning("%s: its results are of other weights or another --quality; they are restored again", out)
    elif there and not overwrite:
        raise ImageError(
            f"{there[0]}: is there, and no result of this command ({record} is missing); give another --out, or --overwrite"
        )
    write_bytes(record, wanted)
    return record.stat().st_mtime


def is_done(job: Job, since: float, compare: bool = False) -> bool:
    """Whether the result, and with `compare` the comparison, exist, are newer than the input, and are not older than `since`, the
    record's time."""
    try:
        changed = job.source.stat().st_mtime
        return all(path.is_file() and changed < path.stat().st_mtime >= since for path in _written(job, compare))
    except OSError:  # reading the picture, or writing it, says why
        return False


def _written(job: Job, compare: bool) -> list[Path]:
    return [job.target, job.comparison] if compare else [job.target]
