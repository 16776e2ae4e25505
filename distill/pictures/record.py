"""A record of settings beside the results. It tells which results need not be restored again."""

from __future__ import annotations

import json
import logging
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
    """The time of the record in `out`. Older files in `out` were made with other settings.

    Writes a new record if there is none or if its settings differ. Raises ImageError if there is no record and a result would
    replace a file, unless `overwrite`: that file is the user's. Raises WriteError.
    """
    record, wanted = out / RECORD, json.dumps(settings, sort_keys=True).encode()
    there = [path for job in jobs for path in _written(job, compare) if path.exists()]
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
    """Whether the job's files exist, are newer than its input, and are not older than `since`, the record's time."""
    changed = job.source.stat().st_mtime
    return all(path.is_file() and changed < path.stat().st_mtime >= since for path in _written(job, compare))


def _written(job: Job, compare: bool) -> list[Path]:
    return [job.target, job.comparison] if compare else [job.target]
