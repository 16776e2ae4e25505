"""Compares variants of a configuration at equal cost: `python -m distill.study --config configs/study_smoke.yaml`.

Trains every variant with every seed, scores all students on the same images, and says how far each variant is from the first one.
Run again, it goes on: what is finished stays.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path

from distill.command import SignalGate, new_parser, run_command
from distill.config import Config, ConfigError, StudyConfig, load_study
from distill.errors import UserError
from distill.runtime.files import locked, write_bytes
from distill.studies.markdown import to_markdown
from distill.studies.matching import PILOTS, Pilot, match_times, measure
from distill.studies.members import Member, members, variant_configs
from distill.studies.page import render
from distill.studies.processes import RunFailedError, Trainers, check_unchanged, train_all
from distill.studies.result import StudyResult, collect
from distill.studies.scores import ScoreBoard

logger = logging.getLogger(__name__)

JSON, MARKDOWN, PAGE = "study.json", "study.md", "study.html"
EXAMPLE = """example:
  python -m distill.study --config configs/study_smoke.yaml

Writes study.json, study.md and the page study.html beside the run folders. If a run fails, the others go on, and the exit
status is 2."""


def run_study(study: StudyConfig, jobs: int = 1) -> StudyResult:
    """Trains, scores and compares what is not finished yet, and writes the result into `dir`.

    Raises UserError, FileNotFoundError and WeightsError for what the user can mend: for wrong overrides before anything is
    trained. A run that fails is in the result.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs: 1 or more, found {jobs}")
    if study.only:
        study = study.model_copy(update={"variants": [variant for variant in study.variants if variant.name in study.only]})
    folder, trainers = Path(study.dir), Trainers(jobs)
    configs, board = variant_configs(study), ScoreBoard(study)
    failures: list[RunFailedError] = []
    with locked(folder):
        pilots = _measure(study, configs, trainers, failures)
        if study.match == "time":
            configs = match_times(study, {name: configs[name] for name in pilots}, pilots)
        runs = members(study, configs)
        check_unchanged(runs)

        def done(member: Member) -> None:
            board.add(member)
            _write(folder, collect(study, runs, pilots, [str(failure) for failure in failures]))
            logger.info("%s: finished", member.title)

        def failed(error: RunFailedError) -> None:
            logger.warning("%s", error)
            failures.append(error)

        train_all(runs, trainers, jobs, done, failed)
        result = collect(study, runs, pilots, [str(failure) for failure in failures])
        _write(folder, result)
    return result


def _measure(
    study: StudyConfig, configs: Mapping[str, Config], trainers: Trainers, failures: list[RunFailedError]
) -> dict[str, Pilot]:
    """All pilots that succeed. One that fails is added to `failures`. Raises RunFailedError if all others are matched with it."""
    pilots: dict[str, Pilot] = {}
    for variant in study.variants:
        try:
            pilots[variant.name] = measure(variant.name, configs[variant.name], Path(study.dir) / PILOTS, trainers.train)
        except RunFailedError as error:
            if study.match == "time" and variant is study.variants[0] and study.minutes is None:
                raise
            logger.warning("%s", error)
            failures.append(error)
    return pilots


def _write(folder: Path, result: StudyResult) -> None:
    write_bytes(folder / JSON, result.to_json().encode())
    write_bytes(folder / MARKDOWN, to_markdown(result).encode())
    write_bytes(folder / PAGE, render(result))


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "study", "Trains variants of a configuration with several seeds, and compares them at equal cost.", EXAMPLE
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the study's YAML file")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override keys of the study, such as seeds=[0,1]",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="runs at a time; each gets its part of the threads (default 1)"
    )
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    SignalGate().install()
    result = run_study(load_study(arguments.config, arguments.set), arguments.jobs)
    print(to_markdown(result))
    if result.failures:
        raise UserError(f"{len(result.failures)} runs failed; they are named above, and the others are finished")


if __name__ == "__main__":
    run_command(main)
