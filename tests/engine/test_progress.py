"""A progress bar in a log file speaks now and then."""

from __future__ import annotations

import io
import time

import pytest

from distill.engine import progress
from distill.engine.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "redrawn"), [(Terminal(), True), (io.StringIO(), False)])
def test_only_a_terminal_is_redrawn_all_the_time(stream: io.StringIO, redrawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys, "stderr", stream)
    with progress_bar(10, "step") as bar:
        drawn = len(stream.getvalue())
        for _ in range(3):
            time.sleep(0.15)
            bar.update()
        assert (len(stream.getvalue()) > drawn) == redrawn
