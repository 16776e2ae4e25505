"""The validation images that a report shows: blurry, student, teacher and sharp.

They are made again: the run's configuration gives the images, and the run's student and teacher restore them. If that fails, they
are cut from the run's last picture in samples/, which shows several validation images, one below the other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from distill.config import ConfigError, TeacherConfig
from distill.data.image_files import ImageError, read_image
from distill.data.pixels import COLUMN_GAP, Pixels, centre_crop
from distill.networks.architecture import inference_copy
from distill.networks.student_files import load_student
from distill.networks.teacher import Teacher, build_teacher
from distill.reporting.reading import RunFolder, gains
from distill.runtime.memory import is_out_of_memory
from distill.runtime.progress import progress_bar
from distill.scoring.metrics import psnr
from distill.scoring.validation import COLUMN_SIDE, Validation, to_pixels
from distill.training.run_folder import BEST, ROW_PICTURES, stage_file
from restormer.published import PUBLISHED, published_file
from restormer.weight_files import WeightsError

logger = logging.getLogger(__name__)

SHOWN_SIDE = 384
ORDER = ("blurry", "student", "teacher", "sharp")
# Raised if a file from which the pictures are made is gone or cannot be used.
NOT_HERE = (ConfigError, FileNotFoundError, PermissionError, ImageError, WeightsError)


@dataclass(frozen=True)
class Layer:
    role: str
    """blurry, student, teacher or sharp."""
    label: str
    pixels: Pixels
    run: int = 0
    """The index of the run whose student it is, if several runs are compared."""
    psnr: float | None = None
    """In dB, of the whole validation image. `pixels` may be only its centre."""


@dataclass(frozen=True)
class ShownImage:
    """One validation image: its blurry, student, teacher and sharp layers, all of one size."""

    name: str
    layers: list[Layer]
    rank: str | None = None
    """worst, median or best, if the image has that gain among the run's images."""
    gain: float | None = None
    """The student's, in dB, as in `reading.gains`."""


@dataclass
class Gallery:
    pictures: list[ShownImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences that tell the reader where the pictures come from, or why some are missing."""
    teacher_parameters: int | None = None
    ranked_by: str | None = None
    """The label of the run whose gains rank the pictures, if several runs are compared."""


def choose(gain_of: dict[str, float], count: int) -> dict[str, str | None]:
    """At most `count` images, the smallest gain first: {name: worst, median, best or None}.

    The worst, the best and the median are chosen first, in this order. All further images are spread evenly over the ranking.
    """
    ranked = sorted(gain_of, key=lambda name: gain_of[name])
    if not ranked or count < 1:
        return {}
    last, median = len(ranked) - 1, (len(ranked) - 1) // 2
    places = {0: "worst", last: "best", median: "median"} if last > 1 else {0: "worst", last: "best"} if last else {0: None}
    # Places in order of preference. Rounding can give a place twice, so all places follow, to reach `count` nevertheless.
    wanted = [0, last, median, *np.linspace(0, last, count).round().astype(int).tolist(), *range(last + 1)]
    kept = sorted(list(dict.fromkeys(wanted))[:count])
    return {ranked[place]: places.get(place) for place in kept}


def gallery(runs: Sequence[RunFolder], count: int, device: torch.device) -> Gallery:
    """The pictures of at most `count` validation images. Downloads nothing.

    Several runs show the same images. Each picture has the students of all runs, but an image that is blurred differently in two
    runs gives two pictures. The gains of one run choose and rank the images: the first run whose evaluation.csv gives gains.
    """
    ranked_by = next((run for run in runs if gains(run.images)), None)
    chosen = choose(gains(ranked_by.images), count) if ranked_by is not None else {}
    together = Gallery(ranked_by=ranked_by.label if ranked_by is not None and len(runs) > 1 else None)
    for place, run in enumerate(runs if count > 0 else ()):
        part = _of_run(run, chosen, count, device)
        if not chosen:  # no run has gains: later runs show the first run's images
            chosen = {picture.name: None for picture in part.pictures}
        if len(runs) > 1:
            part = _named(part, run.label, place, run is ranked_by)
        together.notes += part.notes
        together.teacher_parameters = together.teacher_parameters or part.teacher_parameters
        for picture in part.pictures:
            _add(together.pictures, picture, run.label)
    if together.pictures and not any(run.images for run in runs):
        together.notes.append("There is no evaluation.csv yet; the images are the first ones, not the best and the worst.")
    order = list(chosen)
    together.pictures.sort(key=lambda picture: order.index(picture.name) if picture.name in order else len(order))
    return together


def _named(part: Gallery, label: str, place: int, ranks: bool) -> Gallery:
    """Labels the student's layers and the notes with the run's name. Removes gain and rank unless this run ranks the pictures."""
    pictures = []
    for picture in part.pictures:
        layers = [replace(x, label=f"student of {label}", run=place) if x.role == "student" else x for x in picture.layers]
        pictures.append(replace(picture, layers=layers) if ranks else replace(picture, layers=layers, rank=None, gain=None))
    return Gallery(pictures, [f"{label}: {note}" for note in part.notes], part.teacher_parameters)


def _add(pictures: list[ShownImage], new: ShownImage, label: str) -> None:
    """Adds `new` to `pictures`. If `pictures` has the same image with the same blur, only the student and the teacher of `new`
    are added to that picture.

    The teacher is left out if that picture has an equal teacher image. If that picture has a different one, the added teacher is
    labelled with its run.
    """
    for place, old in enumerate(pictures):
        if old.name == new.name and _same(old, new, "blurry") and _same(old, new, "sharp"):
            here = [layer for layer in old.layers if layer.role != "sharp"]
            known = [layer.pixels for layer in old.layers if layer.role == "teacher"]
            there = [layer for layer in new.layers if layer.role == "student"]
            for layer in new.layers:
                if layer.role == "teacher" and not any(_equal(layer.pixels, pixels) for pixels in known):
                    there.append(replace(layer, label=f"teacher of {label}" if known else "teacher"))
            # old.layers[-1] is the sharp image.
            layers = sorted([*here, *there, old.layers[-1]], key=lambda layer: ORDER.index(layer.role))
            gain = old.gain if old.gain is not None else new.gain
            pictures[place] = replace(old, layers=layers, rank=old.rank or new.rank, gain=gain)
            return
    pictures.append(new)


def _same(old: ShownImage, new: ShownImage, role: str) -> bool:
    one, other = ([layer.pixels for layer in picture.layers if layer.role == role] for picture in (old, new))
    return len(one) == len(other) and all(_equal(*pair) for pair in zip(one, other, strict=True))


def _equal(one: Pixels, other: Pixels) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _of_run(run: RunFolder, chosen: dict[str, str | None], count: int, device: torch.device) -> Gallery:
    try:
        return _recompute(run, chosen, count, device)
    except Exception as error:
        reason = _reason(error, device)
        if reason is None:
            raise
    logger.warning(
        "%s: its pictures cannot be made again (%s); the last validation picture is taken, where there is one", run.path, reason
    )
    pictures = _from_row_pictures(run, count)
    note = f"These pictures were cut from the run's last validation picture, because they could not be made again: {reason}"
    return Gallery(pictures, [note] if pictures else [f"There are no pictures to show: {reason}"])


def _reason(error: Exception, device: torch.device) -> str | None:
    """Why the pictures cannot be made again, in words: memory ran out, or the error is one of NOT_HERE. A report without these
    pictures is still correct. None for any other error, because that is a bug in this project."""
    if is_out_of_memory(error):
        elsewhere = "" if device.type == "cpu" else "; --device cpu needs none of the GPU's"
        return f"there is not enough memory for them{elsewhere}"
    return " ".join(str(error).split()) if isinstance(error, NOT_HERE) else None


def _recompute(run: RunFolder, chosen: dict[str, str | None], count: int, device: torch.device) -> Gallery:
    """Makes the pictures again. Raises the errors of NOT_HERE, and torch's error if memory runs out."""
    made, weights = Gallery(), _student_file(run)
    student = inference_copy(load_student(weights)).to(device)
    teacher = _teacher_if_here(run.config.teacher, device, made)
    validation = Validation(run.config, teacher, device)
    names = list(chosen) or [image.stem for image in validation.dataset.images[:count]]
    gain_of = gains(run.images)
    with progress_bar(len(names), "image", desc=f"{run.label}: pictures", leave=False) as bar:
        for name, blurry, sharp in validation.named(names):
            layers = _layers(blurry, sharp, student, teacher)
            made.pictures.append(ShownImage(name, layers, chosen.get(name), gain_of.get(name)))
            bar.update()
    if not made.pictures:
        raise ImageError(f"{run.config.data.val.sharp}: none of the images of evaluation.csv is there")
    if weights.name != stage_file(run.config.stages[-1].name):
        made.notes.append(f"The student shown is {weights.name}, since the last stage has not ended.")
    return made


def _layers(blurry: torch.Tensor, sharp: torch.Tensor, student: nn.Module, teacher: Teacher | None) -> list[Layer]:
    reference = to_pixels(sharp)
    layers = [_layer("blurry", to_pixels(blurry), reference), _layer("student", _restored(student, blurry), reference)]
    if teacher is not None:
        layers.append(_layer("teacher", _restored(teacher, blurry), reference))
    return [*layers, Layer("sharp", "sharp", centre_crop(reference, SHOWN_SIDE))]


def _restored(network: nn.Module, blurry: torch.Tensor) -> Pixels:
    with torch.no_grad():
        return to_pixels(network(blurry))


def _layer(role: str, pixels: Pixels, reference: Pixels) -> Layer:
    return Layer(role, role, centre_crop(pixels, SHOWN_SIDE), psnr=psnr(pixels, reference))


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
        if settings.weights in PUBLISHED and settings.mode != "none":
            _refuse_download(settings.weights)
        teacher = build_teacher(settings, device)
    except (FileNotFoundError, WeightsError) as error:
        made.notes.append(f"The teacher's pictures are missing: {' '.join(str(error).split())}")
        return None
    if teacher is not None:
        made.teacher_parameters = sum(parameter.numel() for parameter in teacher.parameters())
    return teacher


def _refuse_download(name: str) -> None:
    if not published_file(name).is_file():
        raise FileNotFoundError(f"{name}: its weights are not on this machine, and a report downloads nothing")


def _from_row_pictures(run: RunFolder, count: int) -> list[ShownImage]:
    """At most `count` rows of the newest picture in samples/ that can be read."""
    for path in sorted((run.path / ROW_PICTURES).glob("*.png"), reverse=True):
        try:
            pixels = read_image(path)
        except ImageError as error:
            logger.warning("%s", error)
            continue
        # n columns have n - 1 gaps between them. A picture of a run without a teacher has three columns.
        columns = (pixels.shape[1] + COLUMN_GAP) // (COLUMN_SIDE + COLUMN_GAP)
        roles = ORDER if columns == 4 else ("blurry", "student", "sharp")
        if columns != len(roles):
            continue
        return [_cut(pixels, index, roles, run) for index in range(min(count, pixels.shape[0] // COLUMN_SIDE))]
    return []


def _cut(pixels: Pixels, index: int, roles: Sequence[str], run: RunFolder) -> ShownImage:
    """Cuts row `index` into its layers. The rows of a picture in samples/ are the first evaluated images, in order."""
    names, row = list(run.images), pixels[index * COLUMN_SIDE : (index + 1) * COLUMN_SIDE]
    starts = [number * (COLUMN_SIDE + COLUMN_GAP) for number in range(len(roles))]
    layers = [Layer(role, role, row[:, start : start + COLUMN_SIDE]) for role, start in zip(roles, starts, strict=True)]
    name = names[index] if index < len(names) else f"image {index + 1}"
    return ShownImage(name, layers, None, gains(run.images).get(name))
