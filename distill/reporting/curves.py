"""The curves of metrics.jsonl, against steps and against time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from distill.config import LOSS_TERMS
from distill.reporting.reading import MEASURES, Record, RunFolder, number
from distill.scoring.evaluation import ROWS, TO_TEACHER

MAX_POINTS = 500
TRAINING = ("loss", *LOSS_TERMS, "images_per_s")
VALIDATION = (
    *(f"{row.replace(' ', '_')}_{measure}" for measure in MEASURES for row in (*ROWS, *TO_TEACHER)),
    "reproduced",
)


class Clock:
    """How many seconds a run had trained at each of its steps.

    A run that was stopped and resumed has several `start` records. The pause before each of them does not count.
    """

    def __init__(self, run: RunFolder) -> None:
        self.estimated = False
        """Whether some times are estimated, because a record or the `start` before it has no `time`. Estimated times come from
        images/s, so they leave out validations."""
        self._steps, self._seconds = [0], [0.0]
        # A record's training time is its `time` minus `origin`. Each `start` moves `origin` by the pause before it.
        origin = None
        for record in run.records:
            time, elapsed, before = number(record, "time"), self._seconds[-1], self._steps[-1]
            if record["kind"] == "start" and time is not None:
                origin = time - elapsed
            elif record["kind"] == "train":
                rate = number(record, "images_per_s")
                if time is not None and origin is not None:
                    elapsed = max(elapsed, time - origin)
                elif rate:
                    elapsed += (record["step"] - before) * run.batch_of(record) / rate
                    self.estimated = True
                    origin = None if time is None else time - elapsed
                if record["step"] > before:  # `at` divides by the difference between two steps
                    self._steps.append(record["step"])
                    self._seconds.append(elapsed)

    def at(self, step: int) -> float:
        """Seconds until this step was reached, interpolated linearly between two records. For a step after the last record, the
        seconds until that record."""
        after = bisect_right(self._steps, step)
        if after == len(self._steps):
            return self._seconds[-1]
        (s0, s1), (t0, t1) = self._steps[after - 1 : after + 1], self._seconds[after - 1 : after + 1]
        return t0 + (t1 - t0) * (step - s0) / (s1 - s0)

    @property
    def total(self) -> float:
        return self._seconds[-1]


def curves(run: RunFolder) -> dict[str, Any]:
    """What the charts show, in JSON's types: {"train": table, "val": table, "stages", "estimated"}.

    `stages` is what `_stages` returns, and `estimated` is as in `Clock`. A table is {"step": column, "seconds": column, "values":
    {name: column}, "averaged": the number of records in each point}. A value that was not measured is None. If there are more
    than MAX_POINTS training records, neighbours are averaged. Validations are never averaged, because the student differs from
    one to the next.
    """
    clock = Clock(run)
    # -(-n // m) is n / m rounded up. It is 0 if there are no training records, and `_table` needs at least 1.
    return {
        "train": _table(run.of("train"), TRAINING, clock, averaged=-(-len(run.of("train")) // MAX_POINTS) or 1),
        "val": _table(run.of("val"), VALIDATION, clock),
        "stages": _stages(run, clock),
        "estimated": clock.estimated,
    }


def _table(records: Sequence[Record], names: Sequence[str], clock: Clock, averaged: int = 1) -> dict[str, Any]:
    groups = [records[start : start + averaged] for start in range(0, len(records), averaged)]
    steps = [group[-1]["step"] for group in groups]
    values = {name: [_mean(group, name) for group in groups] for name in names}
    return {
        "step": steps,
        "seconds": [round(clock.at(step), 2) for step in steps],
        "values": {name: column for name, column in values.items() if any(value is not None for value in column)},
        "averaged": averaged,
    }


def _mean(records: Sequence[Record], name: str) -> float | None:
    found = [value for value in (number(record, name) for record in records) if value is not None]
    return float(f"{sum(found) / len(found):.6g}") if found else None


def _stages(run: RunFolder, clock: Clock) -> list[dict[str, Any]]:
    """Where each stage began; empty if only one has begun."""
    known = [stage.name for stage in run.config.stages]
    begun: list[dict[str, Any]] = []
    before, step = None, 0
    for record in run.of("train"):
        name = record.get("stage")
        # `step` is the step of the record before this one, or 0. A stage's last step is always logged, so it is that step.
        if name in known and name != before:
            begun.append({"name": name, "step": step, "seconds": round(clock.at(step), 2)})
            before = name
        step = record["step"]
    return begun[1:] and begun
