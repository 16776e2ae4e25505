"""PSNR and SSIM of each image, their means as a table, and all scores as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distill.data.pixels import Pixels
from distill.runtime.files import write_bytes
from distill.scoring.metrics import psnr, ssim

ROWS = ("blurry", "teacher", "student")
DISTANCE = "student to teacher"


@dataclass(frozen=True)
class Score:
    psnr: float
    """dB, 8-bit RGB."""
    ssim: float


@dataclass
class Evaluation:
    """Scores of several images. A table row names what is compared: `blurry`, `teacher` and `student` are each compared with the
    sharp image, and `student to teacher` compares these two."""

    images: dict[str, dict[str, Score]] = field(default_factory=dict)
    """{image name: {table row: score}}."""
    picture: Pixels | None = None
    """Some of the images, one below the other, each as blurry | student | teacher | sharp."""

    def mean(self, row: str) -> Score | None:
        """A table row's mean PSNR and mean SSIM. None if the table row was not evaluated.

        The mean SSIM is over all images. An image with infinite PSNR in any table row is left out of the mean PSNR of all table
        rows: one infinite value would make a mean infinite, and all table rows must average the same images. A blank page, which
        blur does not change, is such an image. If every image is left out, the mean PSNR is infinite.
        """
        scores = [image[row] for image in self.images.values() if row in image]
        if not scores:
            return None
        finite = [image for image in self.images.values() if all(np.isfinite(score.psnr) for score in image.values())]
        psnrs = [image[row].psnr for image in finite if row in image]
        return Score(float(np.mean(psnrs or np.inf)), float(np.mean([s.ssim for s in scores])))

    def table(self) -> str:
        """One line per evaluated table row, such as `student  28.40  0.8449`: mean PSNR in dB and mean SSIM."""
        lines = [f"{len(self.images)} validation images"]
        for row in ROWS:
            if (score := self.mean(row)) is not None:
                lines.append(f"{row:<8}{score.psnr:6.2f}  {score.ssim:.4f}")
        if (score := self.mean(DISTANCE)) is not None:
            lines.append(f"{DISTANCE}  {score.psnr:.2f}  {score.ssim:.4f}")
        return "\n".join(lines)

    def write_csv(self, path: Path, digits: int = 2) -> None:
        """One line per image: PSNR with `digits` decimals, SSIM with two more. Raises WriteError."""
        rows = [row for row in ROWS if self.mean(row) is not None]
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["Image", *(f"SSIM ({r.title()})" for r in rows), *(f"PSNR ({r.title()})" for r in rows)])
        for name, scores in self.images.items():
            writer.writerow(
                [name, *(f"{scores[r].ssim:.{digits + 2}f}" for r in rows), *(f"{scores[r].psnr:.{digits}f}" for r in rows)]
            )
        write_bytes(path, text.getvalue().encode(errors="surrogateescape"))


def score(image: Pixels, reference: Pixels) -> Score:
    return Score(psnr(image, reference), ssim(image, reference))
