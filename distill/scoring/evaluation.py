"""Scores of each image, their means as a table, and all scores as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from distill.data.pixels import Pixels
from distill.runtime.files import write_bytes
from distill.scoring.metrics import LOSSLESS_DB, psnr, ssim

Measure = Literal["psnr", "reproduced"]
ROWS = ("blurry", "teacher", "student")
DISTANCE = "student to teacher"
# The table rows of images without a sharp one.
TO_TEACHER = ("blurry to teacher", DISTANCE)
REPRODUCED = "Reproduced"


@dataclass(frozen=True)
class Score:
    psnr: float
    """dB, 8-bit RGB."""
    ssim: float


@dataclass(frozen=True)
class Fidelity:
    """How close blurry input and student are to the teacher's image. The term is that of Stanton et al., NeurIPS 2021. It says
    how well the student follows its teacher, not whether the teacher is right."""

    blurry: Score
    student: Score
    blurry_error: float
    """The sum of squared differences of all 8-bit values: the teacher's own correction."""
    student_error: float

    @property
    def rows(self) -> dict[str, Score]:
        return dict(zip(TO_TEACHER, (self.blurry, self.student), strict=True))


def reproduced(images: Iterable[Fidelity]) -> float | None:
    """The share of the teacher's correction that the student reproduces, 1 - |student - teacher|^2 / |blurry - teacher|^2. Both
    sums are over all images, so that an image that the teacher changes little counts little. 1 is the teacher's image, 0 is as
    far from it as the blurry one, and it may be below 0. None if the teacher changes nothing."""
    pairs = [(image.student_error, image.blurry_error) for image in images]
    student, blurry = (math.fsum(errors) for errors in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    return 1 - student / blurry if blurry > 0 else None


@dataclass
class Evaluation:
    """Scores of several images. Images that have a sharp one are compared with it. The others are compared with the teacher's."""

    images: dict[str, dict[str, Score]] = field(default_factory=dict)
    """{image name: {table row: score}} of the images with a sharp one. A table row names what is compared: `blurry`, `teacher`
    and `student` are each compared with the sharp image, and `student to teacher` compares these two."""
    picture: Pixels | None = None
    """Some of the images, one below the other, each as blurry | student | teacher | sharp. Without the last column if no image
    has a sharp one."""
    fidelity: dict[str, Fidelity] = field(default_factory=dict)
    """The images without a sharp one, by name."""

    def mean(self, row: str) -> Score | None:
        """A table row's mean PSNR and mean SSIM over the images with a sharp one, as `mean_score`."""
        rows = ROWS if row in ROWS else (row,)
        return mean_score([{r: s for r, s in image.items() if r in rows} for image in self.images.values()], row)

    def mean_to_teacher(self, row: str) -> Score | None:
        """The same for a row of TO_TEACHER, over the images without a sharp one."""
        return mean_score([image.rows for image in self.fidelity.values()], row)

    @property
    def reproduced(self) -> float | None:
        """As the function `reproduced`. None also if there are no images without a sharp one."""
        return reproduced(self.fidelity.values())

    def ranking(self, measure: Measure) -> float | None:
        """What decides which of a run's students is the best. None if no image of that kind could be evaluated.

        `psnr`: the student's mean PSNR over the images with a sharp one. An infinite one counts as LOSSLESS_DB, and the images
        are always the same: those that are blurry at all. `reproduced`: the share of the teacher's correction that the student
        reproduces; where the teacher changes nothing, the student that changes least is the best.
        """
        if measure == "psnr":
            students = {name: image["student"].psnr for name, image in self.images.items() if "student" in image}
            blurred = [name for name in students if math.isfinite(self.images[name].get("blurry", Score(0, 0)).psnr)]
            values = [min(students[name], LOSSLESS_DB) for name in blurred or students]
            return float(np.mean(values)) if values else None
        if not self.fidelity:
            return None
        share = self.reproduced
        return -math.fsum(image.student_error for image in self.fidelity.values()) if share is None else share

    def summary(self) -> dict[str, float]:
        """The means by name, such as `student_psnr`, `blurry_to_teacher_ssim` and `reproduced`; those that there are."""
        rows = {row: self.mean(row) for row in ROWS} | {row: self.mean_to_teacher(row) for row in TO_TEACHER}
        scores = {row.replace(" ", "_"): score for row, score in rows.items() if score is not None}
        found = {f"{row}_{measure}": value for row, score in scores.items() for measure, value in vars(score).items()}
        return found if self.reproduced is None else found | {"reproduced": self.reproduced}

    def table(self) -> str:
        """One line per evaluated table row, such as `student  28.40  0.8449`: mean PSNR in dB and mean SSIM."""
        lines: list[str] = []
        if self.images or not self.fidelity:
            lines.append(f"{len(self.images)} validation images")
            lines += [_line(f"{row:<8}", score) for row in ROWS if (score := self.mean(row)) is not None]
            if (score := self.mean(DISTANCE)) is not None:
                lines.append(f"{DISTANCE}  {score.psnr:.2f}  {score.ssim:.4f}")
        if self.fidelity:
            lines.append(f"{len(self.fidelity)} validation images without sharp ones, compared with the teacher's images")
            lines += [_line(f"{row:<18}", score) for row in TO_TEACHER if (score := self.mean_to_teacher(row)) is not None]
            lines.append(self.reproduced_in_words())
        return "\n".join(lines)

    def reproduced_in_words(self) -> str:
        """What the student reproduces of the teacher's correction, in one line."""
        share = self.reproduced
        if share is None:
            return "the teacher changes nothing on these images: there is nothing to reproduce"
        percent = round(100 * share, 1) + 0.0  # adding 0.0 turns -0.0 into 0.0
        return f"the student reproduces {percent:.1f}% of the teacher's correction"

    def headline(self) -> str:
        """The student's scores in one line."""
        score = self.mean("student")
        return self.reproduced_in_words() if score is None else f"student {score.psnr:.2f} dB, {score.ssim:.4f}"

    def write_csv(self, path: Path, digits: int = 2) -> None:
        """One line per image: PSNR with `digits` decimals, SSIM and the share that is reproduced with two more. What does not
        apply to an image is empty. Raises WriteError."""
        rows = [row for row in ROWS if self.mean(row) is not None] + [*TO_TEACHER] * bool(self.fidelity)
        last = [REPRODUCED] if self.fidelity else []
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["Image", *(f"SSIM ({r.title()})" for r in rows), *(f"PSNR ({r.title()})" for r in rows), *last])
        scores = {name: {r: s for r, s in image.items() if r in ROWS} for name, image in self.images.items()}
        for name, image in (scores | {name: image.rows for name, image in self.fidelity.items()}).items():
            ssims = [f"{image[r].ssim:.{digits + 2}f}" if r in image else "" for r in rows]
            psnrs = [f"{image[r].psnr:.{digits}f}" if r in image else "" for r in rows]
            share = reproduced([self.fidelity[name]]) if name in self.fidelity else None
            writer.writerow([name, *ssims, *psnrs, *(["" if share is None else f"{share:.{digits + 2}f}"] * len(last))])
        write_bytes(path, text.getvalue().encode(errors="surrogateescape"))


def mean_score(images: Iterable[Mapping[str, Score]], row: str) -> Score | None:
    """A table row's `mean_psnr`, and its mean SSIM over all images, {table row: score} each. None if no image has the table
    row."""
    scored = [image for image in images if row in image]
    if not scored:
        return None
    psnr = mean_psnr([{r: score.psnr for r, score in image.items()} for image in scored], row)
    return Score(psnr, float(np.mean([image[row].ssim for image in scored])))


def mean_psnr(images: Sequence[Mapping[str, float]], row: str) -> float:
    """A table row's mean PSNR in dB over images, {table row: PSNR} each. An image with infinite PSNR in any table row is left
    out: one infinite value would make a mean infinite, and all table rows must average the same images. A blank page, which blur
    does not change, is such an image. If every image is left out, an infinite PSNR counts as LOSSLESS_DB."""
    finite = [image for image in images if all(math.isfinite(psnr) for psnr in image.values())]
    return float(np.mean([min(image[row], LOSSLESS_DB) for image in finite or images]))


def _line(row: str, score: Score) -> str:
    return f"{row}{score.psnr:6.2f}  {score.ssim:.4f}"


def score(image: Pixels, reference: Pixels) -> Score:
    return Score(psnr(image, reference), ssim(image, reference))


def squared_error(image: Pixels, reference: Pixels) -> float:
    """The sum of squared differences of two 8-bit images."""
    return float(np.sum((image.astype(np.float64) - reference.astype(np.float64)) ** 2))
