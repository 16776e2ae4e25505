"""Draws the benchmark as bar charts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distill.benchmark.forward import Row
from distill.benchmark.loop import LoopFigures
from distill.runtime.files import write_bytes

INCHES_PER_BAR, INCHES_AROUND, WIDTH_INCHES = 0.32, 1.4, 9.0
OURS_COLOUR, OTHER_COLOUR = "#1f6f8b", "#b8b8b8"


def draw_chart(path: Path, title: str, rows: Sequence[Row], loop: LoopFigures | None) -> None:
    """Writes a PNG of bars: the milliseconds of every form, network by network, and a training step beside the sum of its parts.
    Writes nothing if nothing was measured. Raises WriteError."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.failure is None:
            groups.setdefault(row.title, []).append(row)
    if not groups and loop is None:
        return
    bars = [len(group) for group in groups.values()] + ([3] if loop is not None else [])  # `_draw_loop` draws three
    heights = [INCHES_PER_BAR * count + INCHES_AROUND * 0.6 for count in bars]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)  # attaches itself to the figure, which can then be saved without a display
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(len(bars), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (name, group) in zip(axes, groups.items(), strict=False):
        colours = [OURS_COLOUR if row.form.startswith("ours") else OTHER_COLOUR for row in group]
        drawn = ax.barh([row.form for row in group], [row.ms for row in group], color=colours)
        ax.bar_label(drawn, [f"{row.ms:.0f} ms, {row.times_as_fast:.2f} times" for row in group], padding=3, fontsize=8)
        ax.set_title(name, fontsize=9, loc="left")
    if loop is not None:
        _draw_loop(axes[-1], loop)
    for ax in axes:
        ax.invert_yaxis()
        ax.margins(x=0.3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    drawing = io.BytesIO()
    figure.savefig(drawing, format="png", dpi=120)
    write_bytes(path, drawing.getvalue())


def _draw_loop(ax: Axes, loop: LoopFigures) -> None:
    left = 0.0
    for name, values in (
        ("degrade + augment", loop.degrade_augment),
        ("teacher", loop.teacher),
        ("student step", loop.student_step),
    ):
        ax.barh("sum of parts", median(values), left=left, label=name)
        left += median(values)
    ax.barh("online step", median(loop.online), color=OURS_COLOUR)
    ax.barh("cached step", median(loop.cached), color=OTHER_COLOUR)
    ax.set_title(f"training step, {loop.batch} patches, ms", fontsize=9, loc="left")
    ax.legend(fontsize=8, frameon=False)
