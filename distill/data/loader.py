"""Loader processes: started, kept alive until the main process has saved, and ended with it."""

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
    """What a DataLoader yields, with one set of workers, which ends when the generator is closed. A worker's UserError
    comes in its own words, without the worker's traceback in them."""
    batches = iter(DataLoader(dataset, num_workers=workers, worker_init_fn=_start_worker, **options))
    try:
        yield from batches
    except UserError as error:
        if not str(error).startswith(WRAPPED):
            raise
        # torch's `Caught ...`, the worker's traceback, and last `module.Error: message`.
        raise type(error)(str(error).rstrip().splitlines()[-1].partition(": ")[2]) from error
    finally:
        # Not left to the garbage collector: after an error its traceback keeps the iterator, and with it the workers, alive.
        if shut_down := getattr(batches, "_shutdown_workers", None):
            shut_down()


def _start_worker(_: int) -> None:
    # Ctrl-C reaches the whole process group, and so does a scheduler's SIGTERM. The main process saves and ends, and its workers
    # with it; a worker that died first would fail its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_S))
    torch.set_num_threads(1)


def training_loader(
    dataset: TrainingPatches, position: int, steps: int, pin: bool, rank: int = 0, ranks: int = 1
) -> Generator[Batch]:
    """`steps` batches of the stream from `position` on, or a rank's part of each, on the CPU; one set of workers for the whole of
    it, which ends when the generator is closed."""
    data = dataset.config.data
    yield from load(
        dataset,
        workers=min(data.workers, max(0, steps)),
        batch_sampler=StreamSampler(position, steps, data.batch, rank, ranks),
        collate_fn=collate,
        pin_memory=pin,
    )
