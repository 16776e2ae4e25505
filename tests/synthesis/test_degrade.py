"""Each degradation is what its name says, measured against another implementation, and ends in 8 bits."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from scipy.ndimage import convolve, gaussian_filter
from skimage import data

from distill.config.degradations import Degradation, Degradations
from distill.synthesis.degrade import _discs, degrade, draw


def steps(*descriptions: dict[str, Any]) -> list[Any]:
    return TypeAdapter(list[Degradation]).validate_python(list(descriptions))


def draws_of(operations: list[Any], count: int) -> dict[str, torch.Tensor]:
    rows = [draw(operations, np.random.default_rng([7, row])) for row in range(count)]
    return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """(4, 3, 64, 96), crops of a photograph."""
    astronaut = torch.from_numpy(data.astronaut().copy()).permute(2, 0, 1).float() / 255
    return torch.stack([astronaut[:, y : y + 64, 150:246] for y in (0, 60, 120, 300)])


def levels(image: torch.Tensor) -> np.ndarray:
    return (image * 255).round().byte().permute(0, 2, 3, 1).numpy()


def test_gaussian_blur_equals_scipys_with_each_samples_own_sigma(photo: torch.Tensor) -> None:
    blur = steps({"kind": "gaussian_blur", "sigma": [0.8, 2.4]})
    draws = draws_of(blur, 4)
    out = levels(degrade(photo, blur, draws))
    sigmas = draws["degrade.0.strength"].tolist()
    assert len(set(sigmas)) == 4
    assert all(0.8 <= sigma <= 2.4 for sigma in sigmas)
    for row, sigma in enumerate(sigmas):
        expected = gaussian_filter(photo[row].numpy().astype(np.float64), (0, sigma, sigma), mode="mirror", radius=(0, 8, 8))
        # the rounding to 8 bits may fall either way
        assert np.abs(out[row] - expected.transpose(1, 2, 0) * 255).max() <= 0.51


def disc(radius: float, reach: int) -> np.ndarray:
    """The share of each pixel that a disc covers, counted on a fine grid, as a kernel of sum 1."""
    fine, size = 101, 2 * reach + 1
    place = (np.arange(size * fine) + 0.5) / fine - size / 2
    inside = np.hypot(place[:, None], place) <= radius
    share = inside.reshape(size, fine, size, fine).mean(axis=(1, 3))
    return share / share.sum()


def test_defocus_equals_scipys_convolution_with_each_samples_own_disc(photo: torch.Tensor) -> None:
    defocus = steps({"kind": "defocus", "radius": [0.8, 4]})
    draws = draws_of(defocus, 4)
    out = levels(degrade(photo, defocus, draws))
    radii = draws["degrade.0.strength"].tolist()
    assert len(set(radii)) == 4
    assert all(0.8 <= radius <= 4 for radius in radii)
    for row, radius in enumerate(radii):
        expected = convolve(photo[row].numpy().astype(np.float64), disc(radius, 6)[None], mode="mirror")
        # the rounding to 8 bits may fall either way, and the kernel is exact to 0.5 %
        assert np.abs(out[row] - expected.transpose(1, 2, 0) * 255).max() <= 0.75


def test_a_disc_grows_with_its_radius_without_steps() -> None:
    radii = torch.linspace(0.5, 4.0, 351)
    kernels = _discs(radii, 4)
    assert torch.allclose(kernels.sum(dim=(1, 2)), torch.ones(351))
    assert float(kernels[0, 4, 4]) == 1  # a disc of radius 0.5 lies within one pixel
    # a radius that is larger by 0.01 moves little weight from the middle outward, but some
    moved = (kernels[1:] - kernels[:-1]).abs().sum(dim=(1, 2))
    assert float(moved.max()) < 0.05
    assert float(moved[1:].min()) > 0


def test_defocus_of_a_sample_does_not_depend_on_its_batch(photo: torch.Tensor) -> None:
    defocus = steps({"kind": "defocus", "radius": [0.5, 6]})
    draws = draws_of(defocus, 4)
    together = degrade(photo, defocus, draws)
    for row in range(4):
        alone = degrade(photo[row : row + 1], defocus, {key: value[row : row + 1] for key, value in draws.items()})
        assert torch.equal(alone[0], together[row])


def test_rescale_equals_pils_bicubic(photo: torch.Tensor) -> None:
    original = steps({"kind": "rescale", "factor": [4, 4]})
    out = levels(degrade(photo, original, draws_of(original, 4)))
    for row in range(4):
        image = Image.fromarray(levels(photo)[row])
        expected = np.asarray(image.resize((24, 16), Image.Resampling.BICUBIC).resize((96, 64), Image.Resampling.BICUBIC))
        difference = np.abs(out[row].astype(int) - expected)
        # PIL computes in fixed point and rounds between its two passes as well
        assert difference.max() <= 2
        assert difference.mean() < 0.3


def keys_matrix(inputs: int, outputs: int) -> np.ndarray:
    """Bicubic interpolation of one side as OpenCV does it, without antialiasing: the kernel of Keys (1981) with a = -0.75."""

    def kernel(x: float) -> float:
        x, a = abs(x), -0.75
        return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    matrix = np.zeros((outputs, inputs))
    for row in range(outputs):
        place = (row + 0.5) * inputs / outputs - 0.5
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[row, min(max(tap, 0), inputs - 1)] += kernel(place - tap)
    return matrix


def test_the_originals_blur_is_opencvs_bicubic(photo: torch.Tensor) -> None:
    original = TypeAdapter(Degradations).validate_python("bicubic_x4")
    out = levels(degrade(photo, original, draws_of(original, 4)))
    for row in range(4):
        small = np.einsum("ih,jw,hwc->ijc", keys_matrix(64, 16), keys_matrix(96, 24), levels(photo)[row])
        large = np.einsum("ih,jw,hwc->ijc", keys_matrix(16, 64), keys_matrix(24, 96), small.clip(0, 255).round())
        # a value near a half may be rounded either way, before and after
        assert np.abs(out[row] - large.clip(0, 255)).max() <= 1.51


@pytest.mark.parametrize("length", [3, 9, 15])
def test_motion_blur_draws_a_stroke_of_its_length(length: int) -> None:
    motion = steps({"kind": "motion_blur", "length": [length, length]})
    draws = draws_of(motion, 8)
    point = torch.zeros(8, 3, 33, 33)
    point[:, :, 16, 16] = 1
    stroke = degrade(point, motion, draws)[:, 0].double()
    y, x = np.mgrid[0:33, 0:33] - 16.0
    for row in range(8):
        weight = stroke[row].numpy() / stroke[row].sum().item()
        assert abs(float((weight * x).sum())) < 0.2  # stays where it was
        assert abs(float((weight * y).sum())) < 0.2
        angle = np.deg2rad(float(draws["degrade.0.angle"][row]))
        along, across = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
        spread = {"along": float((weight * along**2).sum()), "across": float((weight * across**2).sum())}
        # a uniform line of n pixels has the variance (n**2 - 1) / 12; drawing it on a grid at an angle spreads it a little
        assert spread["along"] == pytest.approx((length**2 - 1) / 12, rel=0.35, abs=0.3)
        assert spread["across"] < 0.5


def test_noise_has_its_deviation_and_each_samples_own_seed() -> None:
    noise = steps({"kind": "noise", "sigma": [10, 10]})
    out = degrade(torch.full((3, 3, 64, 64), 0.5), noise, draws_of(noise, 3)) - 0.5
    assert float(out.std() * 255) == pytest.approx(10, rel=0.03)
    assert abs(float(out.mean() * 255)) < 0.3
    correlation = torch.corrcoef(out.flatten(1))
    assert float((correlation - torch.eye(3)).abs().max()) < 0.05


@pytest.mark.parametrize("quality", [30, 90])
def test_jpeg_is_close_to_libjpegs(photo: torch.Tensor, quality: int) -> None:
    jpeg = steps({"kind": "jpeg", "quality": [quality, quality]})
    ours = levels(degrade(photo, jpeg, draws_of(jpeg, 4))).astype(float)
    for row in range(4):
        file = io.BytesIO()
        Image.fromarray(levels(photo)[row]).save(file, format="JPEG", quality=quality)
        theirs = np.asarray(Image.open(file)).astype(float)
        clean = levels(photo)[row].astype(float)
        damage = np.abs(theirs - clean).mean()
        # kornia rounds coefficients differentiably and subsamples chroma in its own way: nearer to libjpeg than libjpeg to clean
        assert np.abs(ours[row] - theirs).mean() < 0.75 * damage
        assert np.abs(ours[row] - clean).mean() == pytest.approx(damage, rel=0.3)


def test_the_result_has_8_bits_and_the_range(photo: torch.Tensor) -> None:
    everything = steps({"kind": "gaussian_blur", "sigma": [1, 2]}, {"kind": "noise", "sigma": [60, 60]})
    out = degrade(photo, everything, draws_of(everything, 4))
    assert float(out.min()) == 0
    assert float(out.max()) == 1
    assert torch.equal(out, (out * 255).round() / 255)


def test_probability_decides_per_sample(photo: torch.Tensor) -> None:
    sometimes = steps({"kind": "gaussian_blur", "sigma": [2, 2], "probability": 0.5})
    draws = draws_of(sometimes, 4)
    draws["degrade.0.applied"] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    changed = [not torch.equal(a, b) for a, b in zip(degrade(photo, sometimes, draws), degrade(photo, [], {}), strict=True)]
    assert changed == [True, False, False, True]
    rate = draws_of(sometimes, 400)["degrade.0.applied"].mean()
    assert 0.4 < float(rate) < 0.6


def test_blur_wider_than_the_image_is_cut_to_it() -> None:
    wide = steps(
        {"kind": "gaussian_blur", "sigma": [20, 20]},
        {"kind": "defocus", "radius": [25, 25]},
        {"kind": "motion_blur", "length": [99, 99]},
    )
    assert degrade(torch.rand(2, 3, 16, 16), wide, draws_of(wide, 2)).isfinite().all()


def test_the_smallest_defocus_changes_nothing(photo: torch.Tensor) -> None:
    smallest = steps({"kind": "defocus", "radius": [0.5, 0.5]})
    assert torch.equal(degrade(photo, smallest, draws_of(smallest, 4)), degrade(photo, [], {}))
