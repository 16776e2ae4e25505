"""PSNR and SSIM, defined once for everything this project prints, and the scores that papers use, under other names.

All compare (H, W, 3) uint8 RGB. docs/scores.md says which paper's table uses which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2ycbcr
from skimage.metrics import structural_similarity

from distill.config import ConfigError, MetricName
from distill.data.batch import to_tensor
from distill.data.pixels import Pixels
from distill.synthesis.eight_bit import to_float

Metric = Callable[[Pixels, Pixels], float]

SSIM_BORDER = 4
# Stands for an infinite PSNR where a mean must be finite: about that of a photograph of 16 megapixels with one value off by one.
LOSSLESS_DB = 120.0
# Window (a Gaussian of 11 pixels) and constants of Wang et al., IEEE TIP 2004, as in its authors' MATLAB code and BasicSR.
SIGMA, RADIUS = 1.5, 5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
gaussian_ssim = partial(structural_similarity, gaussian_weights=True, sigma=SIGMA, use_sample_covariance=False, data_range=255)


def psnr(image: Pixels, reference: Pixels) -> float:
    """Peak signal-to-noise ratio in dB of (H, W, 3) uint8 RGB, over all pixels and channels; infinite for equal images."""
    return _psnr(image.astype(np.float64), reference.astype(np.float64))


def _psnr(image: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    return decibel(float(np.mean((image - reference) ** 2)) / 255**2)


def decibel(error: float) -> float:
    """PSNR in dB from the mean squared error of images in [0, 1]; infinite for an error of 0."""
    return float("inf") if error == 0 else -10 * math.log10(error)


def ssim(image: Pixels, reference: Pixels) -> float:
    """Structural similarity of (H, W, 3) uint8 RGB as the original project computes it: on Y of YCbCr (16 to 235), 4 pixels
    cropped from each border, scikit-image's default window, data range 255."""
    inner = slice(SSIM_BORDER, -SSIM_BORDER)
    luma, reference_luma = (rgb2ycbcr(pixels)[inner, inner, 0] for pixels in (image, reference))
    return float(structural_similarity(luma, reference_luma, data_range=255))


def luma(pixels: Pixels) -> NDArray[np.float64]:
    """Y of YCbCr (ITU-R BT.601, 16 to 235), not rounded. BasicSR computes it in float32, which changes a PSNR by less than 1e-5
    dB."""
    return rgb2ycbcr(pixels)[..., 0]


def rounded_luma(pixels: Pixels) -> NDArray[np.float64]:
    """The same rounded to 8 bits, as MATLAB's rgb2ycbcr gives it for 8-bit images."""
    return np.floor(luma(pixels) + 0.5)


def ssim_of_volume(image: Pixels, reference: Pixels) -> float:
    """What MATLAB's `ssim` gives for RGB images: it takes rows, columns and colours for the three axes of a volume, blurs along
    all three, and repeats the volume's border."""

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return gaussian_filter(values, SIGMA, mode="nearest", radius=RADIUS)

    x, y = image.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + C1) * (2 * covariance + C2) / ((mean_x**2 + mean_y**2 + C1) * (variances + C2))
    return float(similarity.mean())


OURS: dict[MetricName, Metric] = {
    "psnr_y": lambda image, reference: _psnr(luma(image), luma(reference)),
    "ssim_y": lambda image, reference: float(gaussian_ssim(luma(image), luma(reference))),
    "ssim_rgb": lambda image, reference: float(gaussian_ssim(image, reference, channel_axis=2)),
    "psnr_y_matlab": lambda image, reference: _psnr(rounded_luma(image), rounded_luma(reference)),
    "ssim_y_matlab": lambda image, reference: float(gaussian_ssim(rounded_luma(image), rounded_luma(reference))),
    "ssim_rgb_matlab": ssim_of_volume,
    "ssim_rgb_skimage": lambda image, reference: float(structural_similarity(image, reference, data_range=255, channel_axis=2)),
}
# {score: its class in piq}
PERCEPTUAL: dict[MetricName, str] = {"lpips_vgg": "LPIPS", "dists": "DISTS"}


def in_decibel(measure: str) -> bool:
    return measure.startswith("psnr")


def metrics_of(names: Iterable[MetricName], device: torch.device) -> dict[str, Metric]:
    """The functions that compute these scores. Raises ConfigError if one needs a package that is not installed, or weights that
    cannot be downloaded."""
    return {name: _perceptual(name, device) if name in PERCEPTUAL else OURS[name] for name in names}


def _perceptual(name: MetricName, device: torch.device) -> Metric:
    """A distance between features of VGG16, on the device."""
    try:
        import piq
    except ImportError:
        raise ConfigError(f'eval.metrics: {name} needs piq; pip install -e ".[perceptual]"') from None
    try:
        distance = getattr(piq, PERCEPTUAL[name])().to(device)
    except OSError as error:  # urllib's URLError is one
        raise ConfigError(f"eval.metrics: {name}: its weights cannot be downloaded: {error}") from error

    @torch.no_grad()
    def measure(image: Pixels, reference: Pixels) -> float:
        return float(distance(*(to_float(to_tensor(pixels).to(device)) for pixels in (image, reference))))

    return measure
