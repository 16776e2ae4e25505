"""Runs of equal training time: a pilot measures each variant's step, and epochs are lengthened or shortened."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from distill.config import Config, StudyConfig
from distill.data.datasets import TrainingPatches
from distill.reporting.reading import RunFolder, number, read_run
from distill.runtime.files import write_bytes
from distill.training.plan import epoch_steps

logger = logging.getLogger(__name__)

PILOTS = "pilots"
# The steps of each stage of a pilot, and how often their speed is logged. The first record of a stage is left out: it holds the
# start of the loader, and the checkpoint that ended the stage before.
PILOT_STEPS, PILOT_LOG_STEPS = 30, 5
# Times further apart than this share are marked in the result.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Pilot:
    """What a pilot run measured."""

    step_s: dict[str, float]
    """Seconds of a training step, by stage."""
    without_teacher_s: dict[str, float] | None = None
    """The same without the teacher's work. None if no teacher runs in the loop."""

    def training_s(self, config: Config, steps_per_epoch: int) -> float:
        """Seconds that the configuration's stages train, validation left out. An epoch has `steps_per_epoch` batches of
        `data.batch`. A stage with a batch of its own takes as many steps as these samples need."""
        images = steps_per_epoch * config.data.batch
        steps = {stage.name: stage.epochs * epoch_steps(images, config.data_of(stage).batch) for stage in config.stages}
        return sum(count * self.step_s[name] for name, count in steps.items())

    def teacher_share(self, config: Config) -> float | None:
        """The share of the training time that is the teacher's, from 0 to 1."""
        if self.without_teacher_s is None:
            return None
        whole, rest = (
            sum(stage.epochs / config.data_of(stage).batch * s[stage.name] for stage in config.stages)
            for s in (self.step_s, self.without_teacher_s)
        )
        return max(0.0, 1 - rest / whole)


def pilot_config(config: Config, folder: Path) -> Config:
    """A run of at least PILOT_STEPS steps in each stage, on the same data, that validates on as little as possible."""
    stages = [stage.model_copy(update={"epochs": 1}) for stage in config.stages]
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"dir": str(folder), "log_steps": PILOT_LOG_STEPS}),
            "data": config.data.model_copy(
                update={"images_per_epoch": PILOT_STEPS * max(data.batch for _, data in config.sizes())}
            ),
            "eval": config.eval.model_copy(update={"images": 1, "crop": 64}),
            "teacher": config.teacher.model_copy(update={"check": "off"}),
            "stages": stages,
        }
    )


def without_teacher(config: Config) -> Config | None:
    """The same configuration without its teacher; None if no teacher runs in the loop, or nothing is left to learn without."""
    if config.teacher.mode != "online" or not config.learns_from_teacher or config.vgg.against == "teacher":
        return None
    if any(source.sharp is None for _, source in config.image_sources()):
        return None
    stages = [stage.model_copy(update={"kd": 0.0, "l1": stage.l1 or 1.0}) for stage in config.stages]
    return config.model_copy(update={"teacher": config.teacher.model_copy(update={"mode": "none", "reuse": 1}), "stages": stages})


def step_seconds(run: RunFolder) -> dict[str, float]:
    """Seconds of a step, by stage: the median over a pilot's records, the first of each stage left out."""
    found: dict[str, list[float]] = {}
    for record in run.of("train"):
        rate = number(record, "images_per_s")
        if rate:
            found.setdefault(str(record["stage"]), []).append(run.batch_of(record) / rate)
    return {stage: median(times[1:] or times) for stage, times in found.items()}


def measure(name: str, config: Config, folder: Path, train: Callable[[str, Config], None]) -> Pilot:
    """Runs a variant's pilot, and a second one without its teacher, or reads what they measured before. `train(title, config)`
    trains; messages name the run by the title.

    The folder's name contains a hash of the configuration: if the configuration changes, a new pilot runs in another folder.
    """
    place = folder / f"{name}-{_digest(config)}"
    record = place / "pilot.json"
    if record.is_file():
        return Pilot(**json.loads(record.read_bytes()))
    times: list[dict[str, float] | None] = []
    for kind, variant in (("as_it_is", config), ("without_teacher", without_teacher(config))):
        if variant is None:
            times.append(None)
            continue
        pilot = pilot_config(variant, place / kind)
        train(f"variant {name}, pilot", pilot)
        times.append(step_seconds(read_run(Path(pilot.run.dir))))
    assert times[0] is not None
    found = Pilot(times[0], times[1])
    write_bytes(record, json.dumps(asdict(found), indent=1).encode())
    return found


def _digest(config: Config) -> str:
    """A short hash of everything that a pilot depends on."""
    # Without defaults, so that a key that a later version adds leaves the digest as it is.
    text = pilot_config(config, Path("pilot")).model_dump_json(exclude_defaults=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def match_times(study: StudyConfig, configs: Mapping[str, Config], pilots: Mapping[str, Pilot]) -> dict[str, Config]:
    """The variants' configurations with epochs of such a length that all train equally long: `minutes`, or as long as the first
    variant's stages take. Warm-up, milestones and restarts are scaled alike, and the number of validations stays the same."""
    steps = {name: epoch_steps(len(TrainingPatches(config)), config.data.batch) for name, config in configs.items()}
    first = study.variants[0].name
    target = 60 * study.minutes if study.minutes is not None else pilots[first].training_s(configs[first], steps[first])
    matched = {}
    for name, config in configs.items():
        factor = target / pilots[name].training_s(config, steps[name])
        matched[name] = scaled(config, steps[name], factor)
        rounded = matched[name].data.images_per_epoch or 0
        exact = factor * steps[name] * config.data.batch
        if abs(rounded / exact - 1) > TOLERANCE:
            logger.warning(
                "variant %s: an epoch of whole steps makes its training time %+.0f %% of the others'; give fewer epochs, or more"
                " minutes",
                name,
                100 * (rounded / exact - 1),
            )
    return matched


def scaled(config: Config, steps_per_epoch: int, factor: float) -> Config:
    """The configuration with `factor` times as many steps in each epoch, at least one."""
    steps = max(1, round(steps_per_epoch * factor))
    schedule = config.optimizer

    def longer(count: int) -> int:
        return round(count * steps / steps_per_epoch)

    update = {
        "warmup_steps": longer(schedule.warmup_steps),
        "milestones": sorted({max(1, longer(step)) for step in schedule.milestones}),
        "restart_steps": None if schedule.restart_steps is None else max(1, longer(schedule.restart_steps)),
    }
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"images_per_epoch": steps * config.data.batch}),
            "optimizer": schedule.model_copy(update=update),
        }
    )


def trained_s(run: RunFolder) -> float:
    """Seconds that a run trained, validations and pauses left out: the mean time of a recorded step, times the number of all
    steps, because a run that was stopped has steps without a record."""
    total, covered, before = 0.0, 0, 0
    for record in run.records:
        rate = number(record, "images_per_s")
        if record.get("kind") == "train" and rate:
            total += (record["step"] - before) * run.batch_of(record) / rate
            covered += record["step"] - before
        before = max(before, record["step"])
    return total * before / covered if covered else 0.0
