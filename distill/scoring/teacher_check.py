"""Checks on a few validation images whether a teacher is worth learning from."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.networks.teacher import Teacher
from distill.scoring.metrics import decibel
from distill.synthesis.eight_bit import quantize


@dataclass(frozen=True)
class TeacherCheck:
    """The measurements of a check. PSNR is in dB, the mean over the images."""

    blurry_psnr: float
    teacher_psnr: float
    half_error: float | None
    """How much half precision changes the teacher's correction: the RMS difference between its half-precision and full-precision
    images, divided by the RMS difference between its full-precision images and the blurry ones. None for a teacher in full
    precision."""
    finite: bool

    def complaint(self) -> str | None:
        """Says in one line what is wrong with the teacher; None if it helps."""
        if not self.finite:
            advice = "try teacher.precision: fp32" if self.half_error is not None else "its weights do not suit them"
            return f"the teacher's output is not finite on validation images; {advice}"
        if self.teacher_psnr <= self.blurry_psnr:
            return (
                f"the teacher makes the validation images worse ({self.teacher_psnr:.2f} dB, its blurry input"
                f" {self.blurry_psnr:.2f} dB), and a student learns that from it; give weights trained for this blur, or kd: 0"
            )
        if self.half_error is not None and self.half_error > MAX_HALF_ERROR:
            return (
                f"half precision changes the teacher's correction by {self.half_error:.1%}; fp16 is closer than bf16, fp32 exact"
            )
        return None


# Measured with the embedded teacher on photographs: fp16 0.7 %, bf16 5.8 %.
MAX_HALF_ERROR = 0.05
# Upper limit of an image's PSNR. A blank page, which blur does not change, has infinite PSNR, and would make the mean infinite.
LOSSLESS_DB = 120.0


def check_teacher(teacher: Teacher, pairs: Iterable[tuple[Tensor, Tensor]]) -> TeacherCheck:
    """Measures the teacher on pairs (blurry, sharp). Both tensors are (1, 3, H, W) in [0, 1] on the teacher's device."""
    finite = True
    blurry_db: list[float] = []
    teacher_db: list[float] = []
    errors, corrections = [], []
    for blurry, sharp in pairs:
        restored = teacher(blurry)
        finite = finite and bool(restored.isfinite().all())
        for scores, image in ((blurry_db, blurry), (teacher_db, quantize(restored))):
            scores.append(min(decibel(float((image - sharp).square().mean())), LOSSLESS_DB))
        if teacher.dtype != torch.float32:
            exact = _in_full_precision(teacher, blurry)
            errors.append(float((restored - exact).square().mean()))
            corrections.append(float((exact - blurry).square().mean()))
    count = len(blurry_db)
    half_error = (sum(errors) / max(sum(corrections), 1e-12)) ** 0.5 if errors else None
    return TeacherCheck(sum(blurry_db) / count, sum(teacher_db) / count, half_error, finite)


def _in_full_precision(teacher: Teacher, blurry: Tensor) -> Tensor:
    """The teacher's output, computed in float32. The weights stay as the lower precision rounded them."""
    with torch.no_grad():
        return copy.deepcopy(teacher.network).float()(blurry).clamp(0, 1)
