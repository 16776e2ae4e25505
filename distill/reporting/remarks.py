"""What a report says about a run in sentences: what it is, how it went, and what to be careful about."""

from __future__ import annotations

from distill.config import UNetConfig
from distill.errors import listed
from distill.reporting.curves import Clock
from distill.reporting.formatting import SHOWN_NAMES, counted, how_often, moment, parameters, percent, short_number
from distill.reporting.reading import RunFolder, gains, number

LOOK = "Look at the pictures: the student learns to do what the teacher does, right or wrong."


def status(run: RunFolder) -> tuple[str, str]:
    """(kind, sentence). The kind is complete, unfinished or empty."""
    if not run.of("train"):
        return "empty", "No training step has been recorded yet."
    if run.complete:
        return "complete", f"Complete: {counted(run.last_step, 'step')}."
    total = run.total_steps
    if total is None:
        return "unfinished", f"Not finished: {counted(run.last_step, 'step')} recorded, no final evaluation."
    times = [time for record in run.records if (time := number(record, "time")) is not None]
    when = f" Last record {moment(times[-1])}." if times else ""
    return "unfinished", f"Not finished: step {run.last_step:,} of {total:,} ({run.last_step / max(total, 1):.0%}).{when}"


def lead(run: RunFolder) -> str:
    """Some sentences for somebody who has never seen the project."""
    config = run.config
    name = "U-Net" if isinstance(config.student, UNetConfig) else "Restormer"
    student = f"the student, a {name} with {short_number(parameters(config.student))} parameters"
    with_sharp = [source.sharp is not None for source in config.data.entries]
    if not config.learns_from_teacher:
        text = f"A network ({student}) was trained to sharpen blurry photographs, from sharp originals alone."
    elif any(with_sharp):
        text = (
            f"A small, fast network ({student}) was trained to sharpen blurry photographs. It learned from sharp"
            " originals and from a larger, slower network (the teacher) that was trained for this before."
        )
        if not all(with_sharp):
            text += " Nobody has sharp originals of some photographs: from those it learned to do what the teacher does."
    else:
        text = (
            f"A small, fast network ({student}) learned to do what a larger, slower network (the teacher) does to blurry"
            " photographs. Nobody has sharp originals of these photographs: the student learned from the teacher's images alone."
        )
    if not config.data.val.has_sharp:
        where = " on the validation photographs, which have no sharp originals" if any(with_sharp) else ""
        text += f" The scores say how closely the student follows the teacher{where}, and not whether a picture became better."
    return text


def teacher_check(run: RunFolder) -> tuple[str, str] | None:
    """(kind, sentence) about whether the teacher is worth learning from. The kind is good, warning or unknown. None if the run
    does not learn from a teacher."""
    if not run.config.learns_from_teacher:
        return None
    if not run.config.data.val.has_sharp:
        return "unknown", (
            "Numbers cannot say whether the teacher makes the validation photographs better, because nobody has sharp originals"
            f" to compare with. {LOOK}"
        )
    scores, images = run.scores(), _validated(run)
    if not {"teacher", "blurry"} <= scores.keys():
        return "unknown", f"Whether the teacher improves {images} is not recorded yet."
    gain = scores["teacher"].psnr - scores["blurry"].psnr
    worse = sorted(name for name, value in gains(run.images, "teacher").items() if value < 0)
    more = f" It makes {len(worse)} of {len(run.images)} worse: {listed(worse)}." if worse else ""
    if _has_both(run):
        more += f" Numbers cannot say whether it improves the others. {LOOK}"
    if gain > 0:
        return "good", f"The teacher improves {images}, by {gain:.2f} dB on average.{more}"
    return "warning", (
        f"The teacher does not improve {images} ({gain:+.2f} dB on average), and a student learns that from it. Give"
        f" weights that were trained for this blur, or set kd: 0.{more}"
    )


def _has_both(run: RunFolder) -> bool:
    """Whether some validation images have sharp ones, and some not."""
    return len({source.sharp is None for source in run.config.data.val.entries}) > 1


def _validated(run: RunFolder) -> str:
    """The validation images that are compared with sharp ones."""
    return "the validation images that have sharp originals" if _has_both(run) else "the validation images"


def warnings(run: RunFolder) -> list[str]:
    """Sentences about what makes the result doubtful."""
    return _doubtful_scores(run) + _left_out(run)


def _doubtful_scores(run: RunFolder) -> list[str]:
    scores, followed = run.scores(), run.to_teacher()
    found = []
    if {"student", "blurry"} <= scores.keys() and scores["student"].psnr <= scores["blurry"].psnr:
        gain = scores["student"].psnr - scores["blurry"].psnr
        found.append(f"The student does not improve {_validated(run)} ({gain:+.2f} dB on average).")
    if followed is not None:
        images = "validation images without sharp originals" if _has_both(run) else "validation images"
        # evaluation.csv alone does not give the share of all images: then the teacher changes nothing if it changes no image.
        recorded = run.scored_step is not None or all(image.reproduced is None for image in run.fidelity.values())
        if followed.reproduced is not None and followed.reproduced <= 0:
            found.append(
                f"On the {images}, the student is no closer to the teacher's images than the blurry input is: it reproduces"
                f" {percent(followed.reproduced)} of the teacher's correction."
            )
        elif followed.reproduced is None and recorded:
            found.append(f"The teacher changes nothing on the {images}: they do not show what the student learned from it.")
    return found


def _left_out(run: RunFolder) -> list[str]:
    found = []
    rejected = int(sum(number(record, "rejected_updates") or 0 for record in run.of("train")))
    if rejected:
        names = {str(name) for record in run.of("train") for name in _list(record.get("rejected_images"))}
        about = f" Images of those batches: {listed(sorted(names))}." if names else ""
        found.append(f"{counted(rejected, 'update')} had a loss or gradient that was not finite and changed nothing.{about}")
    without = int(sum(number(record, "images_without_kd") or 0 for record in run.of("train")))
    if without:
        found.append(f"The teacher's images of {counted(without, 'patch', 'patches')} were not finite and taught nothing.")
    bad = {str(record.get("path")): str(record.get("reason")) for record in run.of("skipped")}
    if bad:
        shown = "; ".join(f"{path} ({reason})" for path, reason in list(bad.items())[:SHOWN_NAMES])
        more = f"; and {len(bad) - SHOWN_NAMES} more" if len(bad) > SHOWN_NAMES else ""
        found.append(f"{counted(len(bad), 'image file')} could not be used and were left out: {shown}{more}.")
    return found


def notes(run: RunFolder) -> list[str]:
    """Sentences about facts that a reader should know but need not worry about."""
    found = []
    # A process that started at the last step has added no record of training.
    resumed = [record["step"] for record in run.of("start")[1:] if record["step"] < run.last_step]
    if resumed:
        steps = ", ".join(f"{step:,}" for step in resumed[:SHOWN_NAMES]) + (" ..." if len(resumed) > SHOWN_NAMES else "")
        found.append(f"The run was stopped and continued {how_often(len(resumed))}, from step {steps}.")
    if Clock(run).estimated:
        found.append("Times are estimated from images per second, because the run recorded none; validations do not count.")
    if run.unreadable_lines:
        found.append(f"{counted(run.unreadable_lines, 'line')} of metrics.jsonl could not be read and were left out.")
    if run.evaluated and not run.complete:
        found.append("evaluation.csv is older than the last steps, and so are the figures of single images.")
    return found


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
