"""Training runs in processes of their own: `distill.train`, as from a shell, several at a time if asked for."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from subprocess import Popen, TimeoutExpired

import torch

from distill.config import Config, ConfigError, dump_config, load_config
from distill.errors import UserError
from distill.runtime.files import WriteError, is_locked, write_bytes
from distill.studies.members import Member, in_one_precision
from distill.training.resume import BESIDE_TRAINING, changes_between, in_words
from distill.training.run_folder import CONFIG

logger = logging.getLogger(__name__)

# How long a run may take to save after it was told to stop; then it is killed.
STOPPING_S = 60
# How often to look whether a run that an earlier study left has ended.
WAITING_S = 1


class RunFailedError(UserError):
    """A run of a study that ended with an error."""


class Trainers:
    """Runs `distill.train` in processes of their own."""

    def __init__(self, jobs: int) -> None:
        """`jobs` is how many will run at a time: each gets its part of the processor's threads."""
        threads = max(1, torch.get_num_threads() // jobs)
        self.environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if jobs > 1 else {})
        self._running: set[Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Tells all runs to stop, waits until they have saved, and kills those that do not. No other run starts after that."""
        with self._lock:
            self._stopped, left = True, [process for process in self._running if process.poll() is None]
        for process in left:
            process.terminate()
        for process in left:
            try:
                process.wait(STOPPING_S)
            except TimeoutExpired:
                process.kill()
                process.wait()

    def train(self, title: str, config: Config) -> None:
        """Trains, or goes on with, the run of a configuration. Writes the configuration, and what the run prints, to files beside
        the run's folder, which --fresh may clear. Raises RunFailedError, which begins with `title` and holds the last line that
        the run printed."""
        folder = Path(config.run.dir)
        given, log = folder.with_name(f"{folder.name}.yaml"), folder.with_name(f"{folder.name}.log")
        try:
            write_bytes(given, dump_config(config).encode())
        except WriteError as error:
            raise RunFailedError(f"{title}: {error}") from None
        self._wait_for_another(title, folder)
        logger.info("%s: training; it prints to %s", title, log)
        words = [sys.executable, "-m", "distill.train", "--config", str(given)]
        with log.open("wb") as output:
            with self._lock:
                if self._stopped:
                    return
                # In a session of its own: Ctrl-C in a terminal reaches this process alone, which then stops its runs in order.
                process = Popen(words, stdout=output, stderr=output, env=self.environment, start_new_session=True)
                self._running.add(process)
            try:
                status = process.wait()
            except BaseException:  # a signal
                self.stop()
                raise
        with self._lock:
            self._running.discard(process)
            stopped = self._stopped
        if status and not stopped:
            raise RunFailedError(f"{title}: {last_line(log)} (status {status}; {log} has all that it printed)")

    def _wait_for_another(self, title: str, folder: Path) -> None:
        """A study that was killed leaves its runs going. Waits until such a run is at its end."""
        announced = False
        while is_locked(folder) and not self._stopped:
            if not announced:
                logger.warning("%s: another process still trains in %s; waiting until it ends", title, folder)
            announced = True
            time.sleep(WAITING_S)


def last_line(log: Path) -> str:
    """The last line that a process printed, without the name of its program."""
    lines = [line for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].removeprefix("train: ").strip() if lines else "it printed nothing"


def check_unchanged(members: Sequence[Member]) -> None:
    """Raises ConfigError for a run that was begun with another configuration than the study says now."""
    for member in members:
        path = member.folder / CONFIG
        changes = changes_between(in_one_precision(load_config(path)), member.config) if path.is_file() else {}
        if changes := {key: values for key, values in changes.items() if not key.startswith(BESIDE_TRAINING)}:
            raise ConfigError(
                f"{member.title}: the study's settings are not those that {member.folder} was begun with: {in_words(changes)};"
                " change them back, give the study another dir, or remove that folder to train it anew"
            )


def train_all(
    members: Sequence[Member],
    trainers: Trainers,
    jobs: int,
    done: Callable[[Member], None],
    failed: Callable[[RunFailedError], None],
) -> None:
    """Trains all runs that are not finished, `jobs` at a time. In the main thread it calls `done` for each that is finished, and
    `failed` for each that fails. A run that begins with another's student waits for it. A run that fails stops no other, except
    those that wait for it."""
    waiting, running = list(members), dict[Future[None], Member]()
    with ThreadPoolExecutor(jobs) as threads:
        try:
            while waiting or running:
                for member in [member for member in waiting if _ready(member, members)]:
                    if len(running) == jobs and not member.finished:
                        break
                    waiting.remove(member)
                    if member.finished:
                        done(member)
                    else:
                        running[threads.submit(trainers.train, member.title, member.config)] = member
                if not running:
                    for member in waiting:
                        failed(RunFailedError(f"{member.title}: {member.variant.after} has failed"))
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    member = running.pop(future)
                    try:
                        future.result()
                        done(member)
                    except RunFailedError as error:
                        failed(error)
        except BaseException:  # a signal, or a disk that is full: the threads would wait for their runs
            logger.warning("stopping %s", "; ".join(member.title for member in running.values()) or "between two runs")
            trainers.stop()
            raise


def _ready(member: Member, members: Sequence[Member]) -> bool:
    """Whether the run that this one comes after is finished, if there is one."""
    before = [other for other in members if other.variant.name == member.variant.after and other.seed == member.seed]
    return all(other.finished for other in before)
