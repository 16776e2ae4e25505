"""Validation: PSNR and SSIM of blurry input, teacher and student on the same 8-bit images, and a picture of some of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from distill.config import Config
from distill.data.batch import Skipped, unpack
from distill.data.datasets import ValidationImages
from distill.data.image_files import ImageError
from distill.data.pixels import Pixels, centre_crop, pad_to, side_by_side
from distill.networks.architecture import inference_copy
from distill.networks.teacher import Teacher
from distill.runtime.ranks import Ranks
from distill.scoring.evaluation import DISTANCE, Evaluation, Score, score
from distill.synthesis.eight_bit import to_uint8

COLUMN_SIDE = 256


@dataclass
class _Part:
    """What one rank has evaluated: `scores` and the picture's `rows` by the image's index, `skipped` by path."""

    scores: dict[int, tuple[str, dict[str, Score]]] = field(default_factory=dict)
    rows: dict[int, Pixels] = field(default_factory=dict)
    skipped: dict[str, Skipped] = field(default_factory=dict)


class Validation:
    """The validation images of a run, divided among its ranks. The scores of blurry input and teacher do not change, so they are
    computed once."""

    def __init__(
        self, config: Config, teacher: Teacher | None, device: torch.device, ranks: Ranks | None = None, distance: bool = False
    ) -> None:
        """`distance`: also score the student against the teacher. Only the first evaluation can do this, because the images that
        the teacher restored are not kept. Raises FileNotFoundError and ImageError if the images are not as the config says."""
        self.config, self.teacher, self.device, self.ranks = config, teacher, device, ranks or Ranks()
        self.distance = distance
        self.dataset = ValidationImages(config)
        self.skipped: dict[str, Skipped] = {}
        self._unchanging: dict[str, dict[str, Score]] = {}
        self._teacher_columns: dict[str, Pixels] = {}

    def pairs(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(name, blurry, sharp) of all images, (1, 3, H, W) in [0, 1] on the device. An image that cannot be used is left out and
        added to `skipped`. Raises ImageError if no image can be used."""
        for index in range(len(self.dataset)):
            pair = self._pair(index)
            if pair is not None:
                yield pair
        self._refuse_none()

    def named(self, names: Collection[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The `pairs` of the images with these names only. Raises no error if none of them can be used."""
        for index, image in enumerate(self.dataset.images):
            pair = self._pair(index) if image.stem in names else None
            if pair is not None:
                yield pair

    def _pair(self, index: int) -> tuple[str, Tensor, Tensor] | None:
        batch = self.dataset[index]
        if isinstance(batch, Skipped):
            self.skipped[batch.path] = batch
            return None
        sharp, blurry = unpack(batch.to(self.device), self.config.degrade)
        return batch.names[0], blurry, sharp

    def _refuse_none(self) -> None:
        if len(self.skipped) == len(self.dataset):
            first = next(iter(self.skipped.values()))
            raise ImageError(f"data.val: none of its {len(self.dataset)} images can be used; {first.path}: {first.reason}")

    @torch.no_grad()
    def evaluate(self, student: nn.Module, pause: Callable[[], None] = lambda: None) -> Evaluation:
        """Scores a copy of the student. Each rank scores its share of the images, and returns the scores of all images. `pause`
        is called before each image and may raise. It may also communicate between ranks: every rank calls it equally often, even
        if a rank has one image fewer."""
        part, student = _Part(), inference_copy(student)
        for turn in range(self.ranks.turns(len(self.dataset))):
            pause()
            index = turn * self.ranks.count + self.ranks.rank
            pair = self._pair(index) if index < len(self.dataset) else None
            if pair is not None:
                self._evaluate_one(index, *pair, student, part)
        part.skipped = self.skipped
        parts = self.ranks.all_gather(part)
        for other in parts:
            self.skipped |= other.skipped
        self._refuse_none()
        scores = {index: score for other in parts for index, score in other.scores.items()}
        by_index = {index: row for other in parts for index, row in other.rows.items()}
        rows = [by_index[index] for index in sorted(by_index)][: self.config.eval.samples]
        picture = np.concatenate(rows) if rows else None
        return Evaluation({name: score for _, (name, score) in sorted(scores.items())}, picture)

    def _evaluate_one(self, index: int, name: str, blurry: Tensor, sharp: Tensor, student: nn.Module, part: _Part) -> None:
        reference, restored = to_pixels(sharp), to_pixels(student(blurry))
        unchanging, by_teacher = self._score_unchanging(name, blurry, reference, len(part.rows))
        scores = unchanging | {"student": score(restored, reference)}
        if self.distance and by_teacher is not None:
            scores[DISTANCE] = score(restored, by_teacher)
        part.scores[index] = name, scores
        # Teacher columns are kept only for images that got a row in the first evaluation. If such an image cannot be read in a
        # later evaluation, its row is free. An image without a teacher column must not take it: its row would lack a column.
        kept = self.teacher is None or name in self._teacher_columns
        if kept and len(part.rows) < self.config.eval.samples:
            teachers = [self._teacher_columns[name]] if self.teacher is not None else []
            columns = [_column(to_pixels(blurry)), _column(restored), *teachers, _column(reference)]
            part.rows[index] = side_by_side(columns)

    def _score_unchanging(
        self, name: str, blurry: Tensor, reference: Pixels, rows: int
    ) -> tuple[dict[str, Score], Pixels | None]:
        """The scores of blurry input and teacher, and the image that the teacher restored. That image is None if there is no
        teacher, or if an earlier call computed the scores. `rows` is the number of picture rows made before this image."""
        restored = None
        if name not in self._unchanging:
            self._unchanging[name] = {"blurry": score(to_pixels(blurry), reference)}
            if self.teacher is not None:
                restored = to_pixels(self.teacher(blurry))
                self._unchanging[name]["teacher"] = score(restored, reference)
                if rows < self.config.eval.samples:
                    self._teacher_columns[name] = _column(restored)
        return self._unchanging[name], restored


def to_pixels(image: Tensor) -> Pixels:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return to_uint8(image)[0].permute(1, 2, 0).cpu().numpy()


def _column(pixels: Pixels) -> Pixels:
    """A column of a picture: the central square of an image. A smaller image is padded to that size by reflection."""
    return pad_to(centre_crop(pixels, COLUMN_SIDE), COLUMN_SIDE)
