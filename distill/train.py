"""Trains a student: `python -m distill.train --config configs/quickstart.yaml`.

Read `train` from top to bottom; `training/step.py` is one optimisation step. Under torchrun every rank runs this program on its
own GPU, with its share of every batch (`runtime/ranks.py`).
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from distill.command import Interrupted, SignalGate, add_config_arguments, new_parser, read_config, run_command
from distill.config import LOSS_TERMS, Config, dump_config
from distill.data.batch import Batch, Skipped, on_device
from distill.data.image_files import ImageError
from distill.errors import listed
from distill.networks.student_files import save_student
from distill.runtime.device import choose_device, describe_device
from distill.runtime.files import locked, write_bytes
from distill.runtime.progress import progress_bar
from distill.runtime.ranks import Ranks
from distill.scoring.evaluation import Evaluation, Measure
from distill.teacher_cache.online_filler import OnlineFiller
from distill.teacher_cache.opening import cache_lock
from distill.training.about import about_training
from distill.training.build import (
    Run,
    build_run,
    check_shares,
    load_checkpoint_or_start,
    remaining_batches,
    speed_up_networks,
    speed_up_teacher,
)
from distill.training.log import RunLog
from distill.training.plan import Plan, learning_rate
from distill.training.resume import read_saved, save_run
from distill.training.run_folder import BEST, CONFIG, EVALUATION, clear_run, stage_file
from distill.training.state import NONE_YET
from distill.training.step import Images, make_images, training_step
from distill.training.update import DivergedError

logger = logging.getLogger(__name__)

EXAMPLE = """example:
  python -m distill.train --config configs/photos_online.yaml --set data.sharp=PHOTOS/train data.val.sharp=PHOTOS/val

Ctrl-C, SIGTERM and a closed terminal save the run in its folder, run.dir; the same command resumes it.
"""


def train(config: Config, fresh: bool = False, gate: SignalGate | None = None) -> Evaluation:
    """Runs all stages and returns the final evaluation. Resumes from the run folder's checkpoint if there is one.

    `fresh` starts over and removes the earlier run's files. Raises UserError, FileNotFoundError or WeightsError, before the first
    step if possible. Raises Interrupted if `gate` received a signal.
    """
    gate, ranks = gate or SignalGate(), Ranks.of_environment()
    check_shares(config, ranks)
    device = choose_device(config.run.device, ranks)
    folder = Path(config.run.dir)

    def pause() -> None:
        """Raises Interrupted on every rank if any rank received a signal."""
        gate.check(ranks.all_reduce_max)

    with ExitStack() as held:
        held.enter_context(ranks.connected(device))
        held.enter_context(cache_lock(config.teacher))
        saved = None if fresh else ranks.broadcast(lambda: read_saved(folder))
        run = build_run(config, device, ranks, saved)
        if ranks.first:
            held.enter_context(locked(folder))
            if fresh:  # after `build_run`: a mistake in the configuration must not delete the earlier run
                clear_run(folder, config)
        plan = load_checkpoint_or_start(run, saved)
        speed_up_networks(run, plan)
        if ranks.first:
            write_bytes(folder / CONFIG, dump_config(config).encode())

        checkpoints = _Checkpoints(run, plan)
        loader = remaining_batches(run, plan, pin=device.type == "cuda")
        with RunLog(folder, run.state.step, ranks) as log:
            log.started(run.state.step, plan.total_steps, f"{describe_device(device)}; {run.computes_in}")
            _show_before_training(run, log)
            with gate, closing(loader):
                try:
                    batches = on_device(_completed(loader, run.filler), device)
                    evaluation = _run_steps(run, plan, batches, log, checkpoints, pause)
                except (DivergedError, ImageError):
                    checkpoints.save()  # neither a rejected update nor an image that cannot be used has changed anything
                    raise
                except Interrupted as stop:
                    if stop.between_steps:
                        checkpoints.save()
                        step, total = run.state.step, plan.total_steps
                        logger.warning("saved step %d of %d; the same command goes on from there", step, total)
                    raise
            # Each rank knows only the image files that it skipped itself. The first rank records those of all ranks.
            for others in ranks.all_gather(log.skipped_images | run.validation.skipped):
                log.skipped(run.state.step, others.values())
    if ranks.first:
        evaluation.write_csv(folder / EVALUATION)
        _summarise(log.skipped_images)
    return evaluation


def _show_before_training(run: Run, log: RunLog) -> None:
    """If there are validation images without a sharp one, writes a picture of them before the first step: only a look at it tells
    whether the teacher helps."""
    without_sharp = any(image.sharp is None for image in run.validation.dataset.images)
    if run.state.step == 0 and run.ranks.first and without_sharp:
        log.picture(0, run.validation.first_picture(run.state.kept), "blurry|student|teacher")


def _run_steps(
    run: Run, plan: Plan, batches: Iterable[Batch], log: RunLog, checkpoints: _Checkpoints, pause: Callable[[], None]
) -> Evaluation:
    """Runs the remaining steps and returns the last evaluation. `pause` is called wherever the run may stop, and may raise."""
    config, state = run.config, run.state
    evaluation = _validate(run, plan, log, pause)  # not None if the run was stopped before this step was validated
    with progress_bar(plan.total_steps, "step", silent=not run.ranks.first, initial=state.step) as bar:
        for batch, images in _images_of_steps(run, plan, batches, log):
            for bad in log.skipped(state.step, batch.skipped):
                tqdm.write(f"skipped {bad.path}: {bad.reason}", file=sys.stderr)
            stage, size = plan.stage_at(state.step), plan.at(state.step)
            lr = learning_rate(config.optimizer, state.step, plan.total_steps, stage.lr)
            sharp_in_step = run.dataset.count_sharp(size.position_at(state.step), size.batch)
            state.student.train()
            measured = training_step(images, state, run.vgg, stage, lr, config, sharp_in_step)
            log.add(measured, images=size.batch, names=batch.names)
            bar.update()

            if state.step % config.run.log_steps == 0 or plan.ends_epoch(state.step):
                record = log.flush(state.step, stage=stage.name, epoch=plan.epoch_at(state.step - 1), lr=lr)
                bar.set_postfix_str(_postfix(record))
                _act_on_record(record, log, run)
            if plan.ends_stage(state.step) and run.ranks.first:
                _save_student(run, plan, stage_file(stage.name))  # `_validate` writes it again, with its scores
            evaluation = _validate(run, plan, log, pause)
            checkpoints.save_if_due()
            pause()
    if evaluation is None:  # the last step is always validated: no step was left, and the run was already finished
        evaluation = run.validation.evaluate(state.kept, pause)
    return evaluation


def _images_of_steps(run: Run, plan: Plan, batches: Iterable[Batch], log: RunLog) -> Iterator[tuple[Batch, Images]]:
    """Yields the batch and the images of each remaining step. With `teacher.reuse`, several steps in a row get the same images,
    turned anew. If the run was stopped between such steps, their batch is loaded again, and the teacher is asked again."""
    prepared = None
    for batch in batches:
        first = run.state.step
        wanted = plan.at(first), plan.stage_at(first).needs_target(run.config.vgg)
        if prepared not in (None, wanted):
            speed_up_teacher(run, plan)
            log.restart_clock()
        prepared = wanted
        images = make_images(batch, run.teacher, plan.stage_at(first), run.config)
        for repeat in plan.repeats_from(first):
            yield batch, images.turned_again(batch, repeat, run.config.augment)


class _Checkpoints:
    """Saves a run's checkpoints when they are due, and never saves the same step twice."""

    def __init__(self, run: Run, plan: Plan) -> None:
        self.run, self.plan = run, plan
        # A resumed run begins at the step of its checkpoint. A new run begins at step 0 and has saved none.
        self._saved_step, self._saved_at = run.state.step or -1, time.monotonic()

    def save_if_due(self) -> None:
        """Saves at the end of an epoch, or if the last save is more than `run.save_minutes` ago. Raises WriteError."""
        late = time.monotonic() - self._saved_at > 60 * self.run.config.run.save_minutes
        if late or self.plan.ends_epoch(self.run.state.step):
            self.save()

    def save(self) -> None:
        """Saves, unless this step was already saved. A second save would replace the previous checkpoint by a copy of the newest
        one. Raises WriteError."""
        step = self.run.state.step
        if self._saved_step != step and self.run.ranks.first:
            run = self.run
            save_run(run.folder, run.state, self.plan, run.teacher, run.config, run.precisions, run.dataset.images)
        self._saved_step, self._saved_at = step, time.monotonic()


def _act_on_record(record: dict[str, Any], log: RunLog, run: Run) -> None:
    """Acts on the record of a logging step: names the images of rejected updates, and switches the teacher to fp32 if its images
    overflowed its precision. Raises DivergedError if more than `optimizer.max_skipped` updates in a row were rejected."""
    step, limit = run.state.step, run.config.optimizer.max_skipped
    if (count := record["rejected_updates"]) and run.ranks.first:
        names = listed(record["rejected_images"])
        tqdm.write(f"step {step}: {count} updates were not finite and changed nothing; images: {names}", file=sys.stderr)
    if log.rejected_in_a_row > limit:
        raise DivergedError(
            f"step {step}: {log.rejected_in_a_row} updates in a row were not finite (optimizer.max_skipped: {limit}); the"
            f" checkpoint in {run.folder} keeps the weights of the last finite update; its last validation says whether they are"
            " still good; look at the images that were named, try a lower optimizer.lr or optimizer.clip_norm"
        )
    # Reads `teacher_failed`, not the record. If the run was stopped after the overflow and before this check, `teacher_failed`
    # came back from the checkpoint, and the record covers only the steps since then.
    if run.teacher is not None and run.teacher.dtype != torch.float32 and float(run.state.teacher_failed) > 0:
        precision = str(run.teacher.dtype).removeprefix("torch.")
        run.teacher.use_precision("fp32")
        if not run.config.data.val.has_sharp:
            run.state.best = NONE_YET  # measured by the distance to the images that the teacher made before
        logger.warning(
            "WARNING: the teacher leaves the range of %s: images of it were left out of kd; it goes on in fp32", precision
        )
    elif "images_without_kd" in record:
        count = record["images_without_kd"]
        logger.warning("WARNING: the teacher's images of %d patches were not finite, and left out of kd", count)


def _completed(batches: Iterable[Batch], filler: OnlineFiller | None) -> Iterator[Batch]:
    """Yields the batches, after `filler` has added the teacher images that the cache lacks."""
    for batch in batches:
        if filler is not None:
            filler.complete(batch)
        yield batch


def _validate(run: Run, plan: Plan, log: RunLog, pause: Callable[[], None]) -> Evaluation | None:
    """Evaluates the student, and saves it if it is the best so far or at the end of a stage. Does nothing and returns None if no
    validation is due at this step, or if this step was already validated."""
    config, state = run.config, run.state
    if not plan.validates(state.step, config.eval.every_epochs) or state.validated_step == state.step:
        return None
    evaluation = run.validation.evaluate(state.kept, pause)
    log.validation(state.step, evaluation)
    log.skipped(state.step, run.validation.skipped.values())
    log.restart_clock()
    state.validated_step = state.step
    measure: Measure = "psnr" if config.data.val.has_sharp else "reproduced"
    value = evaluation.ranking(measure)
    best = value is not None and (measure != state.best[0] or value > state.best[1])
    if best and value is not None:
        state.best = (measure, value)
    if run.ranks.first:
        if best:
            _save_student(run, plan, BEST, evaluation)
        if plan.ends_stage(state.step):
            _save_student(run, plan, stage_file(plan.stage_at(state.step - 1).name), evaluation)
        tqdm.write(f"step {state.step}: {evaluation.headline()}", file=sys.stderr)
    return evaluation


def _save_student(run: Run, plan: Plan, name: str, evaluation: Evaluation | None = None) -> None:
    step = run.state.step
    about = about_training(run.config, step, plan.stage_at(step - 1).name, evaluation)
    save_student(run.folder / name, run.state.kept, run.config.student, about | {"computed_in": run.computes_in})


def _summarise(skipped: dict[str, Skipped]) -> None:
    if skipped:
        logger.warning("image files that could not be used and were skipped: %d", len(skipped))
        for bad in skipped.values():
            logger.warning("  %s: %s", bad.path, bad.reason)


def _postfix(record: dict[str, Any]) -> str:
    terms = " ".join(f"{name} {record[name]:.4f}" for name in (*LOSS_TERMS, "loss") if name in record)
    bad = f", {record['rejected_updates']} updates rejected" if record["rejected_updates"] else ""
    return f"{record['images_per_s']:.1f} images/s, {terms}{bad}"


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("train", "Trains a student, or resumes the run in run.dir.", EXAMPLE)
    add_config_arguments(parser)
    parser.add_argument("--fresh", action="store_true", help="remove the run folder's earlier run and start over")
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
