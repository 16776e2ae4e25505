"""The runs of a study: one configuration for each variant and seed, checked before any of them starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from distill.config import Config, ConfigError, StudyConfig, ValidationSet, Variant, load_config
from distill.training.run_folder import EVALUATION, stage_file


@dataclass(frozen=True)
class Member:
    """One run of a study."""

    variant: Variant
    seed: int
    config: Config

    @property
    def title(self) -> str:
        """How messages name the run."""
        return f"variant {self.variant.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        return Path(self.config.run.dir)

    @property
    def student(self) -> Path:
        """The student at the end of the last stage: the one that is scored."""
        return self.folder / stage_file(self.config.stages[-1].name)

    @property
    def finished(self) -> bool:
        """Whether `distill.train` has come to its end, which it marks with the table of its evaluation."""
        return (self.folder / EVALUATION).is_file()


def variant_configs(study: StudyConfig) -> dict[str, Config]:
    """Each variant's configuration, by the variant's name. Raises FileNotFoundError, and ConfigError that names the variant."""
    configs = {}
    for variant in study.variants:
        try:
            configs[variant.name] = in_one_precision(load_config(study.base, [*study.set, *variant.set]))
        except ConfigError as error:
            raise ConfigError(f"variant {variant.name}: {error}") from None
    return configs


def in_one_precision(config: Config) -> Config:
    """The configuration with fp32 for `auto` if it runs on a CPU: there each run would choose by its own timing, and runs of
    different precision would be compared."""
    if config.run.device != "cpu" and (config.run.device != "auto" or torch.cuda.is_available()):
        return config
    teacher, optimizer = config.teacher, config.optimizer
    if teacher.precision == "auto" and teacher.mode != "cached":
        teacher = teacher.model_copy(update={"precision": "fp32"})
    if optimizer.amp == "auto":
        optimizer = optimizer.model_copy(update={"amp": "off"})
    return config.model_copy(update={"teacher": teacher, "optimizer": optimizer})


def members(study: StudyConfig, configs: Mapping[str, Config]) -> list[Member]:
    """All runs of the study, variant by variant. `configs` are the variants' configurations, lengthened or shortened if the study
    matches times. A variant that has none is left out, and so are those that begin with its student. All runs are validated on
    the same images, because `eval.seed` does not vary."""
    found: list[Member] = []
    for variant in study.variants:
        if variant.name not in configs or variant.after not in {None, *(member.variant.name for member in found)}:
            continue
        config = configs[variant.name]
        for seed in study.seeds:
            run = config.run.model_copy(update={"dir": str(Path(study.dir) / variant.name / f"seed_{seed}"), "seed": seed})
            evaluation = config.eval.model_copy(
                update={"seed": config.run.seed if config.eval.seed is None else config.eval.seed}
            )
            student = config.student
            if variant.after is not None:
                (before,) = (other for other in found if other.variant.name == variant.after and other.seed == seed)
                student = student.model_copy(update={"init": str(before.student)})
            found.append(Member(variant, seed, config.model_copy(update={"run": run, "eval": evaluation, "student": student})))
    return found


def validation_config(study: StudyConfig, validation: ValidationSet) -> Config:
    """The configuration whose `data.val`, `degrade` and `eval` say what students are scored on. Raises ConfigError that names the
    set."""
    try:
        return load_config(study.base, [*study.set, *validation.set])
    except ConfigError as error:
        raise ConfigError(f"validation {validation.name}: {error}") from None
