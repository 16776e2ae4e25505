"""What a run leaves to read: metrics.jsonl, TensorBoard, pictures. Values stay on the device until a logging step."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from distill.data.images import write_image
from distill.engine.validate import Evaluation

METRICS = "metrics.jsonl"


class RunLog:
    """Writes a run's measurements. Opened at the step a run goes on from, it first cuts off what was written after it."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        _cut(folder / METRICS, step)
        self._metrics = (folder / METRICS).open("a", encoding="utf-8")
        # purge_step is the first step to be forgotten; -1 would forget nothing.
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._pending: list[dict[str, Tensor]] = []
        self._since = time.perf_counter()
        self._images = 0

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._metrics.close()
        self._board.close()

    def add(self, measurements: dict[str, Tensor], images: int) -> None:
        """Keeps one step's measurements where they are. Does not wait for the device."""
        self._pending.append(measurements)
        self._images += images

    def restart_clock(self) -> None:
        """Leaves what came before, a validation say, out of images/s."""
        self._since, self._images = time.perf_counter(), 0

    def flush(self, step: int, **constants: float | str) -> dict[str, Any]:
        """Waits for the device, and writes the means since the last flush with images/s and the number of skipped updates.
        Means are over finite updates. Returns what it wrote; {} where nothing was added."""
        if not self._pending:
            return {}
        names = self._pending[0].keys()
        values = {name: torch.stack([terms[name].float() for terms in self._pending]).cpu() for name in names}
        finite = values.pop("finite") > 0
        record: dict[str, Any] = {"step": step, **constants}
        if finite.any():
            record |= {name: float(value[finite].mean()) for name, value in values.items()}
        record |= {"skipped_updates": int((~finite).sum()), "images_per_s": self._images / (time.perf_counter() - self._since)}
        self._pending.clear()
        self.restart_clock()
        self._write(record, "train")
        return record

    def validation(self, step: int, evaluation: Evaluation) -> None:
        """Writes the mean scores, and the picture to samples/."""
        record: dict[str, Any] = {"step": step}
        for row in ("blurry", "teacher", "student"):
            if (score := evaluation.mean(row)) is not None:
                record |= {f"{row}_psnr": score.psnr, f"{row}_ssim": score.ssim}
        self._write(record, "val")
        if evaluation.picture is not None:
            write_image(self.folder / "samples" / f"step_{step:07d}.png", evaluation.picture)
            self._board.add_image("blurry|student|teacher|sharp", evaluation.picture, step, dataformats="HWC")

    def _write(self, record: dict[str, Any], kind: str) -> None:
        self._metrics.write(json.dumps({"kind": kind, **record}) + "\n")
        self._metrics.flush()
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, record["step"])


def _cut(path: Path, step: int) -> None:
    """Drops the lines after a step, and a last line that a crash tore."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= step:
            kept.append(line + "\n")
    path.write_text("".join(kept), encoding="utf-8")
