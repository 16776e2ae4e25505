"""The pictures of a report, and how those of several runs become one gallery."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from distill.data.pixels import Pixels

ORDER = ("blurry", "student", "teacher", "sharp")


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
    against: str = "sharp"
    """The label of the layer with which `psnr` compares: the sharp image or, if nobody has that, the teacher's."""


@dataclass(frozen=True)
class ShownImage:
    """One validation image: its blurry, student and teacher layers, and the sharp one if there is one, all of one size."""

    name: str
    layers: list[Layer]
    rank: str | None = None
    """One of choice.GAIN_RANKS, or of SHARE_RANKS for an image without a sharp one, if the image has that place among the run's
    images of its kind."""
    gain: float | None = None
    """The student's, in dB, as in `reading.gains`."""
    reproduced: float | None = None
    """Of an image without a sharp one: the share in `reading.shares`."""
    ranked_by: str | None = None
    """The label of the run whose student has this gain or share, if several runs are compared."""

    @property
    def has_sharp(self) -> bool:
        return any(layer.role == "sharp" for layer in self.layers)


@dataclass
class Gallery:
    pictures: list[ShownImage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences that tell the reader where the pictures come from, or why some are missing."""
    teacher_parameters: int | None = None


def label_with_run(part: Gallery, label: str, place: int, ranks: dict[bool, bool]) -> Gallery:
    """Labels the student's layers and the notes with the run's name. Removes gain, share and rank of a picture unless this run
    ranks the pictures of its kind. `ranks` says so for pictures with a sharp image and for those without."""
    pictures = []
    for picture in part.pictures:
        layers = [replace(x, label=f"student of {label}", run=place) if x.role == "student" else x for x in picture.layers]
        if ranks[picture.has_sharp]:
            pictures.append(replace(picture, layers=layers, ranked_by=label))
        else:
            pictures.append(replace(picture, layers=layers, rank=None, gain=None, reproduced=None))
    return Gallery(pictures, [f"{label}: {note}" for note in part.notes], part.teacher_parameters)


def add_picture(pictures: list[ShownImage], new: ShownImage, label: str) -> None:
    """Adds `new` to `pictures`. If `pictures` has the same image with the same blur, only the student and the teacher of `new`
    are added to that picture.

    The teacher is left out if that picture has an equal teacher image. If that picture has a different one, the added teacher is
    labelled with its run.
    """
    for place, old in enumerate(pictures):
        if old.name == new.name and _same(old, new, "blurry") and _same(old, new, "sharp"):
            layers = sorted([*old.layers, *_added(old, new, label)], key=lambda layer: ORDER.index(layer.role))
            ranked = new if old.ranked_by is None else old
            pictures[place] = replace(ranked, layers=layers)
            return
    pictures.append(new)


def _added(old: ShownImage, new: ShownImage, label: str) -> list[Layer]:
    """The layers of `new` that `old` lacks: the student, and a teacher that differs from those of `old`."""
    known = [layer.pixels for layer in old.layers if layer.role == "teacher"]
    teachers = [x for x in new.layers if x.role == "teacher" and not any(_equal(x.pixels, pixels) for pixels in known)]
    name = f"teacher of {label}" if known and teachers else "teacher"
    students = [replace(x, against=name) if x.against == "teacher" else x for x in new.layers if x.role == "student"]
    return [*students, *(replace(teacher, label=name) for teacher in teachers)]


def _same(old: ShownImage, new: ShownImage, role: str) -> bool:
    one, other = ([layer.pixels for layer in picture.layers if layer.role == role] for picture in (old, new))
    return len(one) == len(other) and all(_equal(*pair) for pair in zip(one, other, strict=True))


def _equal(one: Pixels, other: Pixels) -> bool:
    return one.shape == other.shape and bool((one == other).all())
