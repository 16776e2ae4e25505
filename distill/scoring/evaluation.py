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
from distill.scoring.metrics import LOSSLESS_DB, Metric, in_decibel, psnr, ssim

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
    more: Mapping[str, float] = field(default_factory=dict)
    """The scores that `eval.metrics` asks for, by name."""

    @property
    def measures(self) -> dict[str, float]:
        """All scores by name."""
        return {"psnr": self.psnr, "ssim": self.ssim, **self.more}


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
        """A table row's mean scores over the images with a sharp one, as `mean_score`."""
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

        `psnr`: the student's mean PSNR over the images with a sharp one, of which an infinite PSNR counts as LOSSLESS_DB. Images
        whose blurry input equals the sharp image are left out, unless there are no others. `reproduced`: the share of the
        teacher's correction that the student reproduces; if the teacher changes nothing, the student that changes least is best.
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
        """The means that there are, by name, such as `student_psnr`, `blurry_to_teacher_ssim` and `reproduced`."""
        rows = {row: self.mean(row) for row in ROWS} | {row: self.mean_to_teacher(row) for row in TO_TEACHER}
        scores = {row.replace(" ", "_"): score for row, score in rows.items() if score is not None}
        found = {f"{row}_{measure}": value for row, score in scores.items() for measure, value in score.measures.items()}
        return found if self.reproduced is None else found | {"reproduced": self.reproduced}

    def table(self) -> str:
        """One line per evaluated table row, such as `student  28.40  0.8449`: mean PSNR in dB and mean SSIM. If there are more
        scores, a line above names them all."""
        lines: list[str] = []
        if self.images or not self.fidelity:
            lines.append(f"{len(self.images)} validation images")
            lines += _lines(8, {row: self.mean(row) for row in ROWS})
            if (score := self.mean(DISTANCE)) is not None:
                lines.append(f"{DISTANCE}  {score.psnr:.2f}  {score.ssim:.4f}{_more(score)}")
        if self.fidelity:
            lines.append(f"{len(self.fidelity)} validation images without sharp ones, compared with the teacher's images")
            lines += _lines(18, {row: self.mean_to_teacher(row) for row in TO_TEACHER})
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
        """One line per image: scores in dB with `digits` decimals, others and the share that is reproduced with two more. What
        does not apply to an image is empty. Raises WriteError."""
        rows = [row for row in ROWS if self.mean(row) is not None] + [*TO_TEACHER] * bool(self.fidelity)
        last = [REPRODUCED] if self.fidelity else []
        text = io.StringIO()
        writer = csv.writer(text)
        scores = {name: {r: s for r, s in image.items() if r in ROWS} for name, image in self.images.items()}
        scores |= {name: image.rows for name, image in self.fidelity.items()}
        more = dict.fromkeys(name for image in scores.values() for score in image.values() for name in score.more)
        columns = [(measure, row) for measure in ("ssim", "psnr", *more) for row in rows]
        writer.writerow(["Image", *(column(measure, row) for measure, row in columns), *last])
        for name, image in scores.items():
            values = [number_text(m, image[r].measures[m], digits) if r in image else "" for m, r in columns]
            share = reproduced([self.fidelity[name]]) if name in self.fidelity else None
            writer.writerow([name, *values, *(["" if share is None else f"{share:.{digits + 2}f}"] * len(last))])
        write_bytes(path, text.getvalue().encode(errors="surrogateescape"))


def mean_score(images: Iterable[Mapping[str, Score]], row: str) -> Score | None:
    """The mean scores of a table row over images, {table row: score} each. Scores in dB are averaged by `mean_psnr`. None if no
    image has this table row."""
    scored = [image for image in images if row in image]
    if not scored:
        return None
    means = {}
    for measure in dict.fromkeys(name for image in scored for name in image[row].measures):
        values = [{r: v for r, s in image.items() if (v := s.measures.get(measure)) is not None} for image in scored]
        values = [image for image in values if row in image]
        means[measure] = mean_psnr(values, row) if in_decibel(measure) else float(np.mean([image[row] for image in values]))
    return Score(means.pop("psnr"), means.pop("ssim"), means)


def mean_psnr(images: Sequence[Mapping[str, float]], row: str) -> float:
    """A table row's mean PSNR in dB over images, {table row: PSNR} each. An image with infinite PSNR in any table row is left
    out: one infinite value would make a mean infinite, and all table rows must average the same images. A blank page, which blur
    does not change, is such an image. If every image is left out, an infinite PSNR counts as LOSSLESS_DB."""
    finite = [image for image in images if all(math.isfinite(psnr) for psnr in image.values())]
    return float(np.mean([min(image[row], LOSSLESS_DB) for image in finite or images]))


def column(measure: str, row: str) -> str:
    """The name of a CSV file's column."""
    return f"{measure.upper() if measure in ('psnr', 'ssim') else measure} ({row.title()})"


def number_text(measure: str, value: float, digits: int = 2) -> str:
    """`value` with `digits` decimals if it is in dB, else with two more."""
    return f"{value:.{digits if in_decibel(measure) else digits + 2}f}"


def _lines(width: int, rows: Mapping[str, Score | None]) -> list[str]:
    """A line per row, and one above them if there is more than PSNR and SSIM."""
    found = {row: score for row, score in rows.items() if score is not None}
    names = next((list(score.more) for score in found.values() if score.more), [])
    head = [" " * width + "  PSNR    SSIM" + "".join(f"{name:>{_width(name)}}" for name in names)] if names else []
    return head + [f"{row:<{width}}{score.psnr:6.2f}  {score.ssim:.4f}{_more(score)}" for row, score in found.items()]


def _more(score: Score) -> str:
    return "".join(f"{number_text(name, value):>{_width(name)}}" for name, value in score.more.items())


def _width(name: str) -> int:
    return 2 + max(len(name), 6)


def score(image: Pixels, reference: Pixels, more: Mapping[str, Metric] | None = None) -> Score:
    """PSNR, SSIM, and the scores that `more` computes, {name: function} as `metrics_of` gives them."""
    others = {name: metric(image, reference) for name, metric in (more or {}).items()}
    return Score(psnr(image, reference), ssim(image, reference), others)


def squared_error(image: Pixels, reference: Pixels) -> float:
    """The sum of squared differences of two 8-bit images."""
    return float(np.sum((image.astype(np.float64) - reference.astype(np.float64)) ** 2))
