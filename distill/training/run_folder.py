"""The names of what a run folder holds; docs/index.md says what each is."""

from __future__ import annotations

CONFIG = "config.yaml"
CHECKPOINT = "student_checkpoint.pth"
PREVIOUS = "student_checkpoint.previous.pth"
BEST = "student_best.pth"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.csv"
# Folders.
SAMPLES = "samples"
TENSORBOARD = "tensorboard"

# All that a run may have written: patterns of files, and folders.
FILES = (CONFIG, CHECKPOINT, PREVIOUS, BEST, METRICS, EVALUATION, "evaluation_*.csv", "student_model_*.pth")
FOLDERS = (SAMPLES, TENSORBOARD)


def stage_file(stage: str) -> str:
    """Of the student at the end of a stage."""
    return f"student_model_{stage}.pth"


def evaluation_file(weights: str) -> str:
    """Of the scores of other weights than the last stage's, by the file's name without its suffix."""
    return f"evaluation_{weights}.csv"


def sample_file(step: int) -> str:
    """Of the picture of a validation, in SAMPLES; in the order of steps."""
    return f"step_{step:07d}.png"
