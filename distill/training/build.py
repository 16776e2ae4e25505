"""Building a run from its configuration: images, networks, cache and state, checked before the first step."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.config import Config, ConfigError, TeacherConfig
from distill.config.types import Precision
from distill.data.batch import Batch
from distill.data.datasets import TrainingPatches
from distill.data.image_files import warn_of_16_bits
from distill.data.loader import training_loader
from distill.data.sources import Source, cached_images, paired_with_itself, training_sources
from distill.networks.fast_teacher import speed_up_for_training
from distill.networks.student import build_student
from distill.networks.teacher import Teacher, build_teacher
from distill.networks.vgg import VggFeatures
from distill.runtime.ranks import Ranks
from distill.scoring.half_precision import Precisions, choose_precisions, known_precisions
from distill.scoring.teacher_check import check_teacher
from distill.scoring.validation import Validation
from distill.teacher_cache.online_filler import OnlineFiller
from distill.teacher_cache.opening import cached_precision, open_for_training
from distill.training.plan import Plan
from distill.training.resume import resume_run, say_if_count_changed
from distill.training.run_folder import ROW_PICTURES, row_picture_file
from distill.training.state import TrainingState, continue_optimizer, new_training_state

logger = logging.getLogger(__name__)

# Number of validation images with a sharp one, and of those without, on which the teacher is checked.
CHECK_IMAGES = 4


@dataclass(frozen=True)
class Run:
    """Everything that a configuration describes, built and checked."""

    config: Config
    precisions: Precisions
    ranks: Ranks
    dataset: TrainingPatches
    teacher: Teacher | None
    filler: OnlineFiller | None
    """Computes the teacher images that a cache lacks."""
    vgg: VggFeatures | None
    state: TrainingState
    validation: Validation
    continued: str | None
    """A sentence for the log if Adam's moments were loaded from `student.init`, else None."""

    @property
    def folder(self) -> Path:
        return Path(self.config.run.dir)

    @property
    def computes_in(self) -> str:
        """The precisions in words, such as `student in fp32, teacher in bf16`."""
        amp = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.state.amp_dtype]
        return f"student in {amp}" + ("" if self.teacher is None else f", teacher in {self.teacher.precision}")


def check_shares(config: Config, ranks: Ranks) -> None:
    """Raises ConfigError if a batch cannot be divided evenly among the ranks, and each rank's share into `optimizer.accumulate`
    equal parts, or if several ranks would fill a teacher cache while training."""
    accumulate = config.optimizer.accumulate
    for key, sized in config.sizes():
        if sized.batch % (ranks.count * accumulate):
            parts = f" in {accumulate} parts (optimizer.accumulate)" if accumulate > 1 else ""
            raise ConfigError(f"{key}: {sized.batch} samples cannot be divided evenly among {ranks.count} processes{parts}")
    if ranks.count > 1 and config.teacher.mode == "cached" and config.teacher.on_missing == "compute":
        raise ConfigError(
            f"teacher.on_missing: compute fills a cache from one process, and there are {ranks.count}; fill it first, with"
            " python -m distill.cache under the same torchrun"
        )


def build_run(config: Config, device: torch.device, ranks: Ranks, saved: Mapping[str, Any] | None) -> Run:
    """Builds and checks the run. `saved` is the content of the checkpoint that it resumes from. If it is None, the run begins:
    `student.init`, if set, is loaded, and precisions are chosen.

    Raises UserError, FileNotFoundError and WeightsError for what the user can mend.
    """
    sources = training_sources(config.data)
    warn_of_16_bits([image.path for source in sources for image in source.images or []])
    _refuse_self_pairs(sources, config)
    for index, stage in enumerate(config.stages):
        if stage.l1 > 0 and not config.data.has_sharp:
            logger.info("stages.%d.l1 has no effect: no training image has a sharp one", index)
    start = config.student if saved is None else config.student.model_copy(update={"init": None})
    precisions = ranks.broadcast(lambda: known_precisions(config, saved, _cached_precision(config.teacher), device))
    with ranks.first_of_node_first():
        teacher = build_teacher(precisions.applied(config).teacher, device)
        vgg = VggFeatures(config.vgg).to(device) if any(stage.vgg > 0 for stage in config.stages) else None
        student = build_student(start, config.run.seed)
    validation = Validation(config, teacher, device, ranks)
    pairs = _some_pairs(validation)
    precisions = choose_precisions(precisions, config.sized_for(config.stages[0]), teacher, student, pairs, ranks)
    reader, filler = None, None
    if config.teacher.mode == "cached":
        assert teacher is not None
        images = cached_images(config.data)
        reader, filler = open_for_training(config.teacher, config.data, teacher, images, device)
    state = new_training_state(student, precisions.applied(config).optimizer, device, ranks)
    continued = continue_optimizer(state.optimizer, state.student, start)
    _check_teacher(teacher, pairs, config)
    dataset = TrainingPatches(config, sources, reader)
    return Run(config, precisions, ranks, dataset, teacher, filler, vgg, state, validation, continued)


def _cached_precision(teacher: TeacherConfig) -> Precision | None:
    return cached_precision(teacher) if teacher.mode == "cached" else None


def _refuse_self_pairs(sources: Sequence[Source], config: Config) -> None:
    """Raises ConfigError if a blurry image is its own sharp one, and a stage would learn from it to change nothing."""
    if not any(stage.l1 > 0 or (stage.vgg > 0 and config.vgg.against == "sharp") for stage in config.stages):
        return
    for source in sources:
        if (path := paired_with_itself(source.images or [])) is not None:
            raise ConfigError(
                f"data: {path} is its own sharp image, from which a student learns to change nothing; give the folder of sharp"
                " images, or sharp: null if nobody has them"
            )


def _some_pairs(validation: Validation) -> list[tuple[Tensor, Tensor | None]]:
    """A few validation images with a sharp one, and a few of those without: (blurry, sharp), (1, 3, H, W) each. Raises ImageError
    if no validation image can be used: the run must then fail before the first step."""
    kinds = (islice(validation.pairs(has_sharp), CHECK_IMAGES) for has_sharp in (True, False))
    return [(blurry, sharp) for _, blurry, sharp in chain(*kinds)]


def _check_teacher(teacher: Teacher | None, pairs: Sequence[tuple[Tensor, Tensor | None]], config: Config) -> None:
    if teacher is None or config.teacher.check == "off" or not config.learns_from_teacher:
        return
    result = check_teacher(teacher, pairs)
    half = "" if result.half_error is None else f", half precision changes its correction by {result.half_error:.2%}"
    picture = Path(config.run.dir) / ROW_PICTURES / row_picture_file(0) if any(sharp is None for _, sharp in pairs) else None
    logger.info("teacher check: %s%s", result.in_words(picture), half)
    complaint = result.complaint()
    if complaint is not None and config.teacher.check == "error":
        raise ConfigError(f"teacher.check: {complaint}")
    if complaint is not None:
        logger.warning("WARNING: %s", complaint)


def load_checkpoint_or_start(run: Run, saved: Mapping[str, Any] | None) -> Plan:
    """Loads a checkpoint's content, if there is one, into the run's state. Returns the plan of the resumed or new run."""
    config = run.config
    if saved is not None:
        say_if_count_changed(saved, run.dataset.images)
        return resume_run(saved, run.folder, run.state, len(run.dataset), run.teacher, config)
    if run.continued is not None:
        logger.info("student.init: %s", run.continued)
    return Plan.of(config, len(run.dataset))


def speed_up_networks(run: Run, plan: Plan) -> None:
    """Builds the fast forms of teacher and student, which takes time. Call this after the checkpoint is loaded: if the checkpoint
    does not fit the run, the run should fail first."""
    speed_up_teacher(run, plan)
    if run.config.student.compile:
        run.state.student.compile()


def speed_up_teacher(run: Run, plan: Plan) -> None:
    """Builds the fast form of the teacher for the patches of the next step, if its stage asks the teacher. It replaces the one
    for other patches."""
    config, step = run.config, run.state.step
    if run.teacher is None or config.teacher.mode != "online" or step == plan.total_steps:
        return
    if (stage := plan.stage_at(step)).needs_target(config.vgg):
        speed_up_for_training(run.teacher, config.sized_for(stage), run.ranks)


def remaining_batches(run: Run, plan: Plan, pin: bool) -> Generator[Batch]:
    """This rank's part of every batch that is loaded from the current step to the last. `pin` puts the batches into pinned
    memory. Patches of another size come from another set of workers."""
    for load in plan.loads_from(run.state.step):
        dataset = run.dataset.sized(load.patch, load.batch)
        yield from training_loader(dataset, load.position, load.batches, pin, run.ranks.rank, run.ranks.count)
