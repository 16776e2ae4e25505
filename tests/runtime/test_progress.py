"""A progress bar in a log file speaks now and then."""

from __future__ import annotations

import io

import pytest

from distill.runtime import progress
from distill.runtime.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shortest", "longest"), [(Terminal(), 0.05, 0.2), (io.StringIO(), 20.0, 60.0)])
def test_only_a_terminal_is_redrawn_all_the_time(
    stream: io.StringIO, shortest: float, longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.sys, "stderr", stream)
    with progress_bar(10, "step") as bar:
        assert shortest <= bar.mininterval <= longest  # in seconds
    assert "10" in stream.getvalue()
