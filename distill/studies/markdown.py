"""A study's result in words and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from distill.studies.matching import TOLERANCE
from distill.studies.result import DECIMALS, MEASURES, Cost, StudyResult
from distill.studies.statistics import Difference


def to_markdown(result: StudyResult) -> str:
    """What was compared, a table for each validation set, and what follows."""
    sets = list(dict.fromkeys(name for variant in result.variants for name in variant.outcomes))
    return _head(result) + "\n".join(_table(result, name) for name in sets) + _foot(result)


def lead(result: StudyResult) -> str:
    """What was compared, in a few sentences."""
    minutes = f"about {result.minutes:g} minutes" if result.minutes is not None else "about as long as the first"
    seeds = f"{len(result.seeds)} random seed{'s' if len(result.seeds) > 1 else ''}"
    length = minutes if result.match == "time" else "as many steps as its stages say"
    return (
        f"{len(result.variants)} variants of {result.base}, each trained for {length} with {seeds}, and scored"
        f" on the same images. Each is compared with {result.variants[0].name}, seed by seed and image by image."
    )


def settings(result: StudyResult) -> dict[str, str]:
    """What was trained and what it was scored on, as overrides of the base configuration."""
    shared = {"all variants": ", ".join(result.set)} if result.set else {}
    variants = {}
    for variant in result.variants:
        after = [f"begins with the student of {variant.after}"] if variant.after is not None else []
        variants[variant.name] = ", ".join([*after, *variant.set]) or "nothing more"
    scored = {f"scored on {name}": ", ".join(overrides) for name, overrides in result.validation.items() if overrides}
    return shared | variants | scored


def _head(result: StudyResult) -> str:
    lines = [f"## Study {result.name}", "", lead(result), ""]
    lines += [f"- {name}: {overrides}" for name, overrides in settings(result).items()]
    lines += [
        "",
        "Scores are means over seeds and images; more is better. `(blurry)` is the input, `(teacher)` the teacher's images.",
        f"`difference` is to {result.variants[0].name} in PSNR, with its 95 % interval, and `by seed` that of each seed.",
        "`time` is the training of one run without validation, `in teacher` the share of it that the teacher takes (`?`: it",
        "could not be measured), `disk` the run folder and the cache that it reads.",
        "",
    ]
    return "\n".join(lines) + "\n"


def _table(result: StudyResult, validation: str) -> str:
    first = result.variants[0]
    base = first.outcomes.get(validation)
    of = " to the teacher's images" if base is not None and base.to_teacher else ""
    heads = ["variant", "seeds", f"PSNR in dB / SSIM{of}", "difference", "by seed", "time", "in teacher", "disk"]
    rows = [f"### {heading(result, validation)}", "", f"| {' | '.join(heads)} |", "|---|---|---|---|---|---|---|---|"]
    for name in ("blurry", "teacher"):
        if base is not None and name in base.means:
            rows.append(f"| ({name}) | | {show_scores(base.means[name])} | | | | | |")
    for variant in result.variants:
        outcome = variant.outcomes.get(validation)
        if outcome is None:
            continue
        found = outcome.differences.get("psnr")
        cells = [
            variant.name,
            str(len(variant.seeds)),
            show_scores(outcome.means["student"]),
            show_interval(found, DECIMALS["psnr"]),
            show_seeds(found),
            *cost_cells(variant.cost),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    rows.append("")
    for variant in result.variants[1:]:
        if (outcome := variant.outcomes.get(validation)) is not None:
            rows.append(f"- {variant.name}: {outcome.verdict}")
    return "\n".join(rows) + "\n"


def heading(result: StudyResult, validation: str) -> str:
    """The name of a validation set, and on how many images the first variant was scored."""
    first = result.variants[0].outcomes.get(validation)
    return validation if first is None else f"{validation}: {first.images} image{'s' if first.images != 1 else ''}"


def cost_cells(cost: Cost | None) -> list[str]:
    if cost is None:
        return ["", "", ""]
    time = f"{cost.minutes:.1f} min" + (f" ({cost.longer:+.0%}!)" if cost.off_match else "") + f", {cost.steps} steps"
    time += f", after {cost.before_minutes:.1f} min" if cost.before_minutes else ""
    share = f"{cost.teacher_share:.0%}" if cost.teacher_share is not None else "?" if cost.teacher_runs else ""
    return [time, share, f"{cost.megabytes:.1f} MB"]


def show_scores(means: Mapping[str, float]) -> str:
    return " / ".join(f"{means[measure]:.{DECIMALS[measure]}f}" for measure in MEASURES)


def show_interval(found: Difference | None, digits: int) -> str:
    return "" if found is None else f"{found.mean:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"


def show_seeds(found: Difference | None) -> str:
    """Each seed's own difference in PSNR."""
    return "" if found is None else ", ".join(f"{value:+.2f}" for value in found.by_seed.values())


def _foot(result: StudyResult) -> str:
    lines: list[str] = []
    if any(variant.cost is not None and variant.cost.off_match for variant in result.variants):
        lines.append(off_note(result))
    lines += [f"Failed: {failure}" for failure in result.failures]
    return "".join(f"\n{line}\n" for line in lines)


def off_note(result: StudyResult) -> str:
    """What the exclamation mark in `cost_cells` means."""
    return f"(!): trained more than {TOLERANCE:.0%} longer or shorter than {result.variants[0].name}."
