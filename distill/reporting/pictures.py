"""The validation images that a report shows: blurry, student, teacher and, if there is one, sharp.

They are made again: the run's configuration gives the images, and the run's student and teacher restore them. If that fails, they
are cut from the run's last picture in samples/, which shows several validation images, one below the other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.config import ConfigError, TeacherConfig
from distill.data.image_files import ImageError, read_image
from distill.data.pixels import COLUMN_GAP, Pixels, centre_crop
from distill.networks.architecture import inference_copy
from distill.networks.student_files import load_student
from distill.networks.teacher import Teacher, build_teacher
from distill.reporting.choice import Choice
from distill.reporting.gallery import Gallery, Layer, ShownImage, add_picture, label_with_run
from distill.reporting.reading import RunFolder, gains, shares
from distill.runtime.memory import is_out_of_memory
from distill.runtime.progress import progress_bar
from distill.scoring.metrics import psnr
from distill.scoring.validation import COLUMN_SIDE, Validation, to_pixels
from distill.training.run_folder import BEST, ROW_PICTURES, row_picture_file, stage_file
from restormer.published import PUBLISHED, published_file
from restormer.weight_files import WeightsError

logger = logging.getLogger(__name__)

SHOWN_SIDE = 384
# Raised if a file from which the pictures are made is gone or cannot be used.
NOT_HERE = (ConfigError, FileNotFoundError, PermissionError, ImageError, WeightsError)


def gallery(runs: Sequence[RunFolder], count: int, device: torch.device) -> Gallery:
    """The pictures of at most `count` validation images. Downloads nothing.

    Several runs show the same images. Each picture has the students of all runs, but an image that is blurred differently in two
    runs gives two pictures. So does an image that has a sharp one in one run only. `Choice.of_runs` chooses and ranks the images.
    """
    chosen, together = Choice.of_runs(runs, count), Gallery()
    for place, run in enumerate(runs if count > 0 else ()):
        part = _of_run(run, chosen, count, device)
        if not chosen.names:  # no run has scores: later runs show the first run's images
            chosen = Choice.unranked((picture.name, picture.has_sharp) for picture in part.pictures)
        if len(runs) > 1:
            part = label_with_run(part, run.label, place, {True: run is chosen.gains_of, False: run is chosen.shares_of})
        together.notes += part.notes
        together.teacher_parameters = together.teacher_parameters or part.teacher_parameters
        for picture in part.pictures:
            add_picture(together.pictures, picture, run.label)
    if together.pictures and not any(run.evaluated for run in runs):
        together.notes.append("There is no evaluation.csv yet; the images are the first ones, not the ends of a ranking.")
    order = chosen.names
    together.pictures.sort(key=lambda picture: order.index(picture.name) if picture.name in order else len(order))
    return together


def _of_run(run: RunFolder, chosen: Choice, count: int, device: torch.device) -> Gallery:
    try:
        return _recompute(run, chosen, count, device)
    except Exception as error:
        reason = _reason(error, device)
        if reason is None:
            raise
    logger.warning(
        "%s: its pictures cannot be made again (%s); the last validation picture is taken, where there is one", run.path, reason
    )
    path, pictures = _from_row_pictures(run, count)
    note = f"These pictures were cut from the run's last validation picture, because they could not be made again: {reason}"
    before = "That picture is from before the first step: the run had not trained the student yet."
    untrained = [before] if path is not None and path.name == row_picture_file(0) else []
    return Gallery(pictures, [note, *untrained] if pictures else [f"There are no pictures to show: {reason}"])


def _reason(error: Exception, device: torch.device) -> str | None:
    """Why the pictures cannot be made again, in words: memory ran out, or the error is one of NOT_HERE. A report without these
    pictures is still correct. None for any other error, because that is a bug in this project."""
    if is_out_of_memory(error):
        elsewhere = "" if device.type == "cpu" else "; --device cpu needs none of the GPU's"
        return f"there is not enough memory for them{elsewhere}"
    return " ".join(str(error).split()) if isinstance(error, NOT_HERE) else None


def _recompute(run: RunFolder, chosen: Choice, count: int, device: torch.device) -> Gallery:
    """Makes the pictures again. Raises the errors of NOT_HERE, and torch's error if memory runs out."""
    made, weights = Gallery(), _student_file(run)
    student = inference_copy(load_student(weights)).to(device)
    teacher = _teacher_if_here(run.config.teacher, device, made)
    # Without further scores: what they need may not be here, and the page shows none of them under a picture.
    unscored = run.config.model_copy(update={"eval": run.config.eval.model_copy(update={"metrics": []})})
    validation = Validation(unscored, teacher, device)
    names = chosen.names or [image.stem for image in validation.dataset.images[:count]]
    gain_of, share_of = gains(run.images), shares(run.fidelity)
    with progress_bar(len(names), "image", desc=f"{run.label}: pictures", leave=False) as bar:
        for name, blurry, sharp in validation.named(names):
            # Another run may have chosen an image of this name that has a sharp one where this run's has none.
            of_kind = chosen.of_kind(sharp is not None)
            if name in of_kind or not chosen.names:
                layers = _layers(blurry, sharp, student, teacher)
                made.pictures.append(ShownImage(name, layers, of_kind.get(name), gain_of.get(name), share_of.get(name)))
            bar.update()
    if not made.pictures:
        folders = ", ".join(source.folder for source in run.config.data.val.entries)
        raise ImageError(f"{folders}: none of the images to show is there")
    if weights.name != stage_file(run.config.stages[-1].name):
        made.notes.append(f"The student shown is {weights.name}, since the last stage has not ended.")
    return made


def _layers(blurry: Tensor, sharp: Tensor | None, student: nn.Module, teacher: Teacher | None) -> list[Layer]:
    """Scored against the sharp image. Without one, blurry input and student are scored against the teacher's image."""
    images = {"blurry": to_pixels(blurry), "student": _restored(student, blurry)}
    if teacher is not None:
        images["teacher"] = _restored(teacher, blurry)
    if sharp is not None:
        images["sharp"] = to_pixels(sharp)
    against = "sharp" if sharp is not None else "teacher"
    reference = images.get(against)
    return [
        Layer(
            role,
            role,
            centre_crop(pixels, SHOWN_SIDE),
            psnr=None if reference is None or role == against else psnr(pixels, reference),
            against=against,
        )
        for role, pixels in images.items()
    ]


def _restored(network: nn.Module, blurry: Tensor) -> Pixels:
    with torch.no_grad():
        return to_pixels(network(blurry))


def _student_file(run: RunFolder) -> Path:
    """The last stage's student, which evaluation.csv scores, else the best so far. Raises FileNotFoundError if neither exists."""
    for name in (stage_file(run.config.stages[-1].name), BEST):
        if (run.path / name).is_file():
            return run.path / name
    raise FileNotFoundError(f"{run.path}: no student has been saved there yet")


def _teacher_if_here(settings: TeacherConfig, device: torch.device, made: Gallery) -> Teacher | None:
    """The run's teacher. None if the run has no teacher. Also None if the teacher's weights are gone or cannot be read. A note in
    `made` then says why."""
    try:
        name = settings.weights
        if settings.mode != "none" and name in PUBLISHED and not published_file(name).is_file():
            raise FileNotFoundError(f"{name}: its weights are not on this machine, and a report downloads nothing")
        teacher = build_teacher(settings, device)
    except (FileNotFoundError, WeightsError) as error:
        made.notes.append(f"The teacher's pictures are missing: {' '.join(str(error).split())}")
        return None
    if teacher is not None:
        made.teacher_parameters = sum(parameter.numel() for parameter in teacher.parameters())
    return teacher


def _from_row_pictures(run: RunFolder, count: int) -> tuple[Path | None, list[ShownImage]]:
    """The newest picture in samples/ that can be read, and at most `count` of its rows."""
    for path in sorted((run.path / ROW_PICTURES).glob("*.png"), reverse=True):
        try:
            pixels = read_image(path)
        except ImageError as error:
            logger.warning("%s", error)
            continue
        # n columns have n - 1 gaps between them. A picture of a run without a teacher or without sharp images has three columns.
        columns = (pixels.shape[1] + COLUMN_GAP) // (COLUMN_SIDE + COLUMN_GAP)
        has_sharp = run.config.data.val.has_sharp and path.name != row_picture_file(0)
        roles = ["blurry", "student", *["teacher"] * (columns == 4 or not has_sharp), *["sharp"] * has_sharp]
        if columns != len(roles):
            continue
        return path, [_cut(pixels, index, roles, run) for index in range(min(count, pixels.shape[0] // COLUMN_SIDE))]
    return None, []


def _cut(pixels: Pixels, index: int, roles: Sequence[str], run: RunFolder) -> ShownImage:
    """Cuts row `index` into its layers. The rows of a picture in samples/ are the first evaluated images, in order: those with a
    sharp image if there are any."""
    names = list(run.images if "sharp" in roles else run.fidelity)
    row = pixels[index * COLUMN_SIDE : (index + 1) * COLUMN_SIDE]
    starts = [number * (COLUMN_SIDE + COLUMN_GAP) for number in range(len(roles))]
    layers = [Layer(role, role, row[:, start : start + COLUMN_SIDE]) for role, start in zip(roles, starts, strict=True)]
    name = names[index] if index < len(names) else f"image {index + 1}"
    return ShownImage(name, layers, None, gains(run.images).get(name), shares(run.fidelity).get(name))
