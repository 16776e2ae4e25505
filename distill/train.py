"""Trains a student: `python -m distill.train --config configs/quickstart.yaml`.

Follow `train` from top to bottom; one optimisation step is `engine/step.py`.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from distill.command import Interrupted, SignalGate, add_config_arguments, read_config, run_command
from distill.config import Config, ConfigError, StageConfig, dump_config, parse_config
from distill.data.datasets import Batch, Skipped, TrainingPatches, training_loader
from distill.data.files import locked
from distill.engine.checkpoint import CHECKPOINT, PREVIOUS, load_checkpoint, save_checkpoint
from distill.engine.device import choose_device, on_device
from distill.engine.fast_teacher import speed_up_for_training
from distill.engine.fill import OnlineFiller, cache_lock, open_for_training
from distill.engine.log import METRICS, RunLog
from distill.engine.losses import VggFeatures
from distill.engine.step import TrainingState, learning_rate, needs_target, new_training_state, training_step
from distill.engine.student import build_student, continue_optimizer, save_student
from distill.engine.teacher import Teacher, build_teacher, check_teacher
from distill.engine.validate import Evaluation, Validation

logger = logging.getLogger(__name__)

BEST = "student_best.pth"
EVALUATION = "evaluation.csv"
CHECK_IMAGES = 4


def train(config: Config, fresh: bool = False, gate: SignalGate | None = None) -> Evaluation:
    """Runs all stages, from the run folder's checkpoint if there is one, and returns the final evaluation.

    Writes the run folder (see README). Raises ConfigError, FileNotFoundError, ImageError, CacheError, WriteError and WeightsError
    for what the user can mend, before the first step where it can be known by then; Interrupted when a signal came through the
    gate.
    """
    gate = gate or SignalGate()
    device = choose_device(config.run.device)
    folder = Path(config.run.dir)
    with ExitStack() as held:
        held.enter_context(cache_lock(config.teacher))
        run = _build(config, device)
        held.enter_context(locked(folder))
        state, plan, validation = run.state, run.plan, run.validation
        if fresh:  # only now: a mistake in the configuration must not cost the run that is there
            _clear(folder)
        _resume(folder, run, config)
        _speed_up(run, config)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")

        skipped: dict[str, Skipped] = {}
        last_save = time.monotonic()
        loader = training_loader(run.dataset, state.step, plan.total_steps, pin=device.type == "cuda")
        bar = tqdm(total=plan.total_steps, initial=state.step, unit="step", dynamic_ncols=True, smoothing=0.1)
        with RunLog(folder, state.step) as log, gate, bar, closing(loader):
            try:
                evaluation = _validate(state, plan, validation, log, gate, folder)
                for batch in on_device(_completed(loader, run.filler), device):
                    _name_skipped(batch.skipped, skipped)
                    stage = plan.stage_at(state.step)
                    lr = learning_rate(config.optimizer, state.step, plan.total_steps)
                    state.student.train()
                    measured = training_step(batch, state, run.teacher, run.vgg, stage, lr, config)
                    log.add(measured, images=config.data.batch)
                    bar.update()

                    if state.step % config.run.log_steps == 0 or plan.ends_epoch(state.step):
                        record = log.flush(state.step, stage=stage.name, epoch=plan.epoch_at(state.step - 1), lr=lr)
                        bar.set_postfix_str(_postfix(record))
                    if plan.ends_stage(state.step):
                        save_student(folder / f"student_model_{stage.name}.pth", state.kept, config.student)
                    evaluation = _validate(state, plan, validation, log, gate, folder)
                    if plan.ends_epoch(state.step) or time.monotonic() - last_save > 60 * config.run.save_minutes:
                        _save(folder, state, config)
                        last_save = time.monotonic()
                    gate.check()
                if evaluation is None:  # a finished run, called again
                    evaluation = validation.evaluate(state.kept, gate.check)
            except Interrupted as stop:
                if stop.between_steps:
                    _save(folder, state, config)
                    logger.warning("saved step %d of %d; the same command goes on from there", state.step, plan.total_steps)
                raise
    evaluation.write_csv(folder / EVALUATION)
    _summarise(skipped | validation.skipped)
    return evaluation


@dataclass(frozen=True)
class Run:
    """What a configuration describes, built and checked, before its first step."""

    dataset: TrainingPatches
    plan: Plan
    teacher: Teacher | None
    filler: OnlineFiller | None
    """Computes what a cache lacks."""
    vgg: VggFeatures | None
    state: TrainingState
    continued: str | None
    """What the optimiser goes on from, in words, where that is not a checkpoint of this run."""
    validation: Validation


def _build(config: Config, device: torch.device) -> Run:
    dataset, filler = TrainingPatches(config), None
    teacher = build_teacher(config.teacher, device)
    if config.teacher.mode == "cached":
        images = dataset.sources[0]
        assert teacher is not None
        assert images is not None, "mode cached has one folder of pairs"
        dataset.cache, filler = open_for_training(config, teacher, images, device)
    vgg = VggFeatures(config.vgg).to(device) if any(stage.vgg > 0 for stage in config.stages) else None
    state = new_training_state(build_student(config), config.optimizer, device)
    continued = continue_optimizer(state.optimizer, state.student, config.student)
    validation = Validation(config, teacher, device)
    _check_teacher(validation, config)
    plan = Plan(config.stages, dataset.steps_per_epoch)
    return Run(dataset, plan, teacher, filler, vgg, state, continued, validation)


@dataclass(frozen=True)
class Plan:
    """Where epochs and stages begin and end, in steps. Step s is the state after s updates."""

    stages: list[StageConfig]
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        return sum(stage.epochs for stage in self.stages) * self.steps_per_epoch

    def epoch_at(self, step: int) -> int:
        return step // self.steps_per_epoch

    def stage_at(self, step: int) -> StageConfig:
        """The stage of the update that leads from `step` to `step + 1`."""
        return [stage for stage in self.stages for _ in range(stage.epochs)][self.epoch_at(step)]

    def ends_epoch(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0

    def ends_stage(self, step: int) -> bool:
        if not self.ends_epoch(step):
            return False
        return step == self.total_steps or self.stage_at(step) is not self.stage_at(step - 1)

    def validates(self, step: int, every_epochs: int) -> bool:
        return step > 0 and (self.ends_stage(step) or (self.ends_epoch(step) and self.epoch_at(step) % every_epochs == 0))


def _speed_up(run: Run, config: Config) -> None:
    """Last, because it takes time, and a checkpoint that does not fit should not cost it."""
    asked = config.teacher.mode == "online" and any(needs_target(stage, run.vgg) for stage in config.stages)
    if run.teacher is not None and asked:
        speed_up_for_training(run.teacher, config)
    if config.student.compile:
        run.state.student.compile()


def _completed(batches: Iterable[Batch], filler: OnlineFiller | None) -> Iterator[Batch]:
    """The same batches, with the teacher images that a cache lacked."""
    for batch in batches:
        if filler is not None:
            filler.complete(batch)
        yield batch


def _clear(folder: Path) -> None:
    """Removes what a run writes, and nothing else that may lie in its folder."""
    files = [CHECKPOINT, PREVIOUS, BEST, METRICS, EVALUATION, "config.yaml"]
    for path in [*(folder / name for name in files), *folder.glob("student_model_*.pth")]:
        path.unlink(missing_ok=True)
    for name in ("samples", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _save(folder: Path, state: TrainingState, config: Config) -> None:
    # Teachers never change and VGG neither, so only the student is kept.
    content = {
        "step": state.step,
        "student": state.student.state_dict(),
        "ema": state.ema.state_dict() if state.ema is not None else None,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "best_psnr": state.best_psnr,
        "validated_step": state.validated_step,
        "config": config.model_dump(mode="json"),
    }
    save_checkpoint(folder, content)


def _resume(folder: Path, run: Run, config: Config) -> None:
    content, state = load_checkpoint(folder), run.state
    if content is None:
        if run.continued is not None:
            logger.info("student.init: %s", run.continued)
        return
    _check_same_run(folder, parse_config(content["config"], source=str(folder / CHECKPOINT)), config)
    if content["step"] > run.plan.total_steps:
        ends = f"step {content['step']}, but stages now end at {run.plan.total_steps}"
        raise ConfigError(f"{folder} holds a checkpoint of {ends}; give more epochs, or --fresh to start over")
    state.student.load_state_dict(content["student"])
    if state.ema is not None:
        state.ema.load_state_dict(content["ema"])
    state.optimizer.load_state_dict(content["optimizer"])
    if content["scaler"]:
        state.scaler.load_state_dict(content["scaler"])
    state.step, state.best_psnr, state.validated_step = content["step"], content["best_psnr"], content["validated_step"]
    logger.info("going on from step %d of %s", state.step, folder / CHECKPOINT)


def _check_same_run(folder: Path, saved: Config, config: Config) -> None:
    """Settings that make a checkpoint meaningless refuse it; other changes take effect, and are named."""
    before, now = _flatten(saved.model_dump(mode="json")), _flatten(config.model_dump(mode="json"))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    settled = [key for key in before if key.startswith("student.") and key != "student.compile"]
    fatal = [key for key in changed if key in (*settled, "run.seed", "data.batch", "optimizer.ema")]
    describe = ", ".join(f"{key}: {before.get(key)} is now {now.get(key)}" for key in fatal or changed)
    if fatal:
        raise ConfigError(
            f"{folder} holds a checkpoint of another run ({describe}); give another run.dir, or --fresh to start over"
        )
    if changed:
        logger.warning("the configuration has changed since the checkpoint: %s", describe)


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, inner in tree.items() for k, v in _flatten(inner, f"{prefix}.{key}" if prefix else key).items()}


def _check_teacher(validation: Validation, config: Config) -> None:
    # Read even where there is nothing to check: validation images that are all broken are better found now.
    pairs = [(blurry, sharp) for _, blurry, sharp in islice(validation.pairs(), CHECK_IMAGES)]
    if validation.teacher is None or config.teacher.check == "off":
        return
    result = check_teacher(validation.teacher, pairs)
    half = "" if result.half_error is None else f", half precision changes its correction by {result.half_error:.2%}"
    logger.info("teacher check: blurry %.2f dB, teacher %.2f dB%s", result.blurry_psnr, result.teacher_psnr, half)
    complaint = result.complaint()
    if complaint is not None and config.teacher.check == "error":
        raise ConfigError(f"teacher.check: {complaint}")
    if complaint is not None:
        logger.warning("WARNING: %s", complaint)


def _validate(
    state: TrainingState, plan: Plan, validation: Validation, log: RunLog, gate: SignalGate, folder: Path
) -> Evaluation | None:
    """Evaluates and keeps the best student, where this step is one to validate and was not; else None."""
    config = validation.config
    if not plan.validates(state.step, config.eval.every_epochs) or state.validated_step == state.step:
        return None
    evaluation = validation.evaluate(state.kept, gate.check)
    log.validation(state.step, evaluation)
    log.restart_clock()
    state.validated_step = state.step
    score = evaluation.mean("student")
    assert score is not None
    if score.psnr > state.best_psnr:
        state.best_psnr = score.psnr
        save_student(folder / BEST, state.kept, config.student)
    tqdm.write(f"step {state.step}: student {score.psnr:.2f} dB, {score.ssim:.4f}", file=sys.stderr)
    return evaluation


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m distill.train", description="Trains a student; resumes by itself.")
    add_config_arguments(parser)
    parser.add_argument("--fresh", action="store_true", help="start over, removing what the run folder holds of an earlier run")
    arguments = parser.parse_args()
    gate = SignalGate()
    gate.install()
    evaluation = train(read_config(arguments), arguments.fresh, gate)
    print(evaluation.table())


if __name__ == "__main__":
    run_command(main)
