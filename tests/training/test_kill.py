"""A run that is killed (SIGKILL), also while it saves, ends with the bits of one that was not.

The long form, 20 kills of each kind of run: `pytest -m slow tests/training/test_kill.py`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from running import ROOT, checkpoint, records, same_bits, start, wait_until, write_config

from distill.cache import build_cache
from distill.config import Config, load_config
from distill.train import train
from distill.training.run_folder import CHECKPOINT

# Saves after every step: half of a run's time, so that a random moment is often one of saving.
ALWAYS_SAVES = {"save_minutes": 1e-9, "log_steps": 1}
LONG = pytest.mark.slow


def last_change(file: Path) -> int:
    """In nanoseconds; 0 where there is no such file, as between the two renames of saving."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize(
    ("mode", "workers", "kills"),
    [
        ("online", 2, 2),
        ("cached", 0, 2),
        *[pytest.param(mode, workers, 20, marks=LONG) for mode in ("online", "cached") for workers in (0, 2)],
    ],
)
def test_kills_at_random_moments_change_nothing(
    pairs_tree: dict[str, Any], tmp_path: Path, mode: str, workers: int, kills: int
) -> None:
    pairs_tree["run"] |= ALWAYS_SAVES
    pairs_tree["data"] |= {"workers": workers, "images_per_epoch": 800}
    pairs_tree["teacher"]["mode"] = mode
    pairs_tree["stages"][0]["epochs"] = 1 + kills // 10
    pairs_tree["optimizer"] |= {"ema": 0.9, "schedule": "cosine"}
    file = write_config(pairs_tree, tmp_path / "pairs.yaml")
    straight, killed = (load_config(file, [f"run.dir={tmp_path}/{name}"]) for name in ("straight", "killed"))
    if mode == "cached":
        build_cache(straight)
    train(straight)
    moments = random.Random(f"{mode} {workers}")
    newest, steps, saving = Path(killed.run.dir) / CHECKPOINT, [0], 0
    while len(steps) <= kills:
        process = start("train", file, f"run.dir={killed.run.dir}")
        before = last_change(newest)
        if moments.random() < 0.9:
            wait_until(lambda: last_change(newest) not in (0, before), process)  # noqa: B023 (called here)
            time.sleep(moments.uniform(0, 0.3))
        else:
            time.sleep(moments.uniform(0, 4))  # while it starts
        kill(process)
        saving += any(path.suffix == ".tmp" for path in newest.parent.glob(".*"))
        steps.append(records(newest.parent, "train")[-1]["step"] if (newest.parent / "metrics.jsonl").exists() else 0)
        assert steps[-1] < checkpoint(straight)["step"], "it was done before it was killed often enough"
    print(f"killed after steps {steps[1:]}, {saving} times while a file was written")
    train(killed)
    assert same_bits(checkpoint(straight), checkpoint(killed))
    assert [line["step"] for line in records(newest.parent, "train")] == list(range(1, checkpoint(straight)["step"] + 1))


KILLED_BEFORE = """
import os, signal, sys
function, number = sys.argv.pop(1), int(sys.argv.pop(1))
calls, real = [], getattr(os, function)

def killing(*arguments, **options):
    calls.append(arguments)
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

setattr(os, function, killing)
from distill.command import run_command
from distill.train import main
run_command(main)
"""


@pytest.mark.parametrize(
    ("function", "number", "kept"),
    [
        ("fsync", 5, 2),  # the third checkpoint is whole in a temporary file, and not yet on the disk
        ("replace", 5, 2),  # ... on the disk
        ("replace", 6, None),  # the second one has become the previous, and nothing is the newest
    ],
)
def test_a_kill_between_the_steps_of_saving_costs_one_step_at_most(
    tiny_tree: dict[str, Any], tmp_path: Path, function: str, number: int, kept: int | None
) -> None:
    """Two fsync for each checkpoint, of the file and of its folder; one rename for config.yaml, one for the first checkpoint, and
    two for each other."""
    tiny_tree["run"] |= ALWAYS_SAVES
    tiny_tree["teacher"]["precision"], tiny_tree["optimizer"]["amp"] = "fp32", "off"  # `auto` would time both in each process
    file = write_config(tiny_tree, tmp_path / "tiny.yaml")
    straight, killed = (load_config(file, [f"run.dir={tmp_path}/{name}"]) for name in ("straight", "killed"))
    train(straight)
    words = [
        sys.executable,
        "-c",
        KILLED_BEFORE,
        function,
        str(number),
        "--config",
        str(file),
        "--set",
        f"run.dir={killed.run.dir}",
    ]
    assert subprocess.run(words, cwd=ROOT, capture_output=True).returncode == -signal.SIGKILL
    newest = Path(killed.run.dir) / CHECKPOINT
    assert (checkpoint(killed)["step"] if newest.exists() else None) == kept
    train(killed)
    assert same_bits(checkpoint(straight), checkpoint(killed))
    assert not list(newest.parent.glob(".*.tmp"))
    assert Config.model_validate(checkpoint(killed)["config"]) == killed
