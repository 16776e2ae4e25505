"""What tests of whole runs share: stopping them, starting them as from a shell, and looking at what they left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from distill.command import Interrupted, SignalGate
from distill.config import Config, dump_config, load_config
from distill.train import train

ROOT = Path(__file__).parents[2]
STARTING_S = 120


class StopAt(SignalGate):
    """A gate through which a signal comes at the n-th look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks  # after each step, and before each validation image

    def check(self, all_reduce_max: Callable[[int | None], int | None] = lambda signum: signum) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise Interrupted(signal.SIGTERM, between_steps=True)


def write_pilot(pilot: Config, images_per_s: float) -> None:
    """The run folder that a study's pilot leaves, without its run."""
    Path(pilot.run.dir).mkdir(parents=True)
    Path(pilot.run.dir, "config.yaml").write_text(dump_config(pilot))
    line = '{"kind": "train", "step": %d, "stage": "v1", "images_per_s": %g}\n'
    Path(pilot.run.dir, "metrics.jsonl").write_text("".join(line % (step, images_per_s) for step in (5, 10)))


class TrainHere:
    """A run of a study in this process, in place of the `subprocess.Popen` that starts another one."""

    def __init__(self, words: list[str], **options: Any) -> None:
        train(load_config(words[words.index("--config") + 1]))

    def poll(self) -> int:
        return 0

    def wait(self, timeout: float | None = None) -> int:
        return 0


def checkpoint(config: Config) -> dict[str, Any]:
    return torch.load(Path(config.run.dir) / "student_checkpoint.pth", weights_only=True)


def tensors(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """All in a nested dictionary, by path."""
    if isinstance(tree, Tensor):
        return {prefix: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else []
    return {name: value for key, inner in items for name, value in tensors(inner, f"{prefix}/{key}").items()}


def same_bits(first: Any, second: Any) -> bool:
    one, other = tensors(first), tensors(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def records(folder: str | Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind in a run's metrics.jsonl."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def write_config(tree: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(tree))
    return path


def start(command: str, config: Path, *overrides: str, ranks: int = 1, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`python -m distill.COMMAND` as from a shell, in a process group of its own; among several ranks, as torchrun starts it."""
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), *options]
    # As in this process (conftest.py), no run times what is faster here.
    timeless = ["teacher.precision=fp32", "optimizer.amp=off"]
    words = [sys.executable, *launcher, "-m", f"distill.{command}", "--config", str(config), "--set", *timeless, *overrides]
    # Alone, the threads that this process has: their number decides the order of sums, and with it the last bits.
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({} if ranks == 1 else {"OMP_NUM_THREADS": "1"})
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Waits for its end with that status, and returns what it said."""
    try:
        said, _ = process.communicate(timeout=300)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # or it would go on beside all later tests
        raise
    assert process.returncode == status, said
    return said


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """For something that a running process is about to do."""
    deadline = time.monotonic() + STARTING_S
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(process.communicate()[0])
        time.sleep(0.02)
