"""Which validation images a report shows: those at the ends and in the middle of a ranking first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from distill.reporting.reading import RunFolder, gains, shares

GAIN_RANKS = ("worst", "median", "best")
SHARE_RANKS = ("least", "median", "most")


def choose(value_of: dict[str, float], count: int, ranks: tuple[str, str, str] = GAIN_RANKS) -> dict[str, str | None]:
    """At most `count` images, the smallest value first: {name: one of `ranks` or None}.

    The images of the smallest, the largest and the median value are chosen first, in this order. All further images are spread
    evenly over the ranking.
    """
    ranked = sorted(value_of, key=lambda name: value_of[name])
    if not ranked or count < 1:
        return {}
    lowest, middle, highest = ranks
    last, median = len(ranked) - 1, (len(ranked) - 1) // 2
    places = {0: lowest, last: highest, median: middle} if last > 1 else {0: lowest, last: highest} if last else {0: None}
    # Places in order of preference. Rounding can give a place twice, so all places follow, to reach `count` nevertheless.
    wanted = [0, last, median, *np.linspace(0, last, count).round().astype(int).tolist(), *range(last + 1)]
    kept = sorted(list(dict.fromkeys(wanted))[:count])
    return {ranked[place]: places.get(place) for place in kept}


@dataclass(frozen=True)
class Choice:
    """The images that a report shows, {name: rank or None}. Empty if no run has scores that rank its images."""

    with_sharp: dict[str, str | None] = field(default_factory=dict)
    """Ranked by the gain of `gains_of`'s student."""
    without_sharp: dict[str, str | None] = field(default_factory=dict)
    """Ranked by the share of the teacher's correction that the student of `shares_of` reproduces."""
    gains_of: RunFolder | None = None
    shares_of: RunFolder | None = None

    def of_kind(self, has_sharp: bool) -> dict[str, str | None]:
        return self.with_sharp if has_sharp else self.without_sharp

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.with_sharp, *self.without_sharp]))

    @classmethod
    def of_runs(cls, runs: Sequence[RunFolder], count: int) -> Choice:
        """At most `count` images. The first run whose evaluation.csv gives gains ranks the images with a sharp one, and the first
        that gives shares ranks the others. If there are both, each kind gets half of the places."""
        gains_of = next((run for run in runs if gains(run.images)), None)
        shares_of = next((run for run in runs if shares(run.fidelity)), None)
        gain_of = {} if gains_of is None else gains(gains_of.images)
        share_of = {} if shares_of is None else shares(shares_of.fidelity)
        places = count - min(len(share_of), count // 2) if gain_of else 0
        with_sharp = choose(gain_of, places)
        return cls(with_sharp, choose(share_of, count - len(with_sharp), SHARE_RANKS), gains_of, shares_of)

    @classmethod
    def unranked(cls, pictures: Iterable[tuple[str, bool]]) -> Choice:
        """Images in their order, none of which has a rank. `pictures` are (name, whether it has a sharp one)."""
        kinds: dict[bool, dict[str, str | None]] = {True: {}, False: {}}
        for name, has_sharp in pictures:
            kinds[has_sharp][name] = None
        return cls(kinds[True], kinds[False])
