"""The teacher inside the loop: frozen, in half precision on a GPU, and checked before it is trusted."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from distill.config import TeacherConfig
from distill.config.types import Precision
from distill.scoring.metrics import decibel
from distill.synthesis.degrade import quantize
from distill.teacher_cache.manifest import Identity
from restormer.weights import infer_architecture, load_restormer

logger = logging.getLogger(__name__)

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Teacher(nn.Module):
    """A restoration network that nothing changes: always in eval mode, without gradients, in no checkpoint."""

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.float32, micro_batch: int | None = None) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False).to(dtype).to(memory_format=torch.channels_last)
        self.dtype, self.micro_batch = dtype, micro_batch
        self.training = False
        self._replayed: tuple[tuple[int, ...], Callable[[Tensor], Tensor]] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def train(self, mode: bool = True) -> Teacher:
        """Does nothing: a student's `.train()` must not reach its teacher."""
        return self

    # Not inference_mode: the target is saved for the student's backward pass.
    @torch.no_grad()
    def forward(self, blurry: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> the restored images, clamped to [0, 1], float32; NaN where one is not finite."""
        parts = blurry.float().split(self.micro_batch or len(blurry))
        # Clamped one by one, into new memory: the next call of a recorded form overwrites what it gave.
        return torch.cat([_clamp(self.restore(part)) for part in parts])

    def restore(self, blurry: Tensor) -> Tensor:
        """(B, 3, H, W) -> the network's images, not clamped, all at once; to be used before the next call."""
        if self._replayed is not None and blurry.shape == self._replayed[0]:
            return self._replayed[1](blurry)
        return self.network(blurry)

    def use_full_precision(self) -> None:
        """From now on computes in float32, with the weights as the lower precision has rounded them."""
        self.network.float()
        self.dtype, self._replayed = torch.float32, None

    def replay(self, shape: tuple[int, ...], form: Callable[[Tensor], Tensor]) -> None:
        """From now on `form` stands in for the network on (B, 3, H, W) inputs of this shape."""
        self._replayed = shape, form


def _clamp(image: Tensor) -> Tensor:
    """To [0, 1], except that an overflow must not look like white."""
    return torch.where(image.isinf(), torch.nan, image.clamp(0, 1))


def identify(teacher: Teacher) -> Identity:
    """What a cache of this teacher's images is told apart by."""
    state = teacher.network.state_dict()
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.cpu().flatten().view(torch.uint8).numpy().data)
    precision = next(name for name, dtype in DTYPES.items() if dtype == teacher.dtype)
    return Identity(weights=digest.hexdigest(), architecture=infer_architecture(state), precision=precision)


def teacher_precision(asked: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """What `auto` means on this device."""
    if asked == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    return asked


def build_teacher(config: TeacherConfig, device: torch.device) -> Teacher | None:
    """None for mode `none`. Raises what loading the weights raises."""
    if config.mode == "none":
        return None
    precision = teacher_precision(config.precision, device)
    if precision != "fp32" and device.type == "cpu":
        logger.warning("teacher.precision: %s is many times slower than fp32 on a CPU", precision)
    return Teacher(load_restormer(config.weights, config.sha256), DTYPES[precision], config.micro_batch).to(device)


@dataclass(frozen=True)
class TeacherCheck:
    """Whether a teacher is worth learning from, measured on a few validation images."""

    blurry_psnr: float
    teacher_psnr: float
    half_error: float | None
    """RMS difference between half and full precision, as a share of the RMS correction; None in full precision."""
    finite: bool

    def complaint(self) -> str | None:
        """What is wrong with this teacher, in one line; None where it helps."""
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


# The embedded teacher on photographs: fp16 0.7 %, bf16 5.8 %.
MAX_HALF_ERROR = 0.05
# Stands for the infinite PSNR of a blank page, which would be all that a mean says.
LOSSLESS_DB = 120.0


def check_teacher(teacher: Teacher, pairs: Iterable[tuple[Tensor, Tensor]]) -> TeacherCheck:
    """Measures the teacher on (blurry, sharp) pairs of (1, 3, H, W), on its device."""
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
    with torch.no_grad():
        return copy.deepcopy(teacher.network).float()(blurry).clamp(0, 1)
