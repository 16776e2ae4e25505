"""Finds the image files among a user's files, folders and patterns, and names the file for each result."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.data.decoding.kinds import SUFFIXES, UNREAD, unread_in_words
from distill.data.find import NoImagesError, PassedOver, images_below
from distill.data.image_files import ImageError
from distill.pictures.formats import FORMATS

COMPARISONS = "compare"


@dataclass(frozen=True)
class Job:
    """An image file, the file for its result, and the file for a comparison of the two."""

    source: Path
    target: Path
    comparison: Path


def select(
    inputs: Sequence[str], out: Path, suffix: str | None = None, compare: bool = False, passed: PassedOver | None = None
) -> list[Job]:
    """One job for each image file among the inputs, in their order. An input is a file, a folder with all that is below it, or a
    pattern such as `photos/*/*.jpg`.

    The base of a pattern is the folder before the first part of its path with a wildcard: `photos` for `photos/a*/*.jpg`. The
    result's path below `out` is the image's name if the input is a file, the image's path below the folder if the input is a
    folder, and the image's path below the base if the input is a pattern. `suffix` (`.png`, say) replaces the image's own suffix.
    A picture of a kind that is not written becomes a PNG: `a.gif` gives `a.gif.png`. `passed` collects what is passed over.
    If `out` lies below an input folder or a base, the images in `out` are earlier results and are not inputs.

    Raises FileNotFoundError if an input does not exist or a pattern matches nothing, and NoImagesError if no input holds an
    image. Raises ImageError if an input file has no image suffix, if `out` is itself an input folder or a base, or if a result
    would replace another result or an input. With `compare`, comparisons count as results.
    """
    jobs: dict[tuple[Path, Path], Job] = {}
    passed = PassedOver() if passed is None else passed
    for text in inputs:
        for source, relative in _find(text, out.resolve(), passed):
            written = relative if relative.suffix.lower() in FORMATS else relative.with_name(f"{relative.name}.png")
            target = out / (written if suffix is None else relative.with_suffix(suffix))
            comparison = out / COMPARISONS / relative.with_name(f"{relative.name}.png")
            # An image that two inputs name for the same target is one job.
            jobs[source.resolve(), target] = Job(source, target, comparison)
    if not jobs and not passed.broken:
        reasons = [f"no images ({', '.join(sorted(SUFFIXES))})", *unread_in_words(passed.unread)]
        raise NoImagesError(f"{', '.join(inputs)}: {'; '.join(reasons)}")
    _refuse_collisions(list(jobs.values()), compare)
    return list(jobs.values())


def _find(text: str, out: Path, passed: PassedOver) -> Iterator[tuple[Path, Path]]:
    """(image file, path of its result below `out`) for each image of one input. `out` is the folder of the results."""
    path = Path(text)
    if path.is_dir():
        yield from _below(path, images_below(path, passed), out)
    elif os.path.lexists(path):
        if path.suffix.lower() not in SUFFIXES | UNREAD.keys():
            raise ImageError(f"not named as an image is ({', '.join(sorted(SUFFIXES))})", path)
        if passed.look(path):
            yield path, Path(path.name)
    elif glob.has_magic(text):
        yield from _find_matches(text, out, passed)
    else:
        raise FileNotFoundError(f"{text}: no such file or folder")


def _find_matches(pattern: str, out: Path, passed: PassedOver) -> Iterator[tuple[Path, Path]]:
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    if not matches:
        raise FileNotFoundError(f"{pattern}: no file or folder matches")
    parts = Path(pattern).parts
    base = Path(*parts[: next(index for index, part in enumerate(parts) if glob.has_magic(part))])
    for match in matches:
        images = images_below(match, passed) if match.is_dir() else [match] if passed.look(match) else []
        yield from _below(base, images, out)


def _below(base: Path, images: Iterable[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """(image file, its path below `base`) for each image that is not an earlier result. `out` is the folder of the results."""
    if out == base.resolve():
        raise ImageError("results there would lie among the inputs, and count as such the next time; give another --out", base)
    with_results = out.is_relative_to(base.resolve())
    for image in images:
        if not (with_results and image.resolve().is_relative_to(out)):
            yield image, image.relative_to(base)


def _refuse_collisions(jobs: Sequence[Job], compare: bool) -> None:
    """Raises ImageError if a file to be written is also an input, or if two jobs would write the same file. Files to be written
    whose names differ only in case, or in how Unicode writes an accent, count as one: some systems treat them so."""
    sources = {job.source.resolve() for job in jobs}
    writers: dict[str, tuple[Job, str]] = {}
    for job in jobs:
        files = [("result", job.target), *([("comparison", job.comparison)] if compare else [])]
        for kind, written in files:
            if written.resolve() in sources:
                raise ImageError(f"its {kind} would replace {written}, which is an input; give another --out", job.source)
            name = unicodedata.normalize("NFC", str(written)).casefold()
            other, its_kind = writers.setdefault(name, (job, kind))
            if other is not job:
                same = f"as the {its_kind} of {other.source}"
                raise ImageError(f"its {kind} would be {written}, {same}; give another name or --out", job.source)
