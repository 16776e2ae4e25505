"""Progress bars: smooth on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

TERMINAL_INTERVAL_S = 0.1
FILE_INTERVAL_S = 30.0


def progress_bar(total: int, unit: str, silent: bool = False, **options: Any) -> tqdm[Any]:
    """A tqdm bar on stderr; `options` are tqdm's. In a log file, a run of days leaves thousands of lines, not millions."""
    interval = TERMINAL_INTERVAL_S if sys.stderr.isatty() else FILE_INTERVAL_S
    return tqdm(total=total, unit=unit, disable=silent, dynamic_ncols=True, smoothing=0.1, mininterval=interval, **options)
