"""Measures how many training samples per second a configuration's loader gives when nothing else waits for it.

python docs/loader_speed.py configs/photos_cached.yaml data.keep_mb=0
"""

import statistics
import sys
import time
from contextlib import closing
from itertools import islice

import torch

from distill.command import run_command
from distill.config import load_config
from distill.data.datasets import TrainingPatches
from distill.data.loader import training_loader
from distill.data.sources import cached_images, training_sources
from distill.networks.teacher import build_teacher
from distill.teacher_cache.opening import open_for_training

BATCHES, ROUNDS = 20, 5


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    config = load_config(sys.argv[1], sys.argv[2:])
    sources, reader, device = training_sources(config.data), None, torch.device("cpu")
    if config.teacher.mode == "cached":
        teacher = build_teacher(config.teacher, device)
        reader, _ = open_for_training(config.teacher, config.data, teacher, cached_images(config.data), device)
    dataset = TrainingPatches(config, sources, reader)
    rates = []
    with closing(training_loader(dataset, 0, (ROUNDS + 1) * BATCHES, pin=False)) as loader:
        for _ in islice(loader, BATCHES):  # starting the workers, and what they make ahead
            pass
        for _ in range(ROUNDS):
            start = time.perf_counter()
            count = sum(len(batch.names) for batch in islice(loader, BATCHES))
            rates.append(count / (time.perf_counter() - start))
    print(f"{statistics.median(rates):.0f} samples/s ({min(rates):.0f} to {max(rates):.0f})")


if __name__ == "__main__":
    run_command(main)
