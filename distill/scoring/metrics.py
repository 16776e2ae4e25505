"""PSNR and SSIM, defined once for everything this project prints."""

from __future__ import annotations

import math

import numpy as np
from skimage.color import rgb2ycbcr
from skimage.metrics import structural_similarity

from distill.data.pixels import Pixels

SSIM_BORDER = 4
# Stands for an infinite PSNR where a mean must be finite: about that of a photograph of 16 megapixels with one value off by one.
LOSSLESS_DB = 120.0


def psnr(image: Pixels, reference: Pixels) -> float:
    """Peak signal-to-noise ratio in dB of (H, W, 3) uint8 RGB, over all pixels and channels; infinite for equal images."""
    error = np.mean((image.astype(np.float64) - reference.astype(np.float64)) ** 2)
    return decibel(float(error) / 255**2)


def decibel(error: float) -> float:
    """PSNR in dB from the mean squared error of images in [0, 1]; infinite for an error of 0."""
    return float("inf") if error == 0 else -10 * math.log10(error)


def ssim(image: Pixels, reference: Pixels) -> float:
    """Structural similarity of (H, W, 3) uint8 RGB as the original project computes it: on Y of YCbCr (16 to 235), 4 pixels
    cropped from each border, scikit-image's default window, data range 255."""
    inner = slice(SSIM_BORDER, -SSIM_BORDER)
    luma, reference_luma = (rgb2ycbcr(pixels)[inner, inner, 0] for pixels in (image, reference))
    return float(structural_similarity(luma, reference_luma, data_range=255))
