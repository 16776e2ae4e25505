"""Checks on a few validation images whether a teacher is worth learning from."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distill.config.types import Precision
from distill.networks.teacher import Teacher
from distill.scoring.evaluation import mean_psnr
from distill.scoring.metrics import LOSSLESS_DB, decibel
from distill.synthesis.eight_bit import quantize

# Measured with the embedded teacher on photographs: fp16 0.7 %, bf16 5.8 %. A teacher that undoes blur amplifies the rounding of
# its layers, and bf16 keeps three bits less. An error of 8 % leaves at least 99 % of the correction's energy right.
MAX_HALF_ERROR: dict[Precision, float] = {"fp32": 0.0, "fp16": 0.05, "bf16": 0.08}


@dataclass(frozen=True)
class TeacherCheck:
    """The measurements of a check. PSNR is in dB, the mean over the images."""

    blurry_psnr: float | None
    """None if none of the images has a sharp one: then nobody can know whether the teacher helps."""
    teacher_psnr: float | None
    change_psnr: float
    """The teacher's images compared with the blurry ones: how much it changes them."""
    half_error: float | None
    """How much half precision, `precision`, changes the teacher's correction: the RMS difference between its half-precision and
    full-precision images, divided by the RMS difference between its full-precision images and the blurry ones. None for a teacher
    in full precision."""
    finite: bool
    precision: Precision

    def complaint(self) -> str | None:
        """Says in one line what is wrong with the teacher; None if it helps."""
        if not self.finite:
            advice = "try teacher.precision: fp32" if self.half_error is not None else "its weights do not suit them"
            return f"the teacher's output is not finite on validation images; {advice}"
        if self.change_psnr >= LOSSLESS_DB:
            return "the teacher changes nothing on the validation images; a student learns that from it"
        if self.teacher_psnr is not None and self.blurry_psnr is not None and self.teacher_psnr <= self.blurry_psnr:
            return (
                f"the teacher makes the validation images worse ({self.teacher_psnr:.2f} dB, its blurry input"
                f" {self.blurry_psnr:.2f} dB), and a student learns that from it; give weights trained for this blur, or kd: 0"
            )
        if self.half_error is not None and self.half_error > MAX_HALF_ERROR[self.precision]:
            return (
                f"half precision changes the teacher's correction by {self.half_error:.1%}; fp16 is closer than bf16, fp32 exact"
            )
        return None

    def in_words(self, picture: Path | None) -> str:
        """What was measured, in one line. `picture` is the file that shows images without a sharp one before training; None if
        there are none."""
        parts = []
        if self.blurry_psnr is not None and self.teacher_psnr is not None:
            parts.append(f"blurry {self.blurry_psnr:.2f} dB, teacher {self.teacher_psnr:.2f} dB")
        if picture is not None:
            parts.append(
                f"the teacher changes the images to {self.change_psnr:.1f} dB of what they were (PSNR; lower is more); without"
                f" sharp images nobody can know whether that is better: look at {picture}"
            )
        return "; ".join(parts)


def check_teacher(teacher: Teacher, pairs: Iterable[tuple[Tensor, Tensor | None]]) -> TeacherCheck:
    """Measures the teacher on pairs (blurry, sharp). Both tensors are (1, 3, H, W) in [0, 1] on the teacher's device; sharp is
    None for an image that has no sharp one."""
    finite = True
    scores: list[dict[str, float]] = []
    changes: list[dict[str, float]] = []
    errors, corrections = [], []
    for blurry, sharp in pairs:
        restored = teacher(blurry)
        finite = finite and bool(restored.isfinite().all())
        changes.append({"change": _psnr(quantize(restored), blurry)})
        if sharp is not None:
            scores.append({"blurry": _psnr(blurry, sharp), "teacher": _psnr(quantize(restored), sharp)})
        if teacher.dtype != torch.float32:
            exact = _in_full_precision(teacher, blurry)
            errors.append(float((restored - exact).square().mean()))
            corrections.append(float((exact - blurry).square().mean()))
    half_error = (sum(errors) / max(sum(corrections), 1e-12)) ** 0.5 if errors else None
    blurry_db, teacher_db = (mean_psnr(scores, row) if scores else None for row in ("blurry", "teacher"))
    return TeacherCheck(blurry_db, teacher_db, mean_psnr(changes, "change"), half_error, finite, teacher.precision)


def _psnr(image: Tensor, reference: Tensor) -> float:
    return decibel(float((image - reference).square().mean()))


def _in_full_precision(teacher: Teacher, blurry: Tensor) -> Tensor:
    """The teacher's output, computed in float32. The weights stay as the lower precision rounded them."""
    with torch.no_grad():
        return copy.deepcopy(teacher.network).float()(blurry).clamp(0, 1)
