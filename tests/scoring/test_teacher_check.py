"""A teacher is checked on validation images before it is trusted."""

from __future__ import annotations

import kornia
import pytest
import skimage.data
import torch
from tiny_networks import Function

from distill.networks.teacher import Teacher
from distill.scoring.teacher_check import check_teacher
from distill.synthesis.eight_bit import quantize
from restormer.weights import load_restormer

SHARP = quantize(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
BLURRY = quantize(SHARP * 0.5 + 0.25)


def test_a_teacher_that_helps_passes() -> None:
    result = check_teacher(Teacher(Function(lambda x: (x - 0.25) * 2)), [(BLURRY, SHARP)])
    assert result.teacher_psnr > result.blurry_psnr + 10
    assert result.half_error is None
    assert result.complaint() is None


def test_a_teacher_that_does_not_help_is_complained_of() -> None:
    result = check_teacher(Teacher(Function(lambda x: x * 0.9)), [(BLURRY, SHARP)])
    assert "worse" in str(result.complaint())
    assert f"{result.blurry_psnr:.2f} dB" in str(result.complaint())


def test_a_teacher_that_is_not_finite_is_complained_of() -> None:
    result = check_teacher(Teacher(Function(lambda x: x / 0 * 0)), [(BLURRY, SHARP)])
    assert "not finite" in str(result.complaint())


class ErrsInHalfPrecision(Function):
    def __init__(self) -> None:
        super().__init__(None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (0.1 if self.one.dtype == torch.float32 else 0.09) + (SHARP - x) * 0.5


def test_half_precision_is_compared_with_full() -> None:
    network = ErrsInHalfPrecision()
    result = check_teacher(Teacher(network, torch.float16), [(BLURRY, SHARP)])
    assert result.half_error is not None
    exact = (BLURRY + 0.1 + (SHARP - BLURRY) * 0.5).clamp(0, 1)
    half = (BLURRY + 0.09 + (SHARP - BLURRY) * 0.5).clamp(0, 1)
    expected = float((half - exact).square().mean().sqrt() / (exact - BLURRY).square().mean().sqrt())
    assert result.half_error == pytest.approx(expected, rel=1e-3)
    assert f"half precision changes the teacher's correction by {expected:.1%}" in str(result.complaint())
    assert network.one.dtype == torch.float16


def test_the_embedded_teacher_passes_its_check() -> None:
    """On a photograph that it has not seen, at the middle of the blur that it was trained for."""
    photo = torch.from_numpy(skimage.data.coffee()[100:228, 200:328].copy()).permute(2, 0, 1)[None].float() / 255
    blurry = quantize(kornia.filters.gaussian_blur2d(photo, 11, (1.6, 1.6)))
    result = check_teacher(Teacher(load_restormer("embedded")), [(blurry, photo)])
    assert result.complaint() is None
    assert result.teacher_psnr > result.blurry_psnr + 3
