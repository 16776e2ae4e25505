"""The scores that papers use equal what their definitions give: written out in NumPy, and worked by hand on constant images."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data
from torch import Tensor, nn

from distill.config import FURTHER_METRICS, ConfigError
from distill.data.pixels import Pixels
from distill.scoring.metrics import OURS, PERCEPTUAL, metrics_of

CPU = torch.device("cpu")
C1, C2 = 6.5025, 58.5225  # (0.01 * 255)^2 and (0.03 * 255)^2


# The definitions


def gaussian() -> NDArray[np.float64]:
    """The window's 11 weights along one axis."""
    weights = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    return weights / weights.sum()


def averages(values: NDArray[np.float64], axes: int) -> NDArray[np.float64]:
    """The weighted mean of each window that lies in the array, along so many axes."""
    weights = gaussian()
    for _ in range(axes - 1):
        weights = np.multiply.outer(weights, gaussian())
    windows = np.lib.stride_tricks.sliding_window_view(values, (11,) * axes)
    return np.tensordot(windows, weights, axes)


def similarity(x: NDArray[np.float64], y: NDArray[np.float64], mean: Any, unbiased: float = 1.0) -> float:
    """Wang et al. 2004, equation 13."""
    mx, my = mean(x), mean(y)
    vx, vy, cov = (unbiased * (mean(a * b) - mean(a) * mean(b)) for a, b in ((x, x), (y, y), (x, y)))
    return float(np.mean((2 * mx * my + C1) * (2 * cov + C2) / ((mx**2 + my**2 + C1) * (vx + vy + C2))))


def by_windows(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return similarity(x, y, lambda values: averages(values, 2))


def by_squares(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Windows of 7x7 with equal weights, and the sample's variance."""
    return similarity(x, y, lambda v: np.lib.stride_tricks.sliding_window_view(v, (7, 7)).mean((-2, -1)), unbiased=49 / 48)


def in_a_volume(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return similarity(x, y, lambda values: averages(np.pad(values, 5, mode="edge"), 3))


def decibels(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(10 * np.log10(255**2 / np.mean((x - y) ** 2)))


def y_of(image: Pixels) -> NDArray[np.float64]:
    return 16 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def rounded_y_of(image: Pixels) -> NDArray[np.float64]:
    thousandths = image.astype(np.int64) @ np.array([65481, 128553, 24966])
    return (16 + (thousandths + 127500) // 255000).astype(np.float64)


def each_colour(measure: Any, x: Pixels, y: Pixels) -> float:
    return float(np.mean([measure(x[..., c].astype(np.float64), y[..., c].astype(np.float64)) for c in range(3)]))


ORACLES: dict[str, Any] = {
    "psnr_y": lambda x, y: decibels(y_of(x), y_of(y)),
    "ssim_y": lambda x, y: by_windows(y_of(x), y_of(y)),
    "ssim_rgb": lambda x, y: each_colour(by_windows, x, y),
    "psnr_y_matlab": lambda x, y: decibels(rounded_y_of(x), rounded_y_of(y)),
    "ssim_y_matlab": lambda x, y: by_windows(rounded_y_of(x), rounded_y_of(y)),
    "ssim_rgb_matlab": lambda x, y: in_a_volume(x.astype(np.float64), y.astype(np.float64)),
    "ssim_rgb_skimage": lambda x, y: each_colour(by_squares, x, y),
}


def pair(kind: str) -> tuple[Pixels, Pixels]:
    photo = data.astronaut()[60:91, 200:237]
    noise = np.random.default_rng(0).integers(-40, 40, photo.shape)
    if kind == "grey":
        photo, noise = np.repeat(photo[..., 1:2], 3, axis=2), np.repeat(noise[..., :1], 3, axis=2)
    if kind == "one is constant":
        photo = np.full_like(photo, 128)
    return (photo + noise).clip(0, 255).astype(np.uint8), photo


@pytest.mark.parametrize("kind", ["colour", "grey", "one is constant"])
@pytest.mark.parametrize("name", OURS)
def test_it_is_the_definition_written_out(name: Any, kind: str) -> None:
    image, reference = pair(kind)
    tolerance = 1e-6 if name.startswith("psnr") else 1e-9
    assert OURS[name](image, reference) == pytest.approx(ORACLES[name](image, reference), rel=0, abs=tolerance)


# By hand: all pixels are (100, 100, 100), and (110, 100, 100). Variances are 0.
# Y is 16 + 219 * 100 / 255 = 101.88235 and 65.481 * 10 / 255 = 2.56788 more, 104.45024; rounded 102 and 104.
BY_HAND = {
    "psnr_y": 39.9393012,  # 20 log10(255 / 2.56788)
    "psnr_y_matlab": 42.1102037,  # 20 log10(255 / 2)
    "ssim_y": 0.99969038,  # (2 * 101.88235 * 104.45024 + 6.5025) / (101.88235^2 + 104.45024^2 + 6.5025)
    "ssim_y_matlab": 0.99981156,  # (2 * 102 * 104 + 6.5025) / (102^2 + 104^2 + 6.5025)
    "ssim_rgb": 0.99849215,  # red (2 * 100 * 110 + 6.5025) / (100^2 + 110^2 + 6.5025) = 0.99547644, green and blue 1
    "ssim_rgb_skimage": 0.99849215,
    # The window's middle weights are 0.26601 and 0.21300: red has 0.63301 of the mean at red, 0.36699 at green, 0.15399 at blue.
    # Means are 100 + 10 w, variances 100 w (1 - w), and the covariance is 0.
    "ssim_rgb_matlab": 0.7492334,
}


@pytest.mark.parametrize("name", OURS)
def test_constant_images_have_the_scores_worked_by_hand(name: Any) -> None:
    reference = np.full((16, 16, 3), 100, np.uint8)
    image = reference.copy()
    image[..., 0] = 110
    assert OURS[name](image, reference) == pytest.approx(BY_HAND[name], rel=0, abs=1e-6)


@pytest.mark.parametrize("name", OURS)
def test_equal_images_have_the_best_score(name: Any) -> None:
    image, _ = pair("colour")
    best = float("inf") if name.startswith("psnr") else 1.0
    for pixels in (image, np.zeros((16, 16, 3), np.uint8)):
        assert OURS[name](pixels, pixels) == pytest.approx(best, abs=1e-12)


def test_every_name_of_the_configuration_has_a_function() -> None:
    assert set(OURS) | set(PERCEPTUAL) == set(FURTHER_METRICS)


# LPIPS and DISTS, whose weights piq downloads: a stand-in takes its place.


class Distance(nn.Module):
    """Takes images as piq's classes do."""

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        assert image.shape == reference.shape == (1, 3, 16, 18)
        return (image - reference).abs().mean()


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_piq_gets_images_in_0_to_1(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "piq", SimpleNamespace(**{PERCEPTUAL[name]: Distance}))
    black, white = (np.full((16, 18, 3), value, np.uint8) for value in (0, 255))
    assert metrics_of([name], CPU)[name](white, black) == 1


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_without_piq_the_error_names_the_extra(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "piq", None)
    with pytest.raises(ConfigError, match=rf'eval\.metrics: {name} needs piq; pip install -e "\.\[perceptual\]"'):
        metrics_of(["ssim_rgb", name], CPU)


def test_without_a_network_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline() -> None:
        raise OSError("<urlopen error no route to host>")

    monkeypatch.setitem(sys.modules, "piq", SimpleNamespace(LPIPS=offline))
    with pytest.raises(ConfigError, match=r"eval\.metrics: lpips_vgg: its weights cannot be downloaded: .*no route to host"):
        metrics_of(["lpips_vgg"], CPU)


def test_commands_that_ask_for_none_do_not_import_piq() -> None:
    for command in ("train", "restore"):
        importlib.import_module(f"distill.{command}")
    assert "piq" not in sys.modules
