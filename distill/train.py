"""Trains a student: `python -m distill.train --config configs/quickstart.yaml`.

Follow `train` from top to bottom; one optimisation step is `training/step.py`. With torchrun the same program is one of several
ranks, each on a GPU of its own, with its share of every batch (`runtime/ranks.py`).
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from distill.command import Interrupted, SignalGate, add_config_arguments, new_parser, read_config, run_command
from distill.config import Config, ConfigError, dump_config
from distill.data.datasets import Batch, Skipped, TrainingPatches, training_loader
from distill.networks.fast_teacher import speed_up_for_training
from distill.networks.student import build_student, continue_optimizer, save_student
from distill.networks.teacher import Teacher, build_teacher, check_teacher
from distill.runtime.device import choose_device, describe_device, on_device
from distill.runtime.files import locked, write_bytes
from distill.runtime.progress import progress_bar
from distill.runtime.ranks import Ranks
from distill.scoring.validation import Evaluation, Validation
from distill.teacher_cache.fill import OnlineFiller, cache_lock, open_for_training
from distill.training.about import about_training
from distill.training.checkpoint import has_checkpoint
from distill.training.log import RunLog
from distill.training.losses import VggFeatures, learns_from_teacher
from distill.training.plan import Plan
from distill.training.resume import resume_run, save_run
from distill.training.run_folder import BEST, CONFIG, EVALUATION, FILES, FOLDERS, stage_file
from distill.training.step import DivergedError, TrainingState, learning_rate, new_training_state, training_step

logger = logging.getLogger(__name__)

CHECK_IMAGES = 4
EXAMPLE = """example:
  python -m distill.train --config configs/photos_online.yaml --set data.sharp=PHOTOS/train data.val.sharp=PHOTOS/val

The run folder is run.dir of the configuration. Ctrl-C and SIGTERM save first; the same command goes on from there.
"""


def train(config: Config, fresh: bool = False, gate: SignalGate | None = None) -> Evaluation:
    """Runs all stages, from the run folder's checkpoint if there is one, and returns the final evaluation.

    Writes the run folder (docs/index.md lists its files). Raises ConfigError, FileNotFoundError, ImageError, CacheError,
    WriteError and WeightsError for what the user can mend, before the first step where it can be known by then; DivergedError;
    LostRankError where another process of the run ended; Interrupted when a signal came through the gate.
    """
    gate, ranks = gate or SignalGate(), Ranks.of_environment()
    _check_shares(config, ranks)
    device = choose_device(config.run.device, ranks)
    folder = Path(config.run.dir)

    def pause() -> None:
        gate.check(ranks.agree)

    with ExitStack() as held:
        held.enter_context(ranks.connected(device))
        held.enter_context(cache_lock(config.teacher))
        begins = fresh or not ranks.from_first(lambda: has_checkpoint(folder))
        run = _build(config, device, ranks, begins)
        if ranks.first:
            held.enter_context(locked(folder))
            if fresh:  # only now: a mistake in the configuration must not cost the run that is there
                _clear(folder, config)
        plan = _resume(run)
        _speed_up(run)
        if ranks.first:
            write_bytes(folder / CONFIG, dump_config(config).encode())

        checkpoints = _Checkpoints(run, plan)
        loader = _loader(run, plan, pin=device.type == "cuda")
        with RunLog(folder, run.state.step, ranks) as log:
            log.started(run.state.step, plan.total_steps, describe_device(device))
            with gate, closing(loader):
                try:
                    batches = on_device(_completed(loader, run.filler), device)
                    evaluation = _run_steps(run, plan, batches, log, checkpoints, pause)
                except DivergedError:
                    checkpoints.save()  # updates that were not finite have changed nothing
                    raise
                except Interrupted as stop:
                    if stop.between_steps:
                        checkpoints.save()
                        step, total = run.state.step, plan.total_steps
                        logger.warning("saved step %d of %d; the same command goes on from there", step, total)
                    raise
            for others in ranks.gather(run.skipped | run.validation.skipped):
                run.skipped.update(others)
            log.skipped(run.state.step, run.skipped.values())
    if ranks.first:
        evaluation.write_csv(folder / EVALUATION)
        _summarise(run.skipped)
    return evaluation


def _run_steps(
    run: Run, plan: Plan, batches: Iterable[Batch], log: RunLog, checkpoints: _Checkpoints, pause: Callable[[], None]
) -> Evaluation:
    """All that are left, and the evaluation of the last. `pause` is called where a run may be stopped, and raises there."""
    config, state = run.config, run.state
    evaluation = _validate(run, plan, log, pause)
    with _progress_bar(run, plan) as bar:
        for batch in batches:
            _name_skipped(batch.skipped, run.skipped)
            log.skipped(state.step, batch.skipped)
            stage = plan.stage_at(state.step)
            lr = learning_rate(config.optimizer, state.step, plan.total_steps)
            state.student.train()
            measured = training_step(batch, state, run.teacher, run.vgg, stage, lr, config)
            log.add(measured, images=config.data.batch, names=batch.names)
            bar.update()

            if state.step % config.run.log_steps == 0 or plan.ends_epoch(state.step):
                record = log.flush(state.step, stage=stage.name, epoch=plan.epoch_at(state.step - 1), lr=lr)
                bar.set_postfix_str(_postfix(record))
                _look_at_numbers(record, log, run)
            if plan.ends_stage(state.step) and state.ranks.first:
                _save_student(run, plan, stage_file(stage.name))  # again below, when its scores are known
            evaluation = _validate(run, plan, log, pause)
            checkpoints.save_if_due()
            pause()
    if evaluation is None:  # a finished run, called again
        evaluation = run.validation.evaluate(state.kept, pause)
    return evaluation


@dataclass(frozen=True)
class Run:
    """What a configuration describes, built and checked, before its first step."""

    config: Config
    dataset: TrainingPatches
    teacher: Teacher | None
    filler: OnlineFiller | None
    """Computes what a cache lacks."""
    vgg: VggFeatures | None
    state: TrainingState
    continued: str | None
    """What the optimiser goes on from, in words, where that is not a checkpoint of this run."""
    validation: Validation
    skipped: dict[str, Skipped] = field(default_factory=dict)
    """Images that could not be used, by their paths."""

    @property
    def folder(self) -> Path:
        return Path(self.config.run.dir)


class _Checkpoints:
    """When a run is saved."""

    def __init__(self, run: Run, plan: Plan) -> None:
        self.run, self.plan = run, plan
        self._saved_step, self._saved_at = run.state.step or -1, time.monotonic()

    def save_if_due(self) -> None:
        """At the ends of epochs, and where `run.save_minutes` have passed. Raises WriteError."""
        late = time.monotonic() - self._saved_at > 60 * self.run.config.run.save_minutes
        if late or self.plan.ends_epoch(self.run.state.step):
            self.save()

    def save(self) -> None:
        """Unless this step was saved: a second time would cost the older checkpoint that is kept. Raises WriteError."""
        step = self.run.state.step
        if self._saved_step != step:
            save_run(self.run.folder, self.run.state, self.plan, self.run.teacher, self.run.config)
        self._saved_step, self._saved_at = step, time.monotonic()


def _check_shares(config: Config, ranks: Ranks) -> None:
    """Raises ConfigError for what several processes cannot do together."""
    batch, accumulate = config.data.batch, config.optimizer.accumulate
    if batch % (ranks.count * accumulate):
        parts = f" in {accumulate} parts (optimizer.accumulate)" if accumulate > 1 else ""
        raise ConfigError(f"data.batch: {batch} is of all processes, and cannot be shared out among {ranks.count}{parts}")
    if ranks.count > 1 and config.teacher.mode == "cached" and config.teacher.on_missing == "compute":
        raise ConfigError(
            f"teacher.on_missing: compute fills a cache from one process, and there are {ranks.count}; fill it first, with"
            " python -m distill.cache under the same torchrun"
        )


def _build(config: Config, device: torch.device, ranks: Ranks, begins: bool) -> Run:
    """`begins`: no checkpoint will replace the student's weights."""
    dataset, filler = TrainingPatches(config), None
    start = config if begins else config.model_copy(update={"student": config.student.model_copy(update={"init": None})})
    with ranks.first_of_node_first():
        teacher = build_teacher(config.teacher, device)
        vgg = VggFeatures(config.vgg).to(device) if any(stage.vgg > 0 for stage in config.stages) else None
        student = build_student(start)
    if config.teacher.mode == "cached":
        images = dataset.sources[0]
        assert teacher is not None
        assert images is not None, "mode cached has one folder of pairs"
        dataset.cache, filler = open_for_training(config, teacher, images, device)
    state = new_training_state(student, config.optimizer, device, ranks)
    continued = continue_optimizer(state.optimizer, state.student, start.student)
    validation = Validation(config, teacher, device, ranks)
    _check_teacher(validation, config)
    return Run(config, dataset, teacher, filler, vgg, state, continued, validation)


def _resume(run: Run) -> Plan:
    """The plan from the checkpoint on, where there is one, or from the start."""
    start = Plan(run.config.stages, run.dataset.steps_per_epoch, run.config.data.batch)
    resumed = resume_run(run.folder, run.state, start, run.teacher, run.config)
    if resumed is None and run.continued is not None:
        logger.info("student.init: %s", run.continued)
    return resumed or start


def _loader(run: Run, plan: Plan, pin: bool) -> Generator[Batch]:
    step, ranks = run.state.step, run.state.ranks
    return training_loader(run.dataset, plan.position_at(step), plan.total_steps - step, pin, ranks.rank, ranks.count)


def _progress_bar(run: Run, plan: Plan) -> tqdm[Any]:
    step, silent = run.state.step, not run.state.ranks.first
    return progress_bar(plan.total_steps, "step", silent, initial=step)


def _look_at_numbers(record: dict[str, Any], log: RunLog, run: Run) -> None:
    """At a logging step: names updates that were skipped, and takes a teacher out of a precision that it overflows. Raises
    DivergedError."""
    step, limit = run.state.step, run.config.optimizer.max_skipped
    if (count := record["skipped_updates"]) and run.state.ranks.first:
        names = record["skipped_images"]
        some = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        tqdm.write(f"step {step}: {count} updates were not finite and changed nothing; images: {some}", file=sys.stderr)
    if log.skipped_in_a_row > limit:
        raise DivergedError(
            f"step {step}: {log.skipped_in_a_row} updates in a row were not finite (optimizer.max_skipped: {limit}); the"
            f" checkpoint in {run.folder} keeps the last good weights; look at the images that were named, try a lower"
            " optimizer.lr or optimizer.clip_norm"
        )
    # Not by the record: the run may have been stopped between the overflow and this.
    if run.teacher is not None and run.teacher.dtype != torch.float32 and float(run.state.teacher_failed) > 0:
        precision = str(run.teacher.dtype).removeprefix("torch.")
        run.teacher.use_full_precision()
        logger.warning(
            "WARNING: the teacher leaves the range of %s: images of it were left out of kd; it goes on in fp32", precision
        )
    elif "images_without_kd" in record:
        count = record["images_without_kd"]
        logger.warning("WARNING: the teacher's images of %d patches were not finite, and left out of kd", count)


def _speed_up(run: Run) -> None:
    """Last, because it takes time, and a checkpoint that does not fit should not cost it."""
    config = run.config
    if run.teacher is not None and config.teacher.mode == "online" and learns_from_teacher(config):
        speed_up_for_training(run.teacher, config, run.state.ranks)
    if config.student.compile:
        run.state.student.compile()


def _completed(batches: Iterable[Batch], filler: OnlineFiller | None) -> Iterator[Batch]:
    """The same batches, with the teacher images that a cache lacked."""
    for batch in batches:
        if filler is not None:
            filler.complete(batch)
        yield batch


def _clear(folder: Path, config: Config) -> None:
    """Removes what a run writes, and nothing else that may lie in its folder. Raises ConfigError where the run would begin with
    that."""
    files = [path for pattern in FILES for path in folder.glob(pattern)]
    for key, value in (("student.init", config.student.init), ("teacher.weights", config.teacher.weights)):
        if value is not None and Path(value).resolve() in [path.resolve() for path in files]:
            raise ConfigError(f"{key}: {value} is what --fresh would remove; copy it elsewhere, or give another run.dir")
    for path in files:
        path.unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def _check_teacher(validation: Validation, config: Config) -> None:
    # Read even where there is nothing to check: validation images that are all broken are better found now.
    pairs = [(blurry, sharp) for _, blurry, sharp in islice(validation.pairs(), CHECK_IMAGES)]
    if validation.teacher is None or config.teacher.check == "off" or not learns_from_teacher(config):
        return
    result = check_teacher(validation.teacher, pairs)
    half = "" if result.half_error is None else f", half precision changes its correction by {result.half_error:.2%}"
    logger.info("teacher check: blurry %.2f dB, teacher %.2f dB%s", result.blurry_psnr, result.teacher_psnr, half)
    complaint = result.complaint()
    if complaint is not None and config.teacher.check == "error":
        raise ConfigError(f"teacher.check: {complaint}")
    if complaint is not None:
        logger.warning("WARNING: %s", complaint)


def _validate(run: Run, plan: Plan, log: RunLog, pause: Callable[[], None]) -> Evaluation | None:
    """Evaluates and keeps the best student, where this step is one to validate and was not; else None."""
    config, state = run.config, run.state
    if not plan.validates(state.step, config.eval.every_epochs) or state.validated_step == state.step:
        return None
    evaluation = run.validation.evaluate(state.kept, pause)
    log.validation(state.step, evaluation)
    log.restart_clock()
    state.validated_step = state.step
    score = evaluation.mean("student")
    assert score is not None
    best, state.best_psnr = score.psnr > state.best_psnr, max(score.psnr, state.best_psnr)
    if state.ranks.first:
        if best:
            _save_student(run, plan, BEST, evaluation)
        if plan.ends_stage(state.step):
            _save_student(run, plan, stage_file(plan.stage_at(state.step - 1).name), evaluation)
        tqdm.write(f"step {state.step}: student {score.psnr:.2f} dB, {score.ssim:.4f}", file=sys.stderr)
    return evaluation


def _save_student(run: Run, plan: Plan, name: str, evaluation: Evaluation | None = None) -> None:
    step = run.state.step
    about = about_training(run.config, step, plan.stage_at(step - 1).name, evaluation)
    save_student(run.folder / name, run.state.kept, run.config.student, about)


def _name_skipped(new: list[Skipped], known: dict[str, Skipped]) -> None:
    for bad in new:
        if bad.path not in known:
            tqdm.write(f"skipped {bad.path}: {bad.reason}", file=sys.stderr)
        known[bad.path] = bad


def _summarise(skipped: dict[str, Skipped]) -> None:
    if skipped:
        logger.warning("image files that could not be used and were skipped: %d", len(skipped))
        for bad in skipped.values():
            logger.warning("  %s: %s", bad.path, bad.reason)


def _postfix(record: dict[str, Any]) -> str:
    terms = " ".join(f"{name} {record[name]:.4f}" for name in ("l1", "kd", "vgg", "loss") if name in record)
    bad = f", {record['skipped_updates']} updates skipped" if record["skipped_updates"] else ""
    return f"{record['images_per_s']:.1f} images/s, {terms}{bad}"


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("train", "Trains a student; resumes by itself.", EXAMPLE)
    add_config_arguments(parser)
    parser.add_argument("--fresh", action="store_true", help="start over, removing what the run folder holds of an earlier run")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    gate = SignalGate()
    gate.install()
    evaluation = train(read_config(arguments), arguments.fresh, gate)
    if Ranks.of_environment().first:
        print(evaluation.table())


if __name__ == "__main__":
    run_command(main)
