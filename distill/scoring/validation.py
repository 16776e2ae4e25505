"""Validation: PSNR and SSIM of blurry input, teacher and student on the same 8-bit images, and what they look like."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distill.config import Config
from distill.data.datasets import Skipped, ValidationImages
from distill.data.images import ImageError, Pixels, centre_crop, pad_to, side_by_side
from distill.networks.student import inference_copy
from distill.networks.teacher import Teacher
from distill.runtime.files import write_bytes
from distill.runtime.ranks import Ranks
from distill.scoring.metrics import psnr, ssim
from distill.synthesis.degrade import to_uint8
from distill.training.step import prepare

logger = logging.getLogger(__name__)

ROWS = ("blurry", "teacher", "student")
DISTANCE = "student to teacher"
SAMPLE_SIDE = 256


@dataclass(frozen=True)
class Score:
    psnr: float
    """dB, 8-bit RGB."""
    ssim: float


@dataclass
class Evaluation:
    """Scores by image name and row: `blurry`, `teacher` and `student` against the sharp image, and `student to teacher`."""

    images: dict[str, dict[str, Score]] = field(default_factory=dict)
    picture: Pixels | None = None
    """Some of the images: blurry | student | teacher | sharp."""

    def mean(self, row: str) -> Score | None:
        """Over all images; None for a row that was not evaluated. PSNR leaves out images for which any row's is infinite, as of a
        blank page that blur leaves as it is: one would be all that a mean says, and rows are of the same images."""
        scores = [image[row] for image in self.images.values() if row in image]
        if not scores:
            return None
        finite = [image for image in self.images.values() if all(np.isfinite(score.psnr) for score in image.values())]
        psnrs = [image[row].psnr for image in finite if row in image]
        return Score(float(np.mean(psnrs or np.inf)), float(np.mean([s.ssim for s in scores])))

    def table(self) -> str:
        """The rows that there are, such as `student  28.40  0.8449`: mean PSNR in dB and SSIM."""
        lines = [f"{len(self.images)} validation images"]
        for row in ROWS:
            if (score := self.mean(row)) is not None:
                lines.append(f"{row:<8}{score.psnr:6.2f}  {score.ssim:.4f}")
        if (score := self.mean(DISTANCE)) is not None:
            lines.append(f"{DISTANCE}  {score.psnr:.2f}  {score.ssim:.4f}")
        return "\n".join(lines)

    def write_csv(self, path: Path) -> None:
        """One line per image. Raises WriteError."""
        rows = [row for row in ROWS if self.mean(row) is not None]
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["Image", *(f"SSIM ({r.title()})" for r in rows), *(f"PSNR ({r.title()})" for r in rows)])
        for name, scores in self.images.items():
            writer.writerow([name, *(f"{scores[r].ssim:.4f}" for r in rows), *(f"{scores[r].psnr:.2f}" for r in rows)])
        write_bytes(path, text.getvalue().encode(errors="surrogateescape"))


@dataclass
class _Part:
    """What one rank has evaluated, by the images' numbers."""

    scores: dict[int, tuple[str, dict[str, Score]]] = field(default_factory=dict)
    samples: dict[int, Pixels] = field(default_factory=dict)
    skipped: dict[str, Skipped] = field(default_factory=dict)


class Validation:
    """The validation images of a run, shared out among its ranks. What does not change, the scores of blurry input and teacher,
    is computed once."""

    def __init__(
        self, config: Config, teacher: Teacher | None, device: torch.device, ranks: Ranks | None = None, distance: bool = False
    ) -> None:
        """`distance`: also score how far a student is from the teacher, in the first evaluation alone: the teacher's pictures are
        not kept. Raises FileNotFoundError and ImageError where the images are not as the config says."""
        self.config, self.teacher, self.device, self.ranks = config, teacher, device, ranks or Ranks()
        self.distance = distance
        self.dataset = ValidationImages(config)
        self.skipped: dict[str, Skipped] = {}
        self._unchanging: dict[str, dict[str, Score]] = {}
        self._teacher_samples: dict[str, Pixels] = {}

    def pairs(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, blurry, sharp) of all images, (1, 3, H, W) in [0, 1] on the device. A bad image is left out and remembered;
        raises ImageError when all are."""
        for index in range(len(self.dataset)):
            pair = self._pair(index)
            if pair is not None:
                yield pair
        self._refuse_none()

    def named(self, names: Collection[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """As `pairs`, of the images with these names alone, and no error where none of them can be used."""
        for index, image in enumerate(self.dataset.images):
            pair = self._pair(index) if image.stem in names else None
            if pair is not None:
                yield pair

    def _pair(self, index: int) -> tuple[str, Tensor, Tensor] | None:
        batch = self.dataset[index]
        if isinstance(batch, Skipped):
            self.skipped[batch.path] = batch
            return None
        sharp, blurry = prepare(batch.to(self.device), self.config)
        return batch.names[0], blurry, sharp

    def _refuse_none(self) -> None:
        if len(self.skipped) == len(self.dataset):
            first = next(iter(self.skipped.values()))
            raise ImageError(f"data.val: none of its {len(self.dataset)} images can be used; {first.path}: {first.reason}")

    @torch.no_grad()
    def evaluate(self, student: nn.Module, pause: Callable[[], None] = lambda: None) -> Evaluation:
        """Scores a student, of which a copy is used. Every rank scores its share and returns all. `pause` is called between
        images, as often on every rank, and may raise."""
        part, student = _Part(), inference_copy(student)
        for turn in range(self.ranks.turns(len(self.dataset))):
            pause()
            index = turn * self.ranks.count + self.ranks.rank
            pair = self._pair(index) if index < len(self.dataset) else None
            if pair is not None:
                self._evaluate_one(index, *pair, student, part)
        part.skipped = self.skipped
        parts = self.ranks.gather(part)
        for other in parts:
            self.skipped |= other.skipped
        self._refuse_none()
        scores = {index: score for other in parts for index, score in other.scores.items()}
        samples = {index: sample for other in parts for index, sample in other.samples.items()}
        rows = [samples[index] for index in sorted(samples)][: self.config.eval.samples]
        picture = np.concatenate(rows) if rows else None
        return Evaluation({name: score for _, (name, score) in sorted(scores.items())}, picture)

    def _evaluate_one(self, index: int, name: str, blurry: Tensor, sharp: Tensor, student: nn.Module, part: _Part) -> None:
        reference, restored = to_pixels(sharp), to_pixels(student(blurry))
        unchanging, by_teacher = self._score_unchanging(name, blurry, reference, len(part.samples))
        scores = unchanging | {"student": _score(restored, reference)}
        if self.distance and by_teacher is not None:
            scores[DISTANCE] = _score(restored, by_teacher)
        part.scores[index] = name, scores
        # An image that takes the place of one that can no longer be read has no teacher's picture, and would be a shorter row.
        kept = self.teacher is None or name in self._teacher_samples
        if kept and len(part.samples) < self.config.eval.samples:
            teachers = [self._teacher_samples[name]] if self.teacher is not None else []
            columns = [_sample(to_pixels(blurry)), _sample(restored), *teachers, _sample(reference)]
            part.samples[index] = side_by_side(columns)

    def _score_unchanging(
        self, name: str, blurry: Tensor, reference: Pixels, samples: int
    ) -> tuple[dict[str, Score], Pixels | None]:
        """The scores of blurry input and teacher, and the teacher's picture where it has been made for them just now."""
        restored = None
        if name not in self._unchanging:
            self._unchanging[name] = {"blurry": _score(to_pixels(blurry), reference)}
            if self.teacher is not None:
                restored = to_pixels(self.teacher(blurry))
                self._unchanging[name]["teacher"] = _score(restored, reference)
                if samples < self.config.eval.samples:
                    self._teacher_samples[name] = _sample(restored)
        return self._unchanging[name], restored


def _score(image: Pixels, reference: Pixels) -> Score:
    return Score(psnr(image, reference), ssim(image, reference))


def to_pixels(image: Tensor) -> Pixels:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return to_uint8(image)[0].permute(1, 2, 0).cpu().numpy()


def _sample(pixels: Pixels) -> Pixels:
    """The central square of a picture's column; a smaller image is reflected to its size."""
    return pad_to(centre_crop(pixels, SAMPLE_SIDE), SAMPLE_SIDE)
