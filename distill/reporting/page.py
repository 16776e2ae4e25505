"""The page of a report: one HTML file, made of a template and of JSON that the template's script shows. No value from a run
becomes HTML: the script inserts it as text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.resources import files
from string import Template
from typing import Any

from PIL import Image

from distill.config import dump_config
from distill.data.pixels import Pixels
from distill.reporting import remarks
from distill.reporting.curves import Clock, curves
from distill.reporting.facts import facts
from distill.reporting.formatting import duration, parameters
from distill.reporting.gallery import Gallery, ShownImage
from distill.reporting.reading import Closeness, RunFolder, gains, number
from distill.scoring.evaluation import Score
from distill.training.about import project

TEMPLATE = files("distill.reporting") / "template"
STYLES = ("report.css", "parts.css")
SCRIPTS = ("dom.js", "charts.js", "viewer.js", "images.js", "sections.js", "report.js")
WEBP_QUALITY = 92
# parts.css has the colours run0 to run5. If more runs are compared, the colours repeat.
RUN_LOOKS = 6
# The JSON stands inside a <script> element. No name in the JSON may end this element, or look like markup to a program that reads
# the page as text.
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def render(runs: Sequence[RunFolder], pictures: Gallery) -> bytes:
    """The HTML file of one run, or of several compared."""
    title = runs[0].label if len(runs) == 1 else f"{len(runs)} runs compared"
    content = {
        "title": title,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "project": project(),
        "runs": [_run(run, place, pictures) for place, run in enumerate(runs)],
        "differences": differences(runs),
        "pictures": [_picture(picture) for picture in pictures.pictures],
        "pictureNotes": pictures.notes,
        "webpQuality": WEBP_QUALITY,
    }
    style, script = ("\n".join((TEMPLATE / name).read_text("utf-8") for name in names) for names in (STYLES, SCRIPTS))
    page = Template((TEMPLATE / "report.html").read_text("utf-8")).substitute(
        style=style, script=script, style_hash=csp_hash(style), script_hash=csp_hash(script), content=_json(content)
    )
    return page.encode()


def differences(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """The configuration keys, except run.dir, in which runs differ: [{"key", "values": one text per run}]."""
    flat = [_flatten(run.config.model_dump(mode="json")) for run in runs]
    keys = dict.fromkeys(key for tree in flat for key in tree)
    rows = [{"key": key, "values": [tree.get(key, "") for tree in flat]} for key in keys if key != "run.dir"]
    return [row for row in rows if len(set(row["values"])) > 1]


def _flatten(tree: Any, prefix: str = "") -> dict[str, str]:
    """{dotted key: value as text}; a list of plain values is one value."""
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list) and any(isinstance(value, dict) for value in tree):
        items = list(enumerate(tree))
    else:
        return {prefix: tree if isinstance(tree, str) else json.dumps(tree)}
    joined = f"{prefix}." if prefix else ""
    return {name: value for key, inner in items for name, value in _flatten(inner, f"{joined}{key}").items()}


def _run(run: RunFolder, place: int, pictures: Gallery) -> dict[str, Any]:
    kind, sentence = remarks.status(run)
    check, followed = remarks.teacher_check(run), run.to_teacher()
    clock, rates = Clock(run), [number(record, "images_per_s") for record in run.of("train")]
    measured = sorted(rate for rate in rates if rate is not None)
    return {
        "label": run.label,
        "look": _look(place),
        "status": {"kind": kind, "text": sentence},
        "lead": remarks.lead(run),
        "facts": facts(run, pictures.teacher_parameters),
        "teacherCheck": None if check is None else {"kind": check[0], "text": check[1]},
        "warnings": remarks.warnings(run),
        "notes": remarks.notes(run),
        "scores": {row: _score(score) for row, score in run.scores().items()},
        "toTeacher": None if followed is None else _closeness(followed),
        "scoresStep": run.scored_step,
        "images": _images(run),
        "followed": _followed(run),
        "curves": curves(run),
        "steps": run.last_step,
        "time": duration(clock.total) if run.of("train") else None,
        "imagesPerS": measured[len(measured) // 2] if measured else None,  # the median
        "parameters": parameters(run.config.student),
        "teacherParameters": pictures.teacher_parameters,
        "config": dump_config(run.config),
    }


def _look(place: int) -> str:
    """The class in parts.css that gives a run its colour. `place` is its place among the compared runs."""
    return f"run{place % RUN_LOOKS}"


def _images(run: RunFolder) -> list[dict[str, Any]]:
    """One entry for each image with a finite gain, the smallest gain first."""
    students, teachers = gains(run.images), gains(run.images, "teacher")
    ranked = sorted(students, key=lambda name: students[name])
    return [
        {
            "name": name,
            "gain": round(students[name], 4),
            "teacherGain": round(teachers[name], 4) if name in teachers else None,
            "scores": {row: _score(score) for row, score in run.images[name].items()},
        }
        for name in ranked
    ]


def _followed(run: RunFolder) -> list[dict[str, Any]]:
    """One entry for each image without a sharp one, the least reproduced first, and last those on which the teacher changes
    nothing."""
    entries = [{"name": name, **_closeness(image)} for name, image in run.fidelity.items()]
    return sorted(entries, key=lambda entry: math.inf if entry["reproduced"] is None else entry["reproduced"])


def _closeness(image: Closeness) -> dict[str, Any]:
    """The scores are keyed by what is compared with the teacher: blurry and student."""
    scores = {row.removesuffix(" to teacher"): _score(score) for row, score in image.scores.items()}
    return {"scores": scores, "reproduced": image.reproduced}


def _score(score: Score) -> dict[str, float | None]:
    """The score in JSON's types. An infinite PSNR becomes None, because JSON has no infinity."""
    return {key: value if math.isfinite(value) else None for key, value in score.measures.items()}


def _picture(picture: ShownImage) -> dict[str, Any]:
    height, width = picture.layers[0].pixels.shape[:2]
    layers = []
    for layer in picture.layers:
        psnr = layer.psnr if layer.psnr is not None and math.isfinite(layer.psnr) else None
        look = _look(layer.run) if layer.role == "student" else layer.role
        against = None if layer.against == "sharp" else layer.against
        shown = {"role": layer.role, "look": look, "label": layer.label, "psnr": psnr, "against": against}
        layers.append({**shown, "src": _webp(layer.pixels)})
    return {
        "name": picture.name,
        "rank": picture.rank,
        "gain": picture.gain,
        "reproduced": picture.reproduced,
        "rankedBy": picture.ranked_by,
        "hasSharp": picture.has_sharp,
        "width": width,
        "height": height,
        "layers": layers,
    }


def _webp(pixels: Pixels) -> str:
    """(H, W, 3) RGB uint8 -> a data URI of a WebP file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="WEBP", quality=WEBP_QUALITY, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _json(content: dict[str, Any]) -> str:
    text = json.dumps(content, allow_nan=False)
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return text


def csp_hash(text: str) -> str:
    """The SHA-256 in base64 by which the Content-Security-Policy allows an inline script or style."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
