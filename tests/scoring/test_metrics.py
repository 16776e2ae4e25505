"""PSNR and SSIM equal values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from distill.scoring.metrics import psnr, ssim


def test_psnr_is_over_all_pixels_and_channels() -> None:
    reference = np.full((10, 10, 3), 100, np.uint8)
    image = reference.copy()
    image[0, 0, 0] = 130  # 900 / 300 = 3
    assert psnr(image, reference) == pytest.approx(10 * np.log10(255**2 / 3))
    assert psnr(reference, reference) == float("inf")


def test_ssim_is_on_luma_without_the_border() -> None:
    photo = data.astronaut()[:80, 100:200]
    assert ssim(photo, photo) == pytest.approx(1)
    border = photo.copy()
    border[:4] = 0
    border[:, -4:] = 0
    assert ssim(border, photo) == pytest.approx(1)
    # the definition, written out: mean over 7x7 windows of uniform weight, sample covariance, Y from BT.601
    noisy = (photo + np.random.default_rng(0).integers(0, 40, photo.shape)).clip(0, 255).astype(np.uint8)
    luma = [16 + (p.astype(float) @ [65.481, 128.553, 24.966]) / 255 for p in (noisy, photo)]
    windows = [np.lib.stride_tricks.sliding_window_view(y[4:-4, 4:-4], (7, 7)).reshape(66, 86, 49) for y in luma]
    mean = [w.mean(-1) for w in windows]
    var = [w.var(-1, ddof=1) for w in windows]
    covariance = ((windows[0] - mean[0][..., None]) * (windows[1] - mean[1][..., None])).sum(-1) / 48
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mean[0] * mean[1] + c1) * (2 * covariance + c2)
    expected /= (mean[0] ** 2 + mean[1] ** 2 + c1) * (var[0] + var[1] + c2)
    assert ssim(noisy, photo) == pytest.approx(expected.mean(), abs=1e-6)
