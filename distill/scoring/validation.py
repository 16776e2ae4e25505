"""Validation: blurry input, teacher and student compared on the same 8-bit images, and a picture of some of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from distill.config import Config
from distill.data.batch import Skipped, unpack
from distill.data.datasets import ValidationImages
from distill.data.image_files import ImageError
from distill.data.pixels import Pixels, centre_crop, pad_to, side_by_side
from distill.networks.architecture import inference_copy
from distill.networks.teacher import NOT_FINITE, Teacher
from distill.runtime.ranks import Ranks
from distill.scoring.evaluation import DISTANCE, Evaluation, Fidelity, Score, score, squared_error
from distill.scoring.metrics import metrics_of
from distill.synthesis.eight_bit import to_uint8

COLUMN_SIDE = 256
"""Pixels a side of an image in a picture."""
KEPT_BYTES = 2**29
"""How much memory the kept teacher images may take, uncompressed."""


@dataclass
class _Part:
    """What one rank has evaluated: `scores`, `fidelity` and the picture's `rows` by the image's index, `skipped` by path."""

    scores: dict[int, tuple[str, dict[str, Score]]] = field(default_factory=dict)
    fidelity: dict[int, tuple[str, Fidelity]] = field(default_factory=dict)
    rows: dict[int, Pixels] = field(default_factory=dict)
    skipped: dict[str, Skipped] = field(default_factory=dict)


@dataclass
class _Kept:
    """What is the same in every evaluation, by the image's name."""

    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    """Of the blurry and the teacher's image, for images with a sharp one."""
    columns: dict[str, Pixels] = field(default_factory=dict)
    """The teacher's columns of the picture, for images with a sharp one."""
    teacher_images: dict[str, Pixels] = field(default_factory=dict)
    """For images without a sharp one, up to `KEPT_BYTES`."""
    corrections: dict[str, tuple[Score, float]] = field(default_factory=dict)
    """(score, squared error) of the blurry image to the teacher's, for images without a sharp one."""


class Validation:
    """The validation images of a run, divided among its ranks. Images that have a sharp one are compared with it, the others with
    the teacher's image. What does not change from one evaluation to the next is computed once."""

    def __init__(
        self, config: Config, teacher: Teacher | None, device: torch.device, ranks: Ranks | None = None, distance: bool = False
    ) -> None:
        """`distance`: also score the student against the teacher where there are sharp images. Only the first evaluation can do
        this, because those images of the teacher are not kept. Raises FileNotFoundError and ImageError if the images are not as
        the config says, and ConfigError if a score of `eval.metrics` cannot be computed here."""
        self.config, self.teacher, self.device, self.ranks = config, teacher, device, ranks or Ranks()
        self.distance = distance
        self.dataset = ValidationImages(config)
        self._score = partial(score, more=metrics_of(config.eval.metrics, device))
        self.skipped: dict[str, Skipped] = {}
        """Images that could not be used, by path, since the last evaluation began."""
        self._kept = _Kept()
        self._teacher_dtype = None if teacher is None else teacher.dtype

    def pairs(self, has_sharp: bool | None = None) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """(name, blurry, sharp) of all images, or of those with a sharp one, or without: (1, 3, H, W) in [0, 1] on the device.
        An image that cannot be used is left out and added to `skipped`. Raises ImageError if no image can be used."""
        for index, image in enumerate(self.dataset.images):
            pair = self._pair(index) if has_sharp is None or has_sharp == (image.sharp is not None) else None
            if pair is not None:
                yield pair
        self._refuse_none()

    def named(self, names: Collection[str]) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """The `pairs` of the images with these names only. Raises no error if none of them can be used."""
        for index, image in enumerate(self.dataset.images):
            pair = self._pair(index) if image.stem in names else None
            if pair is not None:
                yield pair

    def _pair(self, index: int) -> tuple[str, Tensor, Tensor | None] | None:
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
    def evaluate(self, student: nn.Module, pause: Callable[[], object] = lambda: None) -> Evaluation:
        """Scores a copy of the student. Each rank scores its share of the images, and returns the scores of all images. `pause`
        is called before each image and may raise. It may also communicate between ranks: every rank calls it equally often, even
        if a rank has one image fewer."""
        self._forget_another_precision()
        self.skipped = {}
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
        scores, fidelity, by_index = dict(part.scores), dict(part.fidelity), dict(part.rows)
        for other in parts:
            scores, fidelity, by_index = scores | other.scores, fidelity | other.fidelity, by_index | other.rows
        rows = [by_index[index] for index in sorted(by_index)][: self.config.eval.samples]
        picture = np.concatenate(rows) if rows else None
        return Evaluation(
            {name: score for _, (name, score) in sorted(scores.items())},
            picture,
            {name: found for _, (name, found) in sorted(fidelity.items())},
        )

    def _forget_another_precision(self) -> None:
        """Forgets what the teacher made in half precision once it goes on in full precision."""
        if self.teacher is not None and self.teacher.dtype != self._teacher_dtype:
            self._teacher_dtype = self.teacher.dtype
            self._kept = _Kept()

    @torch.no_grad()
    def first_picture(self, student: nn.Module) -> Pixels:
        """The first images without a sharp one as blurry | student | teacher, for a look before training. Raises ImageError if
        none can be used."""
        assert self.teacher is not None
        student, rows = inference_copy(student), []
        for _, blurry, _ in islice(self.pairs(has_sharp=False), self.config.eval.samples):
            images = (blurry, student(blurry), self.teacher(blurry))
            rows.append(side_by_side([_column(to_pixels(image)) for image in images]))
        return np.concatenate(rows)

    def _evaluate_one(self, index: int, name: str, blurry: Tensor, sharp: Tensor | None, student: nn.Module, part: _Part) -> None:
        restored = to_pixels(student(blurry))
        if sharp is None:
            self._compare_with_teacher(index, name, blurry, restored, part)
        else:
            self._compare_with_sharp(index, name, blurry, restored, to_pixels(sharp), part)

    def _compare_with_teacher(self, index: int, name: str, blurry: Tensor, restored: Pixels, part: _Part) -> None:
        by_teacher = self._teacher_image(name, blurry)
        if by_teacher is None:
            path = str(self.dataset.images[index].path)
            self.skipped[path] = Skipped(path, NOT_FINITE)
            return
        pixels, kept = to_pixels(blurry), self._kept.corrections
        if name not in kept:
            kept[name] = self._score(pixels, by_teacher), squared_error(pixels, by_teacher)
        before, correction = kept[name]
        error = squared_error(restored, by_teacher)
        part.fidelity[index] = name, Fidelity(before, self._score(restored, by_teacher), correction, error)
        # Rows of images with a sharp one have a column more, so a picture shows those alone, if there are any.
        if not self.config.data.val.has_sharp and len(part.rows) < self.config.eval.samples:
            part.rows[index] = side_by_side([_column(image) for image in (pixels, restored, by_teacher)])

    def _compare_with_sharp(self, index: int, name: str, blurry: Tensor, restored: Pixels, sharp: Pixels, part: _Part) -> None:
        has_room = len(part.rows) < self.config.eval.samples
        kept, by_teacher = self._score_unchanging(name, blurry, sharp, has_room)
        scores = kept | {"student": self._score(restored, sharp)}
        if self.distance and by_teacher is not None:
            scores[DISTANCE] = self._score(restored, by_teacher)
        part.scores[index] = name, scores
        # Teacher columns are kept only for images that got a row in the first evaluation. If such an image cannot be read in a
        # later evaluation, its row is free. An image without a teacher column must not take it: its row would lack a column.
        if has_room and (self.teacher is None or name in self._kept.columns):
            teachers = [self._kept.columns[name]] if self.teacher is not None else []
            part.rows[index] = side_by_side([_column(to_pixels(blurry)), _column(restored), *teachers, _column(sharp)])

    def _teacher_image(self, name: str, blurry: Tensor) -> Pixels | None:
        """The teacher's image of an image without a sharp one, from memory if it is kept there. None if it is not finite."""
        kept = self._kept.teacher_images
        if name in kept:
            return kept[name]
        assert self.teacher is not None, "the configuration refuses images without a sharp one if there is no teacher"
        image = self.teacher(blurry)
        if not image.isfinite().all():
            return None
        restored = to_pixels(image)
        if sum(pixels.nbytes for pixels in kept.values()) + restored.nbytes <= KEPT_BYTES:
            kept[name] = restored
        return restored

    def _score_unchanging(
        self, name: str, blurry: Tensor, sharp: Pixels, has_room: bool
    ) -> tuple[dict[str, Score], Pixels | None]:
        """The scores of blurry input and teacher, and the image that the teacher restored. That image is None if there is no
        teacher, or if an earlier call computed the scores. `has_room`: the picture has room for a row of this image."""
        restored, kept = None, self._kept
        if name not in kept.scores:
            kept.scores[name] = {"blurry": self._score(to_pixels(blurry), sharp)}
            if self.teacher is not None:
                restored = to_pixels(self.teacher(blurry))
                kept.scores[name]["teacher"] = self._score(restored, sharp)
                if has_room:
                    kept.columns[name] = _column(restored)
        return kept.scores[name], restored


def to_pixels(image: Tensor) -> Pixels:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return to_uint8(image)[0].permute(1, 2, 0).cpu().numpy()


def _column(pixels: Pixels) -> Pixels:
    """A column of a picture: the central square of an image. A smaller image is padded to that size by reflection."""
    return pad_to(centre_crop(pixels, COLUMN_SIDE), COLUMN_SIDE)
