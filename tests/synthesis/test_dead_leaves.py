"""The synthetic images are reproducible, never the same, and have the statistics that make them useful."""

from __future__ import annotations

import numpy as np
import pytest

from distill.synthesis.dead_leaves import SUPERSAMPLING, _draw_leaves, dead_leaves


def test_a_seed_is_an_image() -> None:
    first, again, other = (dead_leaves(64, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_power_spectrum_falls_as_a_photographs() -> None:
    """Natural images: power falls with the frequency f as about f**-2 (Field 1987); white noise would give 0."""
    slopes = []
    for seed in range(12):
        grey = dead_leaves(128, np.random.default_rng(seed)).mean(axis=2)
        window = np.hanning(128)
        power = np.abs(np.fft.fft2((grey - grey.mean()) * window[:, None] * window)) ** 2
        f = np.hypot(*np.meshgrid(np.fft.fftfreq(128) * 128, np.fft.fftfreq(128) * 128))
        bands = [(low, low * 1.5) for low in (4, 6, 9, 13.5, 20, 30)]
        profile = [power[(f >= low) & (f < high)].mean() for low, high in bands]
        slopes.append(np.polyfit(np.log([low for low, _ in bands]), np.log(profile), 1)[0])
    assert -3 < np.mean(slopes) < -1.2


@pytest.mark.parametrize(("side", "images"), [(96, 24), (256, 8)])
def test_hardly_any_ground_stays_bare(side: int, images: int) -> None:
    """Also where the leaves are so small that thousands of them are needed."""
    bare = [(_draw_leaves(side * SUPERSAMPLING, np.random.default_rng(seed)) == 0).mean() for seed in range(images)]
    assert np.mean(bare) < 0.01
    assert max(bare) < 0.03


def test_brightness_and_colour_vary_between_images_and_use_the_range() -> None:
    images = np.stack([dead_leaves(48, np.random.default_rng(seed)) for seed in range(40)])
    means = images.mean(axis=(1, 2, 3))
    assert means.std() > 8
    assert 80 < means.mean() < 175
    assert images.min() == 0
    assert images.max() == 255
    assert np.abs(images[..., 0].astype(int) - images[..., 2]).mean() > 5
