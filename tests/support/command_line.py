"""What tests of the commands share."""

from __future__ import annotations

import pytest


def error_line(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line in which a command said what is wrong, in this process and since it was last asked for."""
    lines = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("command: ")]
    assert len(lines) == 1, lines
    return lines[0]
