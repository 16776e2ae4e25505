"""Saves a run to a checkpoint and resumes it: exactly, or with permitted changes of settings, which a warning names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from distill.config import Config, ConfigError, parse_config
from distill.data.decoding.kinds import ALWAYS_READ
from distill.data.triplets import ImageFile
from distill.networks.teacher import Teacher, identify
from distill.scoring.half_precision import Precisions
from distill.training.checkpoint import load_checkpoint, save_checkpoint
from distill.training.plan import Plan, Stretch, learning_rate
from distill.training.run_folder import CHECKPOINT
from distill.training.state import NONE_YET, TrainingState

logger = logging.getLogger(__name__)

FORMAT = "online-distill checkpoint 2"
# Prefixes of the keys that decide which images validation uses and how these images are degraded.
VALIDATION_KEYS = ("data.val.", "degrade", "eval.crop", "eval.images", "eval.seed")
# Keys that define the teacher: a change of any means another teacher.
TEACHER_KEYS = ("teacher.weights", "teacher.sha256", "teacher.precision")
# Prefixes of the keys that do not affect how a student is trained.
BESIDE_TRAINING = (
    *("run.", "data.val.", "data.workers", "data.keep_mb", "student.compile", "eval.", "bench.", "optimizer.max_skipped"),
    *(f"teacher.{key}" for key in ("micro_batch", "compile", "check", "cache", "on_missing", "tile")),
)


def save_run(
    folder: Path,
    state: TrainingState,
    plan: Plan,
    teacher: Teacher | None,
    config: Config,
    precisions: Precisions,
    images: Sequence[ImageFile],
) -> None:
    """Writes the checkpoint; only the first rank should call this. If it raises WriteError, the older checkpoint is unchanged.
    `images` are those that the run trains on."""
    # The teacher and the VGG network are frozen and not saved. The one thing about them that a run may change is saved: whether
    # the teacher had to leave half precision.
    content = {
        "format": FORMAT,
        "step": state.step,
        "plan": asdict(plan.at(state.step)),
        "total_steps": plan.total_steps,
        "student": state.student.state_dict(),
        "ema": state.ema.state_dict() if state.ema is not None else None,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "teacher_failed": float(state.teacher_failed),
        "teacher_in_full_precision": teacher is not None and teacher.dtype == torch.float32,
        "best": list(state.best),
        # `best` depends on the teacher only if students are ranked by how close they come to it.
        "teacher": identify(teacher).model_dump() if teacher is not None and not config.data.val.has_sharp else None,
        "validated_step": state.validated_step,
        "precisions": asdict(precisions),
        "images": len(images),
        "config": config.model_dump(mode="json"),
    }
    save_checkpoint(folder, content)


def read_saved(folder: Path) -> dict[str, Any] | None:
    """The content of the folder's checkpoint; None if there is no checkpoint. Raises ConfigError for one of another version, and
    WeightsError if none can be read."""
    content = load_checkpoint(folder)
    if content is not None and (not isinstance(content, dict) or content.get("format") != FORMAT):
        raise ConfigError(f"{folder / CHECKPOINT}: not a checkpoint of this version; --fresh starts over")
    return content


def resume_run(
    content: Mapping[str, Any], folder: Path, state: TrainingState, samples: int, teacher: Teacher | None, config: Config
) -> Plan:
    """Loads the content of the folder's checkpoint into state and teacher. Returns the plan from there on, whose epochs have
    `samples` samples. Raises ConfigError for a checkpoint of another run."""
    saved = parse_config(content["config"], source=str(folder / CHECKPOINT))
    changes = changes_between(saved, config)
    _check_same_run(folder, changes)
    step: int = content["step"]
    before = Stretch(**{"patch": saved.data.patch} | content["plan"])  # earlier versions had one patch, and did not save it here
    plan = Plan.of(config, samples, before, step)
    if (batch := plan.at(step).batch) != before.batch:
        logger.warning("from step %d on a step takes %d samples, not %d; epochs stay what they are", step, batch, before.batch)
    if step > plan.total_steps:
        ends = f"step {step}, but stages now end at {plan.total_steps}"
        raise ConfigError(f"{folder} holds a checkpoint of {ends}; give more epochs, or --fresh to start over")
    finished = step == plan.total_steps
    if finished:
        _check_nothing_to_train(folder, changes)
    if changes:
        logger.warning("the configuration has changed since the checkpoint: %s", in_words(changes))
    _load(content, state)
    other_teacher = any(key in changes for key in TEACHER_KEYS)
    if any(key.startswith(VALIDATION_KEYS) for key in changes) or _follows_another(content, teacher, config):
        state.best = NONE_YET  # the saved one was measured on other images, or by the distance to another teacher
    if teacher is not None and not other_teacher:
        _load_teacher(content, state, teacher)
    if finished:
        logger.info("%s: the run is finished, and is evaluated again; --fresh starts over", folder)
    else:
        logger.info("going on from step %d of %s", state.step, folder / CHECKPOINT)
        _tell_of_another_rate(content, saved, before, plan, config)
    return plan


def say_if_count_changed(content: Mapping[str, Any], images: Sequence[ImageFile]) -> None:
    """Warns if the checkpoint's run trained on another number of images."""
    # Versions that did not record the number of images read fewer kinds of files.
    count = content.get("images", sum(image.path.suffix.lower() in ALWAYS_READ for image in images))
    if count != len(images):
        logger.warning("the run goes on with %d training images, not the %d of its checkpoint", len(images), count)


def _tell_of_another_rate(content: Mapping[str, Any], saved: Config, before: Stretch, plan: Plan, config: Config) -> None:
    """Warns if the learning rate of the next step is not what the saved run would have had there: with a cosine that now ends
    later, it jumps."""
    step, stage = content["step"], plan.stage_at(content["step"])
    stages = [stage for stage in saved.stages for _ in range(stage.epochs)]
    # Earlier versions did not save the number of steps. Their runs had steps of one size.
    total = content.get("total_steps", before.begin_of(len(stages)))

    def rate_before(step: int) -> float:
        epoch = min(before.epoch_at(step), len(stages) - 1)
        return learning_rate(saved.optimizer, step, total, stages[epoch].lr)

    rate = learning_rate(config.optimizer, step, plan.total_steps, stage.lr)
    if step > 0 and rate != rate_before(step):
        logger.warning(
            "from step %d on the learning rate is %.3g; in the step before it was %.3g", step, rate, rate_before(step - 1)
        )


def _load(content: Mapping[str, Any], state: TrainingState) -> None:
    state.student.load_state_dict(content["student"])
    if state.ema is not None:
        # If the checkpoint has no moving average, the average starts from the student's weights.
        state.ema.load_state_dict(content["ema"] or content["student"])
    state.optimizer.load_state_dict(content["optimizer"])
    if content["scaler"]:  # {} if the run did not use fp16
        state.scaler.load_state_dict(content["scaler"])
    state.step, state.validated_step = content["step"], content["validated_step"]
    measure, value = content["best"] if "best" in content else ("psnr", content["best_psnr"])  # as earlier versions wrote it
    state.best = (measure, value)


def _follows_another(content: Mapping[str, Any], teacher: Teacher | None, config: Config) -> bool:
    """Whether students are ranked by how close they come to a teacher that is not the checkpoint's."""
    if config.data.val.has_sharp or teacher is None:
        return False
    return bool(content.get("teacher") != identify(teacher).model_dump())


def _load_teacher(content: Mapping[str, Any], state: TrainingState, teacher: Teacher) -> None:
    state.teacher_failed.fill_(content["teacher_failed"])
    if content["teacher_failed"] > 0 and content["teacher_in_full_precision"]:
        teacher.use_precision("fp32")
        logger.info("the teacher goes on in fp32, as before")


def changes_between(saved: Config, config: Config) -> dict[str, tuple[Any, Any]]:
    """{dotted key: (saved value, value now)} of the keys that differ."""
    before, now = _flatten(saved.model_dump(mode="json")), _flatten(config.model_dump(mode="json"))
    return {key: (old, new) for key in sorted(before.keys() | now.keys()) if (old := before.get(key)) != (new := now.get(key))}


def in_words(changes: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{key}: {old} is now {new}" for key, (old, new) in changes.items())


def _check_same_run(folder: Path, changes: dict[str, tuple[Any, Any]]) -> None:
    """Raises ConfigError for changes that make the checkpoint meaningless: `run.seed`, and `student` except `student.compile`.
    All other changes take effect, and a warning names them."""
    fatal = {k: v for k, v in changes.items() if k == "run.seed" or (k.startswith("student.") and k != "student.compile")}
    if fatal:
        raise ConfigError(
            f"{folder} holds a checkpoint of another run ({in_words(fatal)}); give another run.dir, or --fresh to start over"
        )


def _check_nothing_to_train(folder: Path, changes: dict[str, tuple[Any, Any]]) -> None:
    """Raises ConfigError for changes that would have trained another student: the run is finished and would ignore them. Changes
    in how it is evaluated are allowed."""
    ignored = {k: v for k, v in changes.items() if not k.startswith(BESIDE_TRAINING)}
    if ignored:
        raise ConfigError(
            f"{folder} holds a finished run, and would train nothing with {in_words(ignored)}; give another run.dir, or --fresh"
            " to start over"
        )


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for key, inner in tree.items() for k, v in _flatten(inner, f"{prefix}.{key}" if prefix else key).items()}
