"""The names of the files and folders in a run folder; docs/index.md describes each."""

from __future__ import annotations

import shutil
from pathlib import Path

from distill.config import Config, ConfigError

CONFIG = "config.yaml"
CHECKPOINT = "student_checkpoint.pth"
PREVIOUS = "student_checkpoint.previous.pth"
BEST = "student_best.pth"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.csv"
# Folders.
ROW_PICTURES = "samples"
TENSORBOARD = "tensorboard"

# Everything that a run may have written: file patterns, and folders.
FILES = (CONFIG, CHECKPOINT, PREVIOUS, BEST, METRICS, EVALUATION, "evaluation_*.csv", "student_model_*.pth")
FOLDERS = (ROW_PICTURES, TENSORBOARD)


def stage_file(stage: str) -> str:
    """The file name of the student at the end of a stage."""
    return f"student_model_{stage}.pth"


def evaluation_file(weights: str) -> str:
    """The name of the file for the scores of a student file. `weights` is the student file's name without its suffix. The scores
    of the last stage's student go into EVALUATION instead."""
    return f"evaluation_{weights}.csv"


def row_picture_file(step: int) -> str:
    """The file name of a validation's picture, in ROW_PICTURES. The names sort in the order of steps."""
    return f"step_{step:07d}.png"


def clear_run(folder: Path, config: Config) -> None:
    """Removes the files and folders that a run writes, and leaves all others. Raises ConfigError, and removes nothing, if
    `student.init` or `teacher.weights` is among these files."""
    files = [path for pattern in FILES for path in folder.glob(pattern)]
    for key, value in (("student.init", config.student.init), ("teacher.weights", config.teacher.weights)):
        if value is not None and Path(value).resolve() in [path.resolve() for path in files]:
            raise ConfigError(f"{key}: {value} is what --fresh would remove; copy it elsewhere, or give another run.dir")
    for path in files:
        path.unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
