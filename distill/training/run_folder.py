"""The names of what a run folder holds; docs/index.md says what each is."""

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

# All that a run may have written: patterns of files, and folders.
FILES = (CONFIG, CHECKPOINT, PREVIOUS, BEST, METRICS, EVALUATION, "evaluation_*.csv", "student_model_*.pth")
FOLDERS = (ROW_PICTURES, TENSORBOARD)


def stage_file(stage: str) -> str:
    """Of the student at the end of a stage."""
    return f"student_model_{stage}.pth"


def evaluation_file(weights: str) -> str:
    """Of the scores of other weights than the last stage's, by the file's name without its suffix."""
    return f"evaluation_{weights}.csv"


def row_picture_file(step: int) -> str:
    """Of the picture of a validation, in ROW_PICTURES; in the order of steps."""
    return f"step_{step:07d}.png"


def clear_run(folder: Path, config: Config) -> None:
    """Removes what a run writes, and nothing else that may lie in its folder. Raises ConfigError where the run would begin with
    that."""
    files = [path for pattern in FILES for path in folder.glob(pattern)]
    for key, value in (("student.init", config.student.init), ("teacher.weights", config.teacher.weights)):
        if value is not None and Path(value).resolve() in [path.resolve() for path in files]:
            raise ConfigError(f"{key}: {value} is what --fresh would remove; copy it elsewhere, or give another run.dir")
    for path in files:
        path.unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
