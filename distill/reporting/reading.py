"""Reads a run folder as it is, whether the run is finished, still going on, or was killed."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.config import FURTHER_METRICS, Config, load_config
from distill.scoring.evaluation import REPRODUCED, ROWS, TO_TEACHER, Score, column, mean_score
from distill.training.run_folder import CONFIG, EVALUATION, METRICS

KINDS = ("start", "train", "val", "skipped")
# Fields of metrics.jsonl: {name in earlier versions: name now}.
RENAMED = {"skipped_updates": "rejected_updates", "skipped_images": "rejected_images"}
MEASURES = ("psnr", "ssim", *FURTHER_METRICS)

Record = dict[str, Any]


@dataclass(frozen=True)
class Closeness:
    """How close blurry input and student are to the teacher's image, for one image without a sharp one, or on average over
    all."""

    scores: dict[str, Score]
    """{table row: score}. The table rows are TO_TEACHER."""
    reproduced: float | None
    """The share of the teacher's correction that the student reproduces, as in `scoring.evaluation`. None if the teacher changes
    nothing, or if the share was not recorded."""


@dataclass(frozen=True)
class RunFolder:
    """A run as its folder records it. `records`, `images` and `fidelity` are empty if nothing was recorded."""

    path: Path
    label: str
    """The run's name in a report, different from the names of the other runs."""
    config: Config
    records: list[Record]
    """The lines of metrics.jsonl in their order; each has an integer `step` and one of KINDS as its `kind`."""
    unreadable_lines: int
    """The number of unreadable lines in metrics.jsonl. A half-written last line is not counted."""
    images: dict[str, dict[str, Score]] = field(default_factory=dict)
    """The scores in evaluation.csv of images that have a sharp one: {image name: {table row: score}}. The table rows are ROWS:
    blurry, teacher and student."""
    fidelity: dict[str, Closeness] = field(default_factory=dict)
    """What evaluation.csv holds of images without a sharp one, by image name."""

    def of(self, kind: str) -> list[Record]:
        return [record for record in self.records if record["kind"] == kind]

    @property
    def last_step(self) -> int:
        return max((record["step"] for record in self.records), default=0)

    @property
    def total_steps(self) -> int | None:
        """The number of steps in the whole run, from its last `start` record. None if there is no such record, or if an earlier
        version, which did not record the total, wrote it."""
        totals = [number(record, "total_steps") for record in self.of("start")]
        return int(totals[-1]) if totals and totals[-1] is not None else None

    def batch_of(self, record: Record) -> int:
        """Samples per step in the stage of a `train` record."""
        own = {stage.name: self.config.data_of(stage).batch for stage in self.config.stages}
        return own.get(str(record.get("stage")), self.config.data.batch)

    @property
    def evaluated(self) -> bool:
        """Whether evaluation.csv has any image."""
        return bool(self.images or self.fidelity)

    @property
    def complete(self) -> bool:
        """Whether the last step is validated."""
        # If the total is unknown, or no validation is recorded, evaluation.csv decides: a run writes it at its end.
        total, scored = self.total_steps, self.scored_step
        if total is None or scored is None:
            return self.evaluated and self.last_step >= (total or 0)
        return scored >= total

    @property
    def scored_step(self) -> int | None:
        """The step of the last validation. None if no validation is recorded; `scores` and `to_teacher` are of evaluation.csv
        then."""
        validations = self.of("val")
        return validations[-1]["step"] if validations else None

    def scores(self) -> dict[str, Score]:
        """{table row: mean score} of the images that have a sharp one, in the last validation. If no validation is recorded, the
        means of evaluation.csv."""
        return self._means(ROWS, list(self.images.values()))

    def to_teacher(self) -> Closeness | None:
        """The same for the images without a sharp one. None if there are none. Only a validation record has the share that is
        reproduced over all of them; evaluation.csv has each image's own."""
        scores = self._means(TO_TEACHER, [image.scores for image in self.fidelity.values()])
        validations = self.of("val")
        return Closeness(scores, number(validations[-1], "reproduced") if validations else None) if scores else None

    def _means(self, rows: Sequence[str], images: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
        validations = self.of("val")
        if not validations:
            return {row: mean for row in rows if (mean := mean_score(images, row)) is not None}
        keys = {row: row.replace(" ", "_") for row in rows}
        return _complete({row: {m: number(validations[-1], f"{key}_{m}") for m in MEASURES} for row, key in keys.items()})


def read_run(folder: Path, label: str | None = None) -> RunFolder:
    """Reads a run folder and writes nothing. Raises FileNotFoundError if it is not a run folder, and ConfigError if its
    configuration cannot be read."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder}: not a run folder; it has no {CONFIG}, which python -m distill.train writes first")
    records, unreadable = _read_metrics(folder / METRICS)
    config, scores = load_config(folder / CONFIG), folder / EVALUATION
    return RunFolder(folder, label or _name(folder), config, records, unreadable, read_evaluation(scores), read_fidelity(scores))


def read_runs(folders: list[Path]) -> list[RunFolder]:
    """Reads several run folders. A run's label is its folder's name, or the path if folders share a name. Raises what `read_run`
    raises."""
    names = [_name(folder) for folder in folders]
    labels = [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]
    return [read_run(folder, label) for folder, label in zip(folders, labels, strict=True)]


def _name(folder: Path) -> str:
    return folder.resolve().name or str(folder)


def gains(images: dict[str, dict[str, Score]], row: str = "student") -> dict[str, float]:
    """{image name: gain}: the PSNR of the table row `row` minus the PSNR of the blurry input, in dB.

    Images whose gain is not finite are left out.
    """
    scored = {
        name: scores[row].psnr - scores["blurry"].psnr for name, scores in images.items() if {row, "blurry"} <= scores.keys()
    }
    return {name: gain for name, gain in scored.items() if math.isfinite(gain)}


def shares(fidelity: Mapping[str, Closeness]) -> dict[str, float]:
    """{image name: share of the teacher's correction that the student reproduces}, without images on which the teacher changes
    nothing."""
    return {name: image.reproduced for name, image in fidelity.items() if image.reproduced is not None}


def number(record: Record, key: str) -> float | None:
    """The value at this key if it is a finite number, else None."""
    value = record.get(key)
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if ok and value is not None else None


def _read_metrics(path: Path) -> tuple[list[Record], int]:
    if not path.is_file():
        return [], 0
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records, unreadable = [], 0
    for place, line in enumerate(lines):
        record = _record(line)
        if record is not None:
            records.append(record)
        elif line.strip() and place < len(lines) - 1:  # text after the last line break is half-written
            unreadable += 1
    return records, unreadable


def _record(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("kind") not in KINDS:
        return None
    for old, new in RENAMED.items():
        if old in record:
            record[new] = record.pop(old)
    # From 2**53 on, the page's script could not tell one step from the next.
    step = record.get("step")
    return record if isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**53 else None


def read_evaluation(path: Path) -> dict[str, dict[str, Score]]:
    """{image name: {table row: score}} of the images that have a sharp one. A table row without numbers was not evaluated and is
    left out."""
    scored = {line["Image"]: _scores(line, ROWS) for line in _lines(path)}
    return {name: scores for name, scores in scored.items() if scores}


def read_fidelity(path: Path) -> dict[str, Closeness]:
    """The images without a sharp one, by name."""
    read = {line["Image"]: Closeness(_scores(line, TO_TEACHER), _finite(line.get(REPRODUCED))) for line in _lines(path)}
    return {name: image for name, image in read.items() if image.scores}


def _lines(path: Path) -> Iterator[dict[str, str]]:
    """The lines of a CSV file that name an image. No lines if there is no such file."""
    if path.is_file():
        # Image names may have bytes that are not UTF-8; `Evaluation.write_csv` writes these bytes as they are.
        reader = csv.DictReader(io.StringIO(path.read_bytes().decode(errors="surrogateescape"), newline=""))
        yield from (line for line in reader if line.get("Image"))


def _scores(line: dict[str, str], rows: Sequence[str]) -> dict[str, Score]:
    return _complete({row: {m: _number_in(line.get(column(m, row))) for m in MEASURES} for row in rows})


def _complete(read: Mapping[str, Mapping[str, float | None]]) -> dict[str, Score]:
    """The scores of the table rows that have PSNR and SSIM."""
    found = {row: {m: value for m, value in values.items() if value is not None} for row, values in read.items()}
    return {row: Score(m.pop("psnr"), m.pop("ssim"), m) for row, m in found.items() if {"psnr", "ssim"} <= m.keys()}


def _number_in(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _finite(text: str | None) -> float | None:
    value = _number_in(text)
    return value if value is not None and math.isfinite(value) else None
