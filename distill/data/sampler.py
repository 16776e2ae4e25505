"""The order of the samples and their random numbers: pure functions of (seed, epoch, image), never of a generator's history.

Training walks along one endless stream of positions 0, 1, 2, ..., a batch at a time. A pass visits every image exactly once, and
each pass has its own order. A batch may begin in one pass and end in the next, so that every batch is full. Resuming needs only a
position. Each of several processes takes its part of every batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


def sample_generator(seed: int, epoch: int, name: str, purpose: str) -> np.random.Generator:
    """A generator for one sample and one purpose, so that the draws for one purpose never shift the draws for another.

    Samples are identified by name, not by number: an image added to a folder does not change the draws of the other images.
    """
    known = zlib.crc32(name.encode(errors="surrogateescape"))  # a file name need not be valid UTF-8
    return np.random.default_rng([seed, epoch, known, zlib.crc32(purpose.encode())])


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order in which pass number `epoch` visits `count` images."""
    return np.random.default_rng([seed, epoch, zlib.crc32(b"order")]).permutation(count)


class StreamSampler(Sampler[list[int]]):
    """Yields rank `rank`'s part of `steps` batches of stream positions, from `position` on. All `ranks` parts are equal."""

    def __init__(self, position: int, steps: int, batch: int, rank: int = 0, ranks: int = 1) -> None:
        assert batch % ranks == 0, "a batch is shared out evenly"
        self.position, self.steps, self.batch = position, max(0, steps), batch
        self.part = batch // ranks
        self.offset = rank * self.part

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.steps):
            first = self.position + step * self.batch + self.offset
            yield list(range(first, first + self.part))

    def __len__(self) -> int:
        return self.steps
