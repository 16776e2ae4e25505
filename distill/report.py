"""Shows a run to somebody who has never seen the project: `python -m distill.report RUN_DIR` writes one HTML file.

The file contains its pictures and fetches nothing. Several run folders give a comparison. A run may still be going on: the
command only reads the run's files. It writes the page into the run folder unless --out names another place.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from distill.command import SignalGate, new_parser, run_command
from distill.config import ConfigError
from distill.reporting.page import render
from distill.reporting.pictures import gallery
from distill.reporting.reading import read_runs
from distill.runtime.device import choose_device
from distill.runtime.files import check_writable, write_bytes

logger = logging.getLogger(__name__)

IMAGES = 6
ONE, SEVERAL = "report.html", "comparison.html"
EXAMPLE = """example:
  python -m distill.report runs/quickstart
  python -m distill.report runs/photos_cached runs/photos_both --out online_or_cached.html --images 10

The worst, the median and the best validation image come first. They are restored again. If the images or the student are gone,
the run's last validation picture stands in. Nothing is downloaded."""


def report(runs: Sequence[str | Path], out: str | Path | None = None, images: int = IMAGES, device: str = "auto") -> Path:
    """Writes the report of one run folder, or a comparison of several, and returns its path.

    `out` defaults to report.html in the run folder, or to comparison.html in the first of several. `images` is the number of
    validation images shown, 0 for none. The networks restore these images on `device` (auto, cpu, mps, cuda or cuda:N).

    Raises FileNotFoundError if a folder is not a run folder. Raises ConfigError if no folder is given, a folder is given twice, a
    configuration cannot be read, `images` is negative or this machine lacks the device. Raises WriteError if the page cannot be
    written.
    """
    folders = [Path(folder) for folder in runs]
    if not folders:
        raise ConfigError("RUN_DIR: at least one run folder is needed")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("RUN_DIR: a run folder is given twice")
    if images < 0:
        raise ConfigError(f"--images: 0 or more, found {images}")
    read = read_runs(folders)
    place = choose_device(device, key="--device")
    target = Path(out) if out is not None else folders[0] / (ONE if len(folders) == 1 else SEVERAL)
    check_writable(target)
    page = render(read, gallery(read, images, place))
    write_bytes(target, page)
    logger.info("%s: %.1f MB", target, len(page) / 1e6)
    return target


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("report", "Shows a run, or several compared, in one HTML file that fetches nothing.", EXAMPLE)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN_DIR", help="a run folder, also of an unfinished run; several are compared")
    add("--out", metavar="FILE", help=f"the HTML file (default {ONE}, of several runs {SEVERAL}, in the first run folder)")
    add("--images", type=int, default=IMAGES, metavar="N", help="validation images shown, 0 for none (default %(default)s)")
    add("--device", default="auto", help="auto, cpu, mps, cuda or cuda:N (default %(default)s)")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    SignalGate().install()
    print(report(arguments.runs, arguments.out, arguments.images, arguments.device))


if __name__ == "__main__":
    run_command(main)
