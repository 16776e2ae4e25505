"""Times teacher, student and training loop on this machine: `python -m distill.bench --config configs/bench_cpu.yaml`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import math
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from statistics import median

import torch

from distill.benchmark.forward import Row, student_rows, teacher_rows
from distill.benchmark.loop import LoopFigures, measure_loop
from distill.benchmark.roofline import Machine
from distill.benchmark.timing import stop_children
from distill.command import SignalGate, add_config_arguments, new_parser, read_config, run_command
from distill.config import Config, ConfigError
from distill.runtime.device import choose_device, describe_device
from distill.runtime.files import write_bytes

logger = logging.getLogger(__name__)

PARTS = ("teacher", "student", "loop")
EXAMPLE = """example:
  python -m distill.bench --config configs/quickstart.yaml --only teacher loop --json bench.json
"""


@dataclass
class Report:
    """What one run of the benchmark measured."""

    machine: str
    date: str
    matrix_gflop_per_s: dict[str, float]
    """By dtype name, such as `float16`."""
    copy_gb_per_s: float
    forward: list[Row] = field(default_factory=list)
    loop: LoopFigures | None = None

    def table(self) -> str:
        """All measurements as text."""
        rates = ", ".join(f"{rate:.0f} GFLOP/s {name}" for name, rate in self.matrix_gflop_per_s.items())
        lines = [f"{self.machine}, {self.date}", f"matrix products {rates}; copies {self.copy_gb_per_s:.1f} GB/s", ""]
        if self.forward:
            lines += [*_forward_table(self.forward), ""]
        if self.loop is not None:
            lines += _loop_table(self.loop)
        return "\n".join(lines).rstrip()

    def to_json(self) -> str:
        """All measurements as a JSON object. A value that was not measured is null; so is an infinite `break_even_epochs`."""
        loop = self.loop
        derived = {} if loop is None else {"overhead": loop.overhead(), "break_even_epochs": loop.break_even_epochs()}
        tree = asdict(self) | {"loop": None if loop is None else asdict(loop) | derived}
        # json.dumps writes NaN and Infinity, which JSON does not have. json.loads asks parse_constant for their value: null.
        return json.dumps(json.loads(json.dumps(tree), parse_constant=lambda _: None), indent=2) + "\n"


def bench(config: Config, parts: Sequence[str] = PARTS, keep: Callable[[Report], None] = lambda report: None) -> Report:
    """Measures teacher, student and training loop as the `bench` section says, or only the given `parts`. Takes minutes.

    `keep` is called after each part with the report so far. Raises ConfigError and the errors of building a run.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise ConfigError(f"--only: {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    if config.teacher.mode == "none" and set(parts) != {"student"}:
        raise ConfigError("teacher.mode: none: there is no teacher to measure; --only student measures the student")
    config = config.sized_for(config.stages[0])  # whose step is measured
    device = choose_device(config.run.device)
    logger.info("matrix products and copies")
    machine = Machine(device)
    report = Report(describe_device(device), date.today().isoformat(), {}, machine.copy_bandwidth / 1e9)
    for part in parts:
        if part == "teacher":
            report.forward += teacher_rows(config, machine)
        elif part == "student":
            report.forward += student_rows(config, machine)
        else:
            report.loop = _in_a_process(config, device)
        # `machine` measures the rate of a dtype when a part first needs it.
        report.matrix_gflop_per_s = {name: rate / 1e9 for name, rate in machine.rates().items()}
        keep(report)
    return report


def _in_a_process(config: Config, device: torch.device) -> LoopFigures:
    """Measures the loop in a fresh process: `distill.train` runs in one too."""
    logger.info("training loop, online and cached")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure_loop, config, str(device)).result()
        except BaseException:
            stop_children()
            raise


def _forward_table(rows: Sequence[Row]) -> list[str]:
    titles = ["", "ms", "images/s", "times", "memory MB", "GFLOP/s", "matrix", "copies", "first call s", "difference"]
    lines: list[list[str]] = []
    before = ""
    for row in rows:
        if row.title != before:
            lines.append([row.title])
            before = row.title
        if row.failure is not None:
            lines.append([f"  {row.form}", f"failed: {row.failure}"])
            continue
        numbers = [f"{row.ms:.1f}", f"{row.images_per_s:.2f}", f"{row.times_as_fast:.2f}"]
        numbers += ["-" if row.memory_mb is None else f"{row.memory_mb:.0f}", f"{row.gflop_per_s:.0f}"]
        numbers += [f"{row.matrix_share:.0%}", f"{row.copy_share:.0%}", f"{row.first_call_s:.1f}"]
        lines.append([f"  {row.form}", *numbers, _difference(row)])
    note = [
        "times: as fast as the first form. matrix: share of the measured matrix rate. copies: what unfused operations would",
        "move, over what copies could. difference: from the paper's form in float32, or the student as it is trained; the",
        "largest, and its RMS over the RMS of what the network changes. first call: building and compiling included.",
    ]
    return [*_align([titles, *lines]), *note]


def _difference(row: Row) -> str:
    if row.largest_difference is None or row.correction_error is None:
        return "-"
    return f"{row.largest_difference:.1e}, {row.correction_error:.2%}"


def _loop_table(loop: LoopFigures) -> list[str]:
    parts = {"degrade + augment": loop.degrade_augment, "teacher": loop.teacher, "student step": loop.student_step}
    whole = {"sum of these": loop.parts(), "online step": loop.online, "cached step": loop.cached}
    loaders = {"loader, online": loop.loader, "loader, cached": loop.cached_loader}
    lines = [["training loop", "ms per step", "images/s"]]
    for name, values in (parts | whole | loaders).items():
        lines.append([f"  {name}", f"{median(values):.1f}", f"{loop.batch * 1e3 / median(values):.1f}"])
    epochs = loop.break_even_epochs()
    against = "a cached step is not faster" if math.isinf(epochs) else f"a cache has paid for itself after {epochs:.1f} epochs"
    text = [
        f"online step over the sum of its parts: {loop.overhead():.3f}; online over cached: "
        f"{median(loop.online) / median(loop.cached):.2f}",
        f"filling a cache: {loop.fill_ms_per_image:.1f} ms an image; {against}",
    ]
    if loop.peak_memory_bytes is not None:
        text.append(f"memory taken from the device: {loop.peak_memory_bytes / 2**30:.2f} GiB")
    return [*_align(lines), *text]


def _align(lines: Sequence[Sequence[str]]) -> list[str]:
    """Aligns the first column left, the others right. A line of one or two cells, a title or a failure, does not widen the
    columns."""
    full = [line for line in lines if len(line) > 2]
    widths = [max(len(line[column]) for line in full) for column in range(len(full[0]))]
    out = []
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=False)]
        out.append("  ".join([line[0].ljust(widths[0]), *(cells[1:] if len(line) > 2 else line[1:])]).rstrip())
    return out


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "bench",
        "Throughput of teacher, student and training loop, online against cached, beside what the machine can do.",
        EXAMPLE,
    )
    add_config_arguments(parser)
    parser.add_argument("--only", nargs="+", default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="also draw it as a PNG")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    if arguments.chart is not None and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--chart needs matplotlib: pip install matplotlib")
    SignalGate().install()

    def keep(report: Report) -> None:
        if arguments.json is not None:
            write_bytes(arguments.json, report.to_json().encode())

    report = bench(read_config(arguments), arguments.only, keep)
    print(report.table())
    if arguments.chart is not None:
        from distill.benchmark.chart import draw_chart  # imports matplotlib, which only --chart needs

        draw_chart(arguments.chart, report.machine, report.forward, report.loop)


if __name__ == "__main__":
    run_command(main)
