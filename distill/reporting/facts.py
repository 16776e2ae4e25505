"""What was trained: its images, networks, goals, length and machine, in sentences."""

from __future__ import annotations

from distill.config import DEAD_LEAVES, SAMPLES, Config, ImageSource, RestormerConfig, StageConfig, UNetConfig
from distill.config.degradations import Defocus, Degradation, GaussianBlur, Jpeg, MotionBlur, Noise, Rescale
from distill.reporting.curves import Clock
from distill.reporting.formatting import capitalized, counted, duration, moment, parameters, short_number
from distill.reporting.reading import RunFolder, number
from restormer.published import PACKAGED, PUBLISHED


def facts(run: RunFolder, teacher_parameters: int | None) -> list[tuple[str, str]]:
    """(topic, sentence) pairs in reading order."""
    config, clock = run.config, Clock(run)
    rows = [
        ("Training images", _training_images(config)),
        ("Blur", _blur(config)),
        ("Student", _student(config.student)),
        ("Teacher", _teacher(config, teacher_parameters)),
        ("Goal", " ".join(_stage(stage, config) for stage in config.stages)),
        ("Validation", _validation(config)),
        ("Length", _length(run)),
        ("Time", _time(run, clock)),
    ]
    devices = list(dict.fromkeys(str(record["device"]) for record in run.of("start") if record.get("device")))
    return rows + ([("Device", " / ".join(devices))] if devices else [])


def _training_images(config: Config) -> str:
    entries = config.data.entries
    texts, last = [_source(source, "sharp photographs") for source in entries], ""
    if len({source.parts for source in entries}) > 1:
        every = sum(source.parts for source in entries)
        texts = [f"{text} ({source.parts} of every {every} crops)" for text, source in zip(texts, entries, strict=True)]
    elif len(entries) > 1:
        last = ", in equal parts"
    sizes = dict.fromkeys((data.patch, data.batch) for _, data in config.sizes())
    crops = ", then ".join(f"of {patch} by {patch} pixels, {batch} in each step" for patch, batch in sizes)
    return f"{capitalized(', and '.join(texts))}{last}; random crops {crops}."


def _source(source: ImageSource, what: str) -> str:
    if source.sharp == SAMPLES:
        return "photographs that come with scikit-image"
    if source.sharp == DEAD_LEAVES:
        return "synthetic images of overlapping polygons and ellipses (dead leaves)"
    if source.sharp is None:
        return f"blurry photographs in {source.blurry}, of which nobody has sharp ones"
    if source.blurry is None:
        return f"{what} in {source.sharp}"
    return f"pairs of sharp and blurry images in {source.sharp} and {source.blurry}"


def _blur(config: Config) -> str:
    sources = [source for _, source in config.image_sources()]
    made = [source for source in sources if source.blurry is None]
    if not made:
        return "The blurry images are files, made or photographed before."
    where = "" if len(made) == len(sources) else " (where there are no blurry files)"
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
    size = f"{short_number(parameters(student))} parameters"
    packaged = f"the network that comes with this project, {student.init}"
    start = f", starting from {packaged if student.init in PACKAGED else student.init}" if student.init else ""
    if isinstance(student, RestormerConfig):
        return f"Restormer of width {student.dim}, {size}{start}."
    way = "it predicts a correction of its input" if student.residual else "it predicts the whole image"
    form = "" if student.blocks is None else f"{', '.join(map(str, student.blocks))} residual blocks a level, "
    return f"U-Net with {student.depth} levels, {student.width} channels in the first, {form}{size}{start}; {way}."


def _teacher(config: Config, size: int | None) -> str:
    teacher = config.teacher
    if teacher.mode == "none":
        return "None: the student learned from the sharp images alone."
    name = teacher.weights
    which = f"the small Restormer that comes with this project, {name}" if name in PACKAGED else f"the network in the file {name}"
    which = f"the published Restormer, {name}" if name in PUBLISHED else which
    how = "it restored every batch inside the training loop" if teacher.mode == "online" else "its images were computed before"
    how = how if teacher.reuse == 1 else f"it restored one batch for every {teacher.reuse} steps inside the training loop"
    how = how if config.learns_from_teacher else "only compared with: no loss asked for its images"
    count = "" if size is None else f", {short_number(size)} parameters"
    return f"{capitalized(which)}{count}; frozen, {how}."


def _stage(stage: StageConfig, config: Config) -> str:
    """The stage's goals. Without any sharp training image, terms that compare with it do not count."""
    with_sharp = [source.sharp is not None for source in config.data.entries]
    where = "" if all(with_sharp) else " where there is one"
    to_teacher = config.vgg.against == "teacher"
    terms = [
        (stage.l1 * any(with_sharp), f"the sharp image{where}"),
        (stage.kd, "the teacher's image"),
        (
            stage.vgg * (to_teacher or any(with_sharp)),
            "the teacher's image as VGG16 sees it" if to_teacher else f"the sharp image as VGG16 sees it{where}",
        ),
    ]
    goals = [f"to {name} (weight {weight:g})" for weight, name in terms if weight]
    return f"Stage {stage.name}, {counted(stage.epochs, 'epoch')}: be close {' and '.join(goals)}, in mean absolute difference."


def _validation(config: Config) -> str:
    entries = config.data.val.entries
    crop = "whole" if config.eval.crop is None else f"their centres, at most {config.eval.crop} by {config.eval.crop} pixels"
    named = "photographs that come with scikit-image, chelsea and coffee"
    texts = [named if source.sharp == SAMPLES else _source(source, "photographs") for source in entries]
    where = "Where there is no sharp photograph, the" if config.data.val.has_sharp else "The"
    without = any(source.sharp is None for source in entries)
    compared = f" {where} student is compared with the teacher." if without else ""
    return f"{capitalized(', and '.join(texts))}; {crop}.{compared}"


def _length(run: RunFolder) -> str:
    total = run.total_steps
    of = f" of {total:,}" if total is not None and total != run.last_step else ""
    batches = " or ".join(str(batch) for batch in dict.fromkeys(data.batch for _, data in run.config.sizes()))
    return f"{run.last_step:,}{of} steps of {batches} crops each; random seed {run.config.run.seed}."


def _time(run: RunFolder, clock: Clock) -> str:
    starts = [time for record in run.of("start") if (time := number(record, "time")) is not None]
    began = f"; first started {moment(starts[0])}" if starts else ""
    return f"{duration(clock.total)} from the first step to the last recorded one, pauses left out{began}."
