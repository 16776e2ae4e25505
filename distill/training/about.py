"""The `about` entries of a student file: the run that trained it, its scores, and the licence of its teacher's weights."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PureWindowsPath
from typing import Any

from torch import nn

from distill.config import Config, RestormerConfig, UNetConfig, load_config
from distill.networks.architecture import architecture, describe_network
from distill.networks.student_files import About, read_about
from distill.scoring.evaluation import Evaluation
from distill.training.run_folder import CONFIG
from restormer.published import licence_note
from restormer.weight_files import WeightsError

PROJECT = "online-distill"
UNKNOWN = "not known; ask whoever trained these weights"


def about_training(config: Config, step: int, stage: str, evaluation: Evaluation | None) -> dict[str, str | int | float]:
    """The `about` entries of a student after `step` updates. `stage` is the stage of the last update.

    They are the entries of `about_config`, `step` and `stage`. An `evaluation` of this student adds the number of images as
    `validation_images`, and its means, such as `validation_student_psnr` in dB.
    """
    about = about_config(config) | {"step": step, "stage": stage}
    if evaluation is not None:
        about["validation_images"] = len(evaluation.images) + len(evaluation.fidelity)
        about |= {f"validation_{name}": value for name, value in evaluation.summary().items()}
    return about


def about_config(config: Config) -> dict[str, str | int | float]:
    """The `about` entries that need only the configuration: `project` and `config`; `teacher` and `teacher_licence` if a stage
    learns from a teacher; `init` and `init_licence` if `student.init` is set."""
    about: dict[str, str | int | float] = {"project": project(), "config": config.model_dump_json()}
    if config.learns_from_teacher:
        about |= {"teacher": config.teacher.weights, "teacher_licence": licence(config.teacher.weights)}
    if config.student.init is not None:
        about |= {"init": config.student.init, "init_licence": licence(config.student.init)}
    return about


def without_folders(about: About) -> dict[str, str | int | float]:
    """The same for a file that leaves this machine: of each path, only its last part."""
    shared = dict(about) | {key: _last_part(about[key]) for key in ("teacher", "init") if key in about}
    if "config" in shared:
        shared["config"] = json.dumps(_last_part(json.loads(str(shared["config"]))))
    return shared


def _last_part(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _last_part(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_last_part(inner) for inner in value]
    return PureWindowsPath(value).name if isinstance(value, str) else value  # which takes both kinds of slashes


def project() -> str:
    """This project's name, and its version if the package is installed."""
    try:
        return f"{PROJECT} {version(PROJECT)}"
    except PackageNotFoundError:  # not installed, but run from its source folder
        return PROJECT


@cache  # a teacher's file is large, and every validation needs its licence
def licence(weights: str) -> str:
    """The licence of weights given by name or file. A student file may record the licences of the weights it learned from; those
    are then returned. UNKNOWN if no licence is known."""
    known = licence_note(weights)
    if known is not None:
        return known
    try:
        about = read_about(Path(weights))
    except (FileNotFoundError, WeightsError):  # a finished run's weights may have been deleted since
        return UNKNOWN
    notes = {str(value) for key, value in about.items() if key.endswith("_licence")}
    return "; ".join(sorted(notes)) or UNKNOWN


def about_file(weights: Path, model: nn.Module, said: About) -> dict[str, str | int | float]:
    """The `about` entries of a file's network: the file's own entries, `said`, if it has any.

    Otherwise `weights_licence` if `licence_note` recognises the weights. Otherwise the entries of the configuration in the file's
    folder, if that configuration describes this network. Otherwise {}. Raises ConfigError if the configuration cannot be read.
    """
    if said:
        return dict(said)
    config_file = weights.parent / CONFIG
    if licence_note(str(weights)) is None and config_file.is_file():
        config = load_config(config_file)
        if _describes(config.student, model):
            return about_config(config)
    note = licence_note(str(weights))
    return {} if note is None else {"weights_licence": note}


def _describes(student: UNetConfig | RestormerConfig, model: nn.Module) -> bool:
    arch, keywords = describe_network(model)
    asked = architecture(student)
    return arch == student.arch and all(keywords[key] == value for key, value in asked.items())
