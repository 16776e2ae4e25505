"""The page of a study: one HTML file without scripts, in the manner of a report, which fetches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from distill.reporting.page import TEMPLATE as REPORT_TEMPLATE
from distill.reporting.page import csp_hash
from distill.studies.markdown import cost_cells, heading, lead, off_note, settings, show_interval, show_scores, show_seeds
from distill.studies.result import DECIMALS, MEASURES, StudyResult, VariantResult
from distill.studies.statistics import Difference

TEMPLATE = files("distill.studies") / "template"
# Room beyond the outermost values of a strip, as a share of their range.
MARGIN = 0.06


def render(result: StudyResult) -> bytes:
    """The HTML file. Names come from files that anybody may have written: all are escaped, and no script would run."""
    style = (REPORT_TEMPLATE / "report.css").read_text("utf-8") + (TEMPLATE / "study.css").read_text("utf-8")
    sets = list(dict.fromkeys(name for variant in result.variants for name in variant.outcomes))
    parts = [
        _head(result),
        *(_section(result, name, number) for number, name in enumerate(sets)),
        _costs(result),
        _settings(result),
    ]
    page = Template((TEMPLATE / "study.html").read_text("utf-8"))
    title = f"Study {result.name}"
    filled = page.substitute(title=escape(title), style=style, style_hash=csp_hash(style), content="\n".join(parts))
    return filled.encode()


def _head(result: StudyResult) -> str:
    notes = "".join(f'<p class="callout warning"><strong>Failed.</strong> {escape(failure)}</p>' for failure in result.failures)
    missing = [variant for variant in result.variants if len(variant.seeds) < len(result.seeds)]
    if missing:
        listed = ", ".join(f"{variant.name} ({len(variant.seeds)} of {len(result.seeds)} seeds)" for variant in missing)
        notes += f'<p class="callout note"><strong>Not complete.</strong> {escape(listed)}</p>'
    head = (
        f'<header><p class="eyebrow">Study</p><h1>{escape(result.name)}</h1><p class="lead">{escape(lead(result))}</p></header>'
    )
    return head + (f'<div class="callouts">{notes}</div>' if notes else "")


def _section(result: StudyResult, name: str, number: int) -> str:
    strips = [variant for variant in result.variants[1:] if name in variant.outcomes]
    found = [psnr for variant in strips if (psnr := variant.outcomes[name].differences.get("psnr")) is not None]
    low, high = _range(found)
    lines = "".join(_strip(variant, name, low, high) for variant in strips)
    axis = f'<p class="axis"><span>{low:+.2f} dB</span><span>{high:+.2f} dB</span></p>' if found else ""
    base = result.variants[0].outcomes.get(name)
    of = " to the teacher's images" if base is not None and base.to_teacher else ""
    explanation = (
        f"Mean difference in PSNR{of}, compared with {result.variants[0].name}: the line in the strip. The dot is the mean over"
        " seeds and images, the bar its 95 % interval, and each tick is one seed."
    )
    return (
        f'<section aria-labelledby="set{number}"><h2 id="set{number}">{escape(heading(result, name))}</h2>'
        f'<p class="explanation">{escape(explanation)}</p>'
        + (f'<div class="strips">{lines}{axis}</div>' if lines else "")
        + _table(result, name)
        + "</section>"
    )


def _range(found: Sequence[Difference]) -> tuple[float, float]:
    """The ends of all strips of a set: around every interval, every seed and zero."""
    values = [0.0, *(value for one in found for value in (one.low, one.high, *one.by_seed.values()))]
    span = max(values) - min(values) or 1.0
    return min(values) - MARGIN * span, max(values) + MARGIN * span


def _strip(variant: VariantResult, name: str, low: float, high: float) -> str:
    outcome = variant.outcomes[name]
    words = f"<p><strong>{escape(variant.name)}</strong> {escape(outcome.verdict)}</p>"
    found = outcome.differences.get("psnr")
    if found is None:
        return f'<div class="strip">{words}</div>'

    def at(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    def line(kind: str, one: float, other: float, top: str, bottom: str) -> str:
        return f'<line class="{kind}" x1="{at(one)}" x2="{at(other)}" y1="{top}" y2="{bottom}"/>'

    seeds = "".join(line("seed", value, value, "15%", "85%") for value in found.by_seed.values())
    label = f"{variant.name}: {found.mean:+.2f} dB, from {found.low:+.2f} to {found.high:+.2f}"
    return (
        f'<div class="strip">{words}<svg role="img" aria-label="{escape(label)}">'
        f"{line('zero', 0, 0, '0%', '100%')}{line('interval', found.low, found.high, '50%', '50%')}{seeds}"
        f'<circle class="mean" cx="{at(found.mean)}" cy="50%" r="5"/></svg></div>'
    )


def _table(result: StudyResult, name: str) -> str:
    rows = []
    base = result.variants[0].outcomes.get(name)
    for row in ("blurry", "teacher"):
        if base is not None and row in base.means:
            rows.append([f"({row})", show_scores(base.means[row]), *[""] * (len(MEASURES) + 1)])
    for variant in result.variants:
        outcome = variant.outcomes.get(name)
        if outcome is None:
            continue
        differences = [show_interval(outcome.differences.get(measure), DECIMALS[measure]) for measure in MEASURES]
        seeds = show_seeds(outcome.differences.get("psnr"))
        rows.append([variant.name, show_scores(outcome.means["student"]), *differences, seeds])
    return _figures(f"Scores on {name}", ["variant", "PSNR / SSIM", "difference, dB", "difference, SSIM", "by seed, dB"], rows)


def _costs(result: StudyResult) -> str:
    rows = [[variant.name, *cost_cells(variant.cost)] for variant in result.variants]
    off = any(variant.cost is not None and variant.cost.off_match for variant in result.variants)
    note = f'<p class="small">{escape(off_note(result))}</p>'
    explanation = (
        "Training time of a run, without its validations; the share of it that the teacher takes (?: it could not be measured);"
        " and the run folder with the cache it reads."
    )
    return (
        '<section aria-labelledby="costs"><h2 id="costs">What each costs</h2>'
        f'<p class="explanation">{escape(explanation)}</p>'
        + _figures("What each costs", ["variant", "time", "in teacher", "disk"], rows)
        + (note if off else "")
        + "</section>"
    )


def _figures(label: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names the rows."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    table = f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>'


def _settings(result: StudyResult) -> str:
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(overrides)}</dd></div>" for name, overrides in settings(result).items()
    )
    seeds = ", ".join(map(str, result.seeds))
    return (
        f'<section aria-labelledby="settings"><h2 id="settings">What was trained</h2><dl class="facts">{rows}'
        f"<div><dt>Seeds</dt><dd>{escape(seeds)}</dd></div></dl></section>"
    )
