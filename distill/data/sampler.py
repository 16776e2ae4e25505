"""Which sample comes when, and its random numbers: pure functions of (seed, epoch, image), never of a generator's history.

Training walks along one endless stream of positions 0, 1, 2, ..., a batch at a time. Once through the images is a pass, in an
order of its own; the stream runs on into the next pass, so that every batch is full and every image comes exactly once per pass.
Resuming needs nothing but a position, and several processes each take their part of every batch.
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
    known = zlib.crc32(name.encode(errors="surrogateescape"))  # a file name need not be valid UTF-8
    return np.random.default_rng([seed, epoch, known, zlib.crc32(purpose.encode())])


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order in which pass number `epoch` visits `count` images."""
    return np.random.default_rng([seed, epoch, zlib.crc32(b"order")]).permutation(count)


class StreamSampler(Sampler[list[int]]):
    """`steps` batches of stream positions from `position` on; of each, the part that is rank `rank`'s of `ranks`."""

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
