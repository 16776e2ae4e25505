"""An error reaches the user in its own words and with all it carries, whichever process raised it."""

from __future__ import annotations

import pytest
from torch.utils.data import Dataset

from distill.data.image_files import ImageError
from distill.data.loader import load
from distill.teacher_cache.manifest import CacheError


class Raises(Dataset[int]):
    def __init__(self, error: ValueError) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
def test_a_message_comes_without_the_workers_traceback(workers: int) -> None:
    with pytest.raises(ImageError) as caught:
        list(load(Raises(ImageError("a.png: truncated: 7 bytes")), workers, batch_size=None))
    assert str(caught.value) == "a.png: truncated: 7 bytes"


def test_an_error_of_this_process_is_left_as_it_is() -> None:
    error = CacheError("stale", mend="--repair")
    for original in (error, UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")):
        with pytest.raises(ValueError, match=r".") as caught:
            list(load(Raises(original), 0, batch_size=None))
        assert caught.value is original
