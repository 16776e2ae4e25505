"""Scores of a study's finished runs on its validation sets: one CSV file for each run and set, kept beside the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill.config import StudyConfig, ValidationSet, dump_config, load_config
from distill.data.datasets import ValidationImages
from distill.networks.student_files import load_student
from distill.networks.teacher import build_teacher
from distill.reporting.reading import read_evaluation, read_fidelity
from distill.runtime.device import choose_device
from distill.runtime.files import write_bytes
from distill.scoring.evaluation import TO_TEACHER
from distill.scoring.validation import Validation
from distill.studies.members import Member, validation_config
from distill.studies.statistics import Scores

# Differences of two variants are often smaller than the hundredths that other tables show.
DIGITS = 4


class ScoreBoard:
    """Scores of all finished runs on all sets, computed when they are missing. Blurry images and the teacher's are scored once
    for all students."""

    def __init__(self, study: StudyConfig) -> None:
        """Raises ConfigError for overrides of a validation set that are wrong, FileNotFoundError and ImageError for images that
        are missing."""
        self.configs = {validation.name: validation_config(study, validation) for validation in study.validation}
        for config in self.configs.values():
            ValidationImages(config)
        self._validations = dict[str, Validation]()

    def add(self, member: Member) -> None:
        """Scores a finished run on the sets on which it is not scored yet. Raises WriteError, and what reading the images and the
        teacher's weights raises."""
        for name, config in self.configs.items():
            path, record = score_file(member, name), score_file(member, name).with_suffix(".yaml")
            known = load_config(record) if record.is_file() else None
            if path.is_file() and known == config and path.stat().st_mtime >= member.student.stat().st_mtime:
                continue
            if name not in self._validations:
                device = choose_device(config.run.device)
                self._validations[name] = Validation(config, build_teacher(config.teacher, device), device)
            validation = self._validations[name]
            validation.evaluate(load_student(member.student).to(validation.device)).write_csv(path, DIGITS)
            write_bytes(record, dump_config(config).encode())


def score_file(member: Member, validation: str) -> Path:
    """The CSV of a run's scores on a set: `seed_0_SET.csv` beside the run folder `seed_0`. A YAML file of the same name holds the
    configuration whose images were scored."""
    return member.folder.with_name(f"{member.folder.name}_{validation}.csv")


def read_scores(runs: Sequence[Member], validation: ValidationSet) -> dict[int, Scores]:
    """{seed: scores} of one variant's scored runs on a set. If no image of the set has a sharp one, the scores of `blurry` and
    `student` are those to the teacher's image."""
    files = {member.seed: score_file(member, validation.name) for member in runs}
    return {seed: read_evaluation(path) or _to_teacher(path) for seed, path in files.items() if path.is_file()}


def _to_teacher(path: Path) -> Scores:
    rows = dict(zip(TO_TEACHER, ("blurry", "student"), strict=True))
    return {name: {rows[row]: score for row, score in image.scores.items()} for name, image in read_fidelity(path).items()}
