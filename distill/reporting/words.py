"""A run in plain language: what was trained on which images, how it went, and what to be careful about."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone

import torch

from distill.config import Config, DataConfig, ImagesConfig, RestormerConfig, StageConfig, UNetConfig, VggConfig
from distill.config.degradations import Defocus, Degradation, GaussianBlur, Jpeg, MotionBlur, Noise, Rescale
from distill.networks.architecture import architecture, build_network
from distill.reporting.curves import Clock
from distill.reporting.reading import RunFolder, gains, number
from restormer.published import EMBEDDED, PUBLISHED

SHOWN_NAMES = 8


def facts(run: RunFolder, teacher_parameters: int | None) -> list[tuple[str, str]]:
    """(topic, sentence) pairs in reading order."""
    config, clock = run.config, Clock(run)
    rows = [
        ("Training images", _training_images(config.data)),
        ("Blur", _blur(config)),
        ("Student", _student(config.student)),
        ("Teacher", _teacher(config, teacher_parameters)),
        ("Goal", " ".join(_stage(stage, config.vgg) for stage in config.stages)),
        ("Validation", _validation(config)),
        ("Length", _length(run)),
        ("Time", _time(run, clock)),
    ]
    devices = list(dict.fromkeys(str(record["device"]) for record in run.of("start") if record.get("device")))
    return rows + ([("Device", " / ".join(devices))] if devices else [])


def status(run: RunFolder) -> tuple[str, str]:
    """(kind, sentence). The kind is complete, unfinished or empty."""
    if not run.of("train"):
        return "empty", "No training step has been recorded yet."
    if run.complete:
        return "complete", f"Complete: {_count(run.last_step, 'step')}."
    total = run.total_steps
    if total is None:
        return "unfinished", f"Not finished: {_count(run.last_step, 'step')} recorded, no final evaluation."
    times = [time for record in run.records if (time := number(record, "time")) is not None]
    when = f" Last record {moment(times[-1])}." if times else ""
    return "unfinished", f"Not finished: step {run.last_step:,} of {total:,} ({run.last_step / max(total, 1):.0%}).{when}"


def lead(run: RunFolder) -> str:
    """Two or three sentences for somebody who has never seen the project."""
    name = "U-Net" if isinstance(run.config.student, UNetConfig) else "Restormer"
    student = f"a {name} with {_short(parameters(run.config.student))} parameters"
    if not run.config.learns_from_teacher:
        return f"A network (the student, {student}) was trained to sharpen blurry photographs, from sharp originals alone."
    return (
        f"A small, fast network (the student, {student}) was trained to sharpen blurry photographs. It learned from sharp"
        " originals and from a larger, slower network (the teacher) that was trained for this before."
    )


def teacher_check(run: RunFolder) -> tuple[str, str] | None:
    """(kind, sentence) about whether the teacher is worth learning from. The kind is good, warning or unknown. None if the run
    does not learn from a teacher."""
    if not run.config.learns_from_teacher:
        return None
    scores, _ = run.scores()
    if not {"teacher", "blurry"} <= scores.keys():
        return "unknown", "Whether the teacher improves the validation images is not recorded yet."
    gain = scores["teacher"].psnr - scores["blurry"].psnr
    worse = sorted(name for name, value in gains(run.images, "teacher").items() if value < 0)
    exceptions = f" It makes {len(worse)} of {len(run.images)} worse: {_some(worse)}." if worse else ""
    if gain > 0:
        return "good", f"The teacher improves the validation images, by {gain:.2f} dB on average.{exceptions}"
    return "warning", (
        f"The teacher does not improve the validation images ({gain:+.2f} dB on average), and a student learns that from it. Give"
        f" weights that were trained for this blur, or set kd: 0.{exceptions}"
    )


def warnings(run: RunFolder) -> list[str]:
    """Sentences about what makes the result doubtful."""
    scores, _ = run.scores()
    found = []
    if {"student", "blurry"} <= scores.keys() and scores["student"].psnr <= scores["blurry"].psnr:
        gain = scores["student"].psnr - scores["blurry"].psnr
        found.append(f"The student does not improve the validation images ({gain:+.2f} dB on average).")
    rejected = int(sum(number(record, "rejected_updates") or 0 for record in run.of("train")))
    if rejected:
        names = {str(name) for record in run.of("train") for name in _list(record.get("rejected_images"))}
        about = f" Images of those batches: {_some(sorted(names))}." if names else ""
        found.append(f"{_count(rejected, 'update')} had a loss or gradient that was not finite and changed nothing.{about}")
    without = int(sum(number(record, "images_without_kd") or 0 for record in run.of("train")))
    if without:
        found.append(f"The teacher's images of {_count(without, 'patch', 'patches')} were not finite and taught nothing.")
    bad = {str(record.get("path")): str(record.get("reason")) for record in run.of("skipped")}
    if bad:
        listed = "; ".join(f"{path} ({reason})" for path, reason in list(bad.items())[:SHOWN_NAMES])
        more = f"; and {len(bad) - SHOWN_NAMES} more" if len(bad) > SHOWN_NAMES else ""
        found.append(f"{_count(len(bad), 'image file')} could not be used and were left out: {listed}{more}.")
    return found


def notes(run: RunFolder) -> list[str]:
    """Sentences about facts that a reader should know but need not worry about."""
    found = []
    # A process that started at the last step has added no record of training.
    resumed = [record["step"] for record in run.of("start")[1:] if record["step"] < run.last_step]
    if resumed:
        steps = ", ".join(f"{step:,}" for step in resumed[:SHOWN_NAMES]) + (" ..." if len(resumed) > SHOWN_NAMES else "")
        found.append(f"The run was stopped and continued {_times(len(resumed))}, from step {steps}.")
    if Clock(run).estimated:
        found.append("Times are estimated from images per second, because the run recorded none; validations do not count.")
    if run.unreadable_lines:
        found.append(f"{_count(run.unreadable_lines, 'line')} of metrics.jsonl could not be read and were left out.")
    if run.images and not run.complete:
        found.append("evaluation.csv is older than the last steps: the figures of single images are of then.")
    return found


def parameters(student: UNetConfig | RestormerConfig) -> int:
    """The network's number of parameters, counted on torch's meta device, which allocates no memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(student.arch, architecture(student)).parameters())


def duration(seconds: float) -> str:
    """A duration in at most two units, such as `1 min 37 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def moment(time: float) -> str:
    """The date and time in UTC, to the minute; the number itself if datetime cannot represent it."""
    try:
        return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{time:g}"


def _training_images(data: DataConfig) -> str:
    sources = [data.sharp] if isinstance(data.sharp, str) else data.sharp
    text = ", and ".join(_source(source, data, "sharp photographs") for source in sources)
    equal = ", in equal parts" if len(sources) > 1 else ""
    return f"{_sentence(text)}{equal}; random crops of {data.patch} by {data.patch} pixels, {data.batch} in each step."


def _source(source: str, images: ImagesConfig, what: str) -> str:
    if source == "samples":
        return "photographs that come with scikit-image"
    if source == "dead_leaves":
        return "synthetic images of overlapping polygons and ellipses (dead leaves)"
    return f"pairs of blurry and sharp images in {source} and {images.blurry}" if images.blurry else f"{what} in {source}"


def _blur(config: Config) -> str:
    if config.data.blurry is not None and config.data.val.blurry is not None:
        return "The blurry images are files, made or photographed before."
    where = "" if config.data.blurry is None and config.data.val.blurry is None else " (where there are no blurry files)"
    return f"Made from the sharp images while training{where}: {', then '.join(_degradation(step) for step in config.degrade)}."


def _degradation(step: Degradation) -> str:
    def between(pair: tuple[float, float]) -> str:
        return f"{pair[0]:g}" if pair[0] == pair[1] else f"{pair[0]:g} to {pair[1]:g}"

    match step:
        case GaussianBlur():
            text = f"Gaussian blur of {between(step.sigma)} pixels (sigma)"
        case Defocus():
            text = f"defocus of {between(step.radius)} pixels (radius of a disc)"
        case MotionBlur():
            text = f"motion blur of {between(step.length)} pixels in any direction"
        case Rescale():
            text = f"reduction by a factor of {between(step.factor)} and enlargement again"
        case Noise():
            text = f"noise of {between(step.sigma)} of 255 levels"
        case Jpeg():
            text = f"JPEG compression of quality {between(step.quality)}"
    return text if step.probability == 1 else f"{text}, for {step.probability:.0%} of the images"


def _student(student: UNetConfig | RestormerConfig) -> str:
    size = f"{_short(parameters(student))} parameters"
    start = f", starting from {student.init}" if student.init else ""
    if isinstance(student, RestormerConfig):
        return f"Restormer of width {student.dim}, {size}{start}."
    way = "it predicts a correction of its input" if student.residual else "it predicts the whole image"
    return f"U-Net with {student.depth} levels, {student.width} channels in the first, {size}{start}; {way}."


def _teacher(config: Config, size: int | None) -> str:
    teacher = config.teacher
    if teacher.mode == "none":
        return "None: the student learned from the sharp images alone."
    name = teacher.weights
    which = "the small Restormer that comes with this project" if name == EMBEDDED else f"Restormer with the weights {name}"
    which = f"the published Restormer, {name}" if name in PUBLISHED else which
    how = "it restored every batch inside the training loop" if teacher.mode == "online" else "its images were computed before"
    how = how if config.learns_from_teacher else "only compared with: no loss asked for its images"
    count = "" if size is None else f", {_short(size)} parameters"
    return f"{_sentence(which)}{count}; frozen, {how}."


def _stage(stage: StageConfig, vgg: VggConfig) -> str:
    against = "teacher's" if vgg.against == "teacher" else "sharp"
    terms = [
        (stage.l1, "the sharp image"),
        (stage.kd, "the teacher's image"),
        (stage.vgg, f"the {against} image as VGG16 sees it"),
    ]
    goals = [f"to {name} (weight {weight:g})" for weight, name in terms if weight]
    return f"Stage {stage.name}, {_count(stage.epochs, 'epoch')}: be close {' and '.join(goals)}, in mean absolute difference."


def _validation(config: Config) -> str:
    val = config.data.val
    assert isinstance(val.sharp, str)
    crop = "whole" if config.eval.crop is None else f"their centres, at most {config.eval.crop} by {config.eval.crop} pixels"
    named = "photographs that come with scikit-image, chelsea and coffee" if val.sharp == "samples" else ""
    return f"{_sentence(named or _source(val.sharp, val, 'photographs'))}; {crop}."


def _length(run: RunFolder) -> str:
    total = run.total_steps
    of = f" of {total:,}" if total is not None and total != run.last_step else ""
    return f"{run.last_step:,}{of} steps of {run.config.data.batch} crops each; random seed {run.config.run.seed}."


def _time(run: RunFolder, clock: Clock) -> str:
    starts = [time for record in run.of("start") if (time := number(record, "time")) is not None]
    began = f"; first started {moment(starts[0])}" if starts else ""
    return f"{duration(clock.total)} from the first step to the last recorded one, pauses left out{began}."


def _short(count: int) -> str:
    for size, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if count >= 0.9995 * size:  # to three digits, 0.9995 of a unit is 1 of it
            return f"{count / size:.3g} {name}"
    return str(count)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:SHOWN_NAMES]) + (f" and {len(shown) - SHOWN_NAMES} more" if len(shown) > SHOWN_NAMES else "")


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
