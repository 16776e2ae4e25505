"""The order of the samples, and their random numbers.

Both are pure functions: the order of (seed, epoch, number of images), a sample's random numbers of (seed, epoch, name). No state
of a generator is carried along. An epoch here is one pass through the images of a source, each exactly once.

Training takes the positions 0, 1, 2, ... of one endless stream, a batch at a time. Position p of a source of n images is image
`permutation(seed, p // n, n)[p % n]`. Several sources take turns: each gives as many samples in a row as it has parts. A batch
may begin in one epoch and end in the next, so that every batch is full. Resuming needs only a position. Each of several
processes takes its part of every batch.
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
    name_hash = zlib.crc32(name.encode(errors="surrogateescape"))  # a file name need not be valid UTF-8
    return np.random.default_rng([seed, epoch, name_hash, zlib.crc32(purpose.encode())])


@lru_cache(maxsize=16)
def permutation(seed: int, epoch: int, count: int, source: int | None = None) -> NDArray[np.int64]:
    """The order in which an epoch visits `count` images: (count,) image numbers. Sources with different numbers have orders of
    their own."""
    own = [] if source is None else [source]
    return np.random.default_rng([seed, epoch, zlib.crc32(b"order"), *own]).permutation(count)


class StreamSampler(Sampler[list[int]]):
    """Yields, for each of `steps` batches from `position` on, the positions that process `rank` of `ranks` loads. A batch is
    split into `ranks` parts of the same size."""

    def __init__(self, position: int, steps: int, batch: int, rank: int, ranks: int) -> None:
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
