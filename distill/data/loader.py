"""Loads batches in worker processes. After Ctrl-C, SIGTERM or SIGHUP, the workers live until the main process has saved. They end
when it ends."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from distill.data.batch import Batch, collate
from distill.data.datasets import TrainingPatches
from distill.data.sampler import StreamSampler
from distill.errors import UserError

# How long a loader worker lives on after SIGTERM, so that the main process can save.
WORKER_GRACE_S = 60
# How torch begins the message of an error that a worker raised.
WRAPPED = "Caught "


def load(dataset: Dataset[Any], workers: int, **options: Any) -> Generator[Any]:
    """Yields what a DataLoader yields. One set of workers makes all of it, and ends when the generator is closed. A UserError
    of a worker is raised here with its own message, without the worker's traceback in it."""
    batches = iter(DataLoader(dataset, num_workers=workers, worker_init_fn=_start_worker, **options))
    try:
        yield from batches
    except UserError as error:
        if not str(error).startswith(WRAPPED):
            raise
        # The text is torch's `Caught ...`, then the worker's traceback, whose last line is `module.Error: message`.
        raise type(error)(str(error).rstrip().splitlines()[-1].partition(": ")[2]) from error
    finally:
        # The garbage collector would come too late: after an error, the traceback keeps the iterator and its workers alive.
        if shut_down := getattr(batches, "_shutdown_workers", None):
            shut_down()


def _start_worker(_: int) -> None:
    # Ctrl-C, a scheduler's SIGTERM and a closed terminal's SIGHUP reach the whole process group. The main process then saves,
    # ends, and ends its workers. If a worker died before the main process has saved, the main process's current step would fail.
    # After SIGTERM or SIGHUP, the alarm ends the worker in WORKER_GRACE_S seconds.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("SIGTERM", "SIGHUP"):
        if (signum := getattr(signal, name, None)) is not None and signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, lambda *_: signal.alarm(WORKER_GRACE_S))
    torch.set_num_threads(1)


def training_loader(
    dataset: TrainingPatches, position: int, steps: int, pin: bool, rank: int = 0, ranks: int = 1
) -> Generator[Batch]:
    """Yields `steps` batches of the stream from `position` on, on the CPU. With several ranks, yields this rank's part of each.
    One set of workers makes all batches, and ends when the generator is closed."""
    data = dataset.config.data
    yield from load(
        dataset,
        workers=min(data.workers, max(0, steps)),
        batch_sampler=StreamSampler(position, steps, data.batch, rank, ranks),
        collate_fn=collate,
        pin_memory=pin,
    )
