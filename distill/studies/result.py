"""What a study found: means, paired differences and costs, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean

from distill.config import StudyConfig
from distill.reporting.reading import read_run
from distill.scoring.evaluation import ROWS, mean_score
from distill.studies.matching import TOLERANCE, Pilot, trained_s
from distill.studies.members import Member, validation_config
from distill.studies.scores import read_scores
from distill.studies.statistics import Difference, Scores, difference

MEASURES = ("psnr", "ssim")
DECIMALS = {"psnr": 2, "ssim": 4}
# An interval of fewer images says little about other images.
FEW_IMAGES = 10


@dataclass(frozen=True)
class Outcome:
    """A variant on one validation set."""

    means: dict[str, dict[str, float]]
    """{`blurry`, `teacher` or `student`: {`psnr`, `ssim`: mean over seeds and images}}"""
    differences: dict[str, Difference]
    """To the first variant, by measure; empty for the first variant itself."""
    verdict: str
    """What follows from the differences in PSNR, and what does not."""
    to_teacher: bool = False
    """Whether the images have no sharp ones, so that all scores are those to the teacher's images."""
    images: int = 0
    """On how many images."""


@dataclass(frozen=True)
class Cost:
    """What a run of a variant takes, the mean over its finished seeds."""

    minutes: float
    """Training alone, without validations."""
    teacher_share: float | None
    """The share of that time that is the teacher's. None if no teacher runs in the loop, or if the share cannot be measured."""
    teacher_runs: bool
    """Whether a teacher runs in the loop."""
    megabytes: float
    """The run folder, and the cache of teacher images that it reads."""
    before_minutes: float = 0.0
    """Training time of the variants whose student this one began with, which comes on top."""
    steps: int = 0
    longer: float = 0.0
    """In a study that matches times: by how much longer than the first variant it trained, as a share."""

    @property
    def off_match(self) -> bool:
        return abs(self.longer) > TOLERANCE


@dataclass(frozen=True)
class VariantResult:
    name: str
    set: list[str]
    after: str | None
    """The variant whose student this one began with."""
    seeds: list[int]
    """Those that are finished."""
    cost: Cost | None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By validation set."""


@dataclass(frozen=True)
class StudyResult:
    name: str
    """Of the study's folder."""
    base: str
    set: list[str]
    """What all variants share."""
    match: str
    minutes: float | None
    seeds: list[int]
    validation: dict[str, list[str]]
    """The overrides of each validation set, by its name."""
    variants: list[VariantResult]
    failures: list[str]
    """One line for each run that ended with an error."""

    def to_json(self) -> str:
        text = json.dumps(asdict(self))
        # JSON has no infinity, which PSNR has for equal images.
        return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=1) + "\n"


def collect(study: StudyConfig, runs: Sequence[Member], pilots: Mapping[str, Pilot], failures: Sequence[str]) -> StudyResult:
    """The result of all runs that are finished and scored."""
    finished = {v.name: [run for run in runs if run.variant is v and run.finished] for v in study.variants}
    costs = dict[str, Cost | None]()
    for variant in study.variants:
        before = costs[variant.after] if variant.after is not None else None
        costs[variant.name] = _cost(finished[variant.name], pilots.get(variant.name), before)
    first = study.variants[0].name
    if study.match == "time":
        costs = {name: _marked(cost, costs[first]) for name, cost in costs.items()}
    results = []
    for variant in study.variants:
        outcomes = {}
        for validation in study.validation:
            scores, reference = (read_scores(finished[name], validation) for name in (variant.name, first))
            if scores:
                to_teacher = not validation_config(study, validation).data.val.has_sharp
                outcomes[validation.name] = _outcome(scores, reference if variant.name != first else None, to_teacher)
        seeds = [member.seed for member in finished[variant.name]]
        results.append(VariantResult(variant.name, variant.set, variant.after, seeds, costs[variant.name], outcomes))
    return StudyResult(
        Path(study.dir).name,
        study.base,
        study.set,
        study.match,
        study.minutes,
        study.seeds,
        {validation.name: validation.set for validation in study.validation},
        results,
        list(failures),
    )


def _outcome(scores: dict[int, Scores], reference: dict[int, Scores] | None, to_teacher: bool) -> Outcome:
    means, images = {}, max(map(len, scores.values()))
    for row in ROWS:
        tables = [mean for table in scores.values() if (mean := mean_score(table.values(), row)) is not None]
        if tables:
            means[row] = {m: fmean(getattr(mean, m) for mean in tables) for m in MEASURES}
    if reference is None:
        return Outcome(means, {}, "The others are compared with this one.", to_teacher, images)
    pairs = {measure: difference(scores, reference, measure) for measure in MEASURES}
    differences = {measure: value for measure, value in pairs.items() if value is not None}
    return Outcome(means, differences, verdict(differences.get("psnr"), to_teacher), to_teacher, images)


def verdict(found: Difference | None, to_teacher: bool = False) -> str:
    """What a difference in PSNR, in dB, says and what it does not say. `to_teacher`: it is the PSNR to the teacher's images,
    which says nothing about which image is the better one."""
    if found is None:
        return "Nothing to compare: no seed is finished in both."
    seeds = len(found.by_seed)
    about = "One seed says nothing of another training run. " if seeds == 1 else ""
    if 0 < found.images < FEW_IMAGES:
        about += f"{found.images} image{'s' if found.images > 1 else ''} cannot stand for others. "
    if found.mean == found.low == found.high:
        return (
            f"{about}Their scores are the same on every image."
            if found.mean == 0
            else f"{about}{found.mean:+.2f} dB on every image."
        )
    if found.excludes_zero:
        low, high = sorted((abs(found.low), abs(found.high)))
        size = f"{abs(found.mean):.2f} dB ({low:.2f} to {high:.2f})"
        signs = {value > 0 for value in found.by_seed.values()}
        seed_note = "" if len(signs) == 1 else " Not every seed agrees."
        better, worse = ("Closer to the teacher", "Farther from the teacher") if to_teacher else ("Better", "Worse")
        return f"{about}{better if found.mean > 0 else worse} by {size}.{seed_note}"
    worse, better = ("farther from the teacher", "closer") if to_teacher else ("worse", "better")
    may_be = f"it may be {abs(found.low):.2f} dB {worse} or {found.high:.2f} dB {better}"
    return f"{about}No difference could be shown: {may_be}."


def _cost(finished: Sequence[Member], pilot: Pilot | None, before: Cost | None) -> Cost | None:
    if not finished:
        return None
    seconds = [trained_s(read_run(member.folder)) for member in finished]
    config = finished[0].config
    size = fmean(_bytes_below(member.folder) for member in finished)
    if config.teacher.mode == "cached":
        size += _bytes_below(Path(config.teacher.cache))
    share = None if pilot is None else pilot.teacher_share(config)
    runs = config.teacher.mode == "online" and config.learns_from_teacher
    before_minutes = 0.0 if before is None else before.minutes + before.before_minutes
    steps = max(read_run(member.folder).last_step for member in finished)
    return Cost(fmean(seconds) / 60, share, runs, size / 1e6, before_minutes, steps)


def _bytes_below(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process may be writing there
            size += path.stat().st_size if path.is_file() else 0
    return size


def _marked(cost: Cost | None, reference: Cost | None) -> Cost | None:
    if cost is None or reference is None:
        return cost
    return replace(cost, longer=cost.minutes / reference.minutes - 1 if reference.minutes else 0.0)
