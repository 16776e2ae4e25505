"""Which sample comes when, and its random numbers: pure functions of (seed, epoch, index), never of a generator's history.

Training walks along one endless stream of positions 0, 1, 2, ...: batch s takes positions s * batch to (s + 1) * batch. Once
through the images is a pass, in an order of its own; the stream runs on into the next pass, so that every batch is full and
every image comes exactly once per pass. Resuming needs nothing but the step.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


def sample_generator(seed: int, epoch: int, name: str, purpose: str) -> np.random.Generator:
    """The random numbers of one sample for one purpose; what one purpose draws never shifts another's.

    A sample is named, not numbered: an image added to a folder leaves the draws of the others as they were.
    """
    return np.random.default_rng([seed, epoch, zlib.crc32(name.encode()), zlib.crc32(purpose.encode())])


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order in which pass number `epoch` visits `count` images."""
    return np.random.default_rng([seed, epoch, zlib.crc32(b"order")]).permutation(count)


class StreamSampler(Sampler[list[int]]):
    """Batches of stream positions, from step `first_step` up to `last_step` exclusive."""

    def __init__(self, first_step: int, last_step: int, batch: int) -> None:
        self.first_step, self.last_step, self.batch = first_step, last_step, batch

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.last_step):
            yield list(range(step * self.batch, (step + 1) * self.batch))

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step)
