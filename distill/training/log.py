"""A run's log: metrics.jsonl, TensorBoard and pictures. Measurements stay on the device until a logging step.

A log that cannot be written does not stop a run: one warning names it, and training goes on.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from distill.data.batch import Skipped
from distill.data.image_files import write_image
from distill.data.pixels import Pixels
from distill.runtime.files import WriteError, append_bytes, write_bytes
from distill.runtime.ranks import Ranks
from distill.scoring.evaluation import Evaluation
from distill.training.run_folder import METRICS, ROW_PICTURES, TENSORBOARD, row_picture_file

logger = logging.getLogger(__name__)


class RunLog:
    """Writes a run's measurements, on the first rank only. When opened, it removes the records of steps after `step`, the step
    from which the run goes on."""

    def __init__(self, folder: Path, step: int, ranks: Ranks) -> None:
        self.folder, self.ranks = folder, ranks
        self.rejected_in_a_row = 0
        """Most consecutive rejected updates seen by the last `flush`. A streak that began before it counts in full."""
        self._streak = 0
        self._pending: list[tuple[dict[str, Tensor], list[str]]] = []
        self._since = time.perf_counter()
        self._images = 0
        self._unwritable: set[str] = set()
        self.skipped_images: dict[str, Skipped] = {}
        """Image files that could not be used, by path."""
        self._board: SummaryWriter | None = None
        if ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
            _cut(folder / METRICS, step)
            # TensorBoard then hides what an earlier process recorded of step `purge_step` and the steps after it.
            self._try(TENSORBOARD, lambda: self._open_board(step + 1))

    def started(self, step: int, total_steps: int, device: str) -> None:
        """Writes a `start` record: a process trains from `step` on. A run that was stopped and resumed has several."""
        self._append("start", {"step": step, "time": _now(), "total_steps": total_steps, "device": device})

    def skipped(self, step: int, images: Iterable[Skipped]) -> list[Skipped]:
        """Writes a record of each image file that could not be used and has no record yet. Returns the new ones."""
        new = {image.path: image for image in images if image.path not in self.skipped_images}
        self.skipped_images |= new
        for image in new.values():
            self._append("skipped", {"step": step, "path": image.path, "reason": image.reason})
        return list(new.values())

    def _open_board(self, purge_step: int) -> None:
        self._board = SummaryWriter(str(self.folder / TENSORBOARD), purge_step=purge_step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._show("close")

    def add(self, measurements: dict[str, Tensor], images: int, names: list[str]) -> None:
        """Keeps one step's measurements, on the device and without waiting for it. `images` counts the images of all ranks;
        `names` are the names of this rank's images."""
        self._pending.append((measurements, names))
        self._images += images

    def restart_clock(self) -> None:
        """Leaves the time so far, such as a validation's, out of images/s."""
        self._since, self._images = time.perf_counter(), 0

    def flush(self, step: int, **constants: float | str) -> dict[str, Any]:
        """Waits for the device and writes a `train` record of the steps since the last flush. Every rank must call this.

        The record has the means of the measurements over the finite updates, images/s, the number of rejected updates and the
        names of their images, the number of images without kd if there were any, and the `constants` as they are. Returns the
        record, or {} if no step was added.
        """
        if not self._pending:
            return {}
        measured, names = zip(*self._pending, strict=True)
        # A flush ends every epoch, so all steps since the last one are of one stage. Still, a step has a term that needs a sharp
        # image only if one of its samples has one. NaN stands for a term that a step does not have. The terms of a finite update
        # are never NaN.
        names_of_terms = dict.fromkeys(name for terms in measured for name in terms)
        missing = torch.tensor(torch.nan, device=measured[0]["finite"].device)
        values = {name: torch.stack([terms.get(name, missing).float() for terms in measured]).cpu() for name in names_of_terms}
        finite, teacher_failed = (values.pop(name, None) for name in ("finite", "teacher_failed"))
        assert finite is not None
        record: dict[str, Any] = {"step": step, "time": _now(), **constants}
        chosen = {name: value[(finite > 0) & ~value.isnan()] for name, value in values.items()}
        record |= {name: float(value.mean()) for name, value in chosen.items() if len(value)}
        record |= {
            "rejected_updates": int((finite == 0).sum()),
            "images_per_s": self._images / (time.perf_counter() - self._since),
        }
        if record["rejected_updates"]:
            record["rejected_images"] = self._names_of([n for n, good in zip(names, finite.tolist(), strict=True) if not good])
        if teacher_failed is not None and teacher_failed.any():
            # `teacher_failed` is a share of a step's images: the sum of the shares times the images per step.
            record["images_without_kd"] = round(float(teacher_failed.sum()) * self._images / len(measured))
        self._count_streak(finite.tolist())
        self._pending.clear()
        self.restart_clock()
        self._write(record, "train")
        return record

    def _names_of(self, batches: list[list[str]]) -> list[str]:
        """The image names of these batches from all ranks. Each rank knows only the names in its own part."""
        return [name for part in self.ranks.all_gather([name for batch in batches for name in batch]) for name in part]

    def _count_streak(self, finite: list[float]) -> None:
        """Updates `rejected_in_a_row`. `_streak` is the length of the present streak, and goes on from one flush to the next."""
        self.rejected_in_a_row = 0
        for good in finite:
            self._streak = 0 if good else self._streak + 1
            self.rejected_in_a_row = max(self.rejected_in_a_row, self._streak)

    def validation(self, step: int, evaluation: Evaluation) -> None:
        """Writes the mean scores as a `val` record, and the picture to samples/."""
        record: dict[str, Any] = {"step": step}
        record |= evaluation.summary()
        self._write(record, "val")
        if evaluation.picture is not None:
            self.picture(step, evaluation.picture, "blurry|student|teacher" + "|sharp" * bool(evaluation.images))

    def picture(self, step: int, picture: Pixels, columns: str) -> None:
        """Writes a picture of validation images to samples/. `columns` names what it shows, from left to right."""
        if self.ranks.first:
            self._try(ROW_PICTURES, lambda: write_image(self.folder / ROW_PICTURES / row_picture_file(step), picture))
            self._show("add_image", columns, picture, step, dataformats="HWC")

    def _write(self, record: dict[str, Any], kind: str) -> None:
        """Writes a record to metrics.jsonl, and its numbers to TensorBoard."""
        self._append(kind, record)
        if not self.ranks.first:
            return
        for name, value in record.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                self._show("add_scalar", f"{kind}/{name}", value, record["step"])

    def _append(self, kind: str, record: dict[str, Any]) -> None:
        """Writes a record to metrics.jsonl only."""
        if self.ranks.first:
            line = json.dumps({"kind": kind, **record}) + "\n"
            self._try(METRICS, lambda: append_bytes(self.folder / METRICS, line.encode()))

    def _show(self, method: str, *arguments: Any, **options: Any) -> None:
        """Calls a method of the TensorBoard writer, unless an earlier call failed. After a failure the writer's thread has ended,
        and every call would raise the same error."""
        if self._board is not None and TENSORBOARD not in self._unwritable:
            self._try(TENSORBOARD, lambda: getattr(self._board, method)(*arguments, **options))

    def _try(self, what: str, write: Callable[[], object]) -> None:
        """Calls `write`. If it fails, a warning names the file or folder `what`, once, and the run goes on."""
        try:
            write()
        except (OSError, WriteError) as error:
            if what not in self._unwritable:
                logger.warning("WARNING: %s: cannot be written, and the run goes on without: %s", self.folder / what, error)
            self._unwritable.add(what)


def _now() -> float:
    """Seconds since 1970 by the machine's clock."""
    return round(time.time(), 3)


def _cut(path: Path, step: int) -> None:
    """Removes the lines of later steps than `step`, and lines that cannot be read, such as a last line torn by a crash."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, TypeError, KeyError):
            continue
    write_bytes(path, "".join(kept).encode())
