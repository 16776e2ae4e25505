"""How far two variants are apart: paired differences over seeds and images, with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from distill.scoring.evaluation import Score

Scores = Mapping[str, Mapping[str, Score]]
"""{image: {`blurry`, `teacher` or `student`: score}}"""
# Resamples of the bootstrap, and how many are in memory at a time.
RESAMPLES, BATCH = 10_000, 100
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """A variant minus the first one, on the same images with the same seeds."""

    mean: float
    low: float
    """The 95 % interval of the mean: from `low` to `high`."""
    high: float
    by_seed: dict[int, float]
    images: int = 0
    """On how many images."""

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def paired(scores: Mapping[int, Scores], reference: Mapping[int, Scores], measure: str) -> tuple[list[int], NDArray[np.float64]]:
    """(seeds, (seeds, images) differences) of the students' `psnr` or `ssim`, for the seeds and images that both have. An image
    whose score is infinite in one of the tables is left out of all."""
    seeds = sorted(scores.keys() & reference.keys())
    pairs = [(scores[seed], reference[seed]) for seed in seeds]
    if not pairs:
        return [], np.empty((0, 0))
    scored = [{name for name, row in table.items() if "student" in row} for pair in pairs for table in pair]
    images = sorted(set.intersection(*scored))

    def values(table: Scores) -> list[float]:
        return [getattr(table[image]["student"], measure) for image in images]

    ours, theirs = (np.array([values(pair[side]) for pair in pairs], dtype=np.float64) for side in (0, 1))
    usable = (np.isfinite(ours) & np.isfinite(theirs)).all(axis=0)
    return seeds, ours[:, usable] - theirs[:, usable]


def difference(scores: Mapping[int, Scores], reference: Mapping[int, Scores], measure: str = "psnr") -> Difference | None:
    """None if the two have no seed and image in common."""
    seeds, table = paired(scores, reference, measure)
    if not table.size:
        return None
    low, high = interval(table)
    by_seed = {seed: float(value) for seed, value in zip(seeds, table.mean(axis=1), strict=True)}
    return Difference(float(table.mean()), low, high, by_seed, table.shape[1])


def interval(table: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the mean of (seeds, images) differences: a percentile bootstrap (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993). A resample draws seeds, and one set of images for all of them, because all seeds share the images.

    Few seeds vary less than many would. The deviations of the seeds from their mean are therefore widened, as Student's t widens
    a normal interval. In simulations without a difference, the interval then leaves out 0 in about 5 % of the cases, for two
    seeds as for five. With one seed the interval is about images alone.
    """
    if np.ptp(table) == 0:
        return float(table.flat[0]), float(table.flat[0])
    seeds, images = table.shape
    if seeds > 1:
        tail = (1 + CONFIDENCE) / 2
        wider = t.ppf(tail, seeds - 1) / norm.ppf(tail) * (seeds / (seeds - 1)) ** 0.5
        own = table.mean(axis=1, keepdims=True)
        table = table + (own - own.mean()) * (wider - 1)
    rng, means = np.random.default_rng(0), []
    for _ in range(RESAMPLES // BATCH):
        drawn_seeds, drawn_images = rng.integers(seeds, size=(BATCH, seeds, 1)), rng.integers(images, size=(BATCH, 1, images))
        means.append(table[drawn_seeds, drawn_images].mean(axis=(1, 2)))
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
