"""Finds the image files among a user's files, folders and patterns, and names the file for each result."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.data.find import SUFFIXES, NoImagesError, images_below
from distill.data.image_files import ImageError

COMPARISONS = "compare"


@dataclass(frozen=True)
class Job:
    """An image file, the file for its result, and the file for a comparison of the two."""

    source: Path
    target: Path
    comparison: Path


def select(inputs: Sequence[str], out: Path, suffix: str | None = None, compare: bool = False) -> list[Job]:
    """One job for each image file among the inputs, in their order. An input is a file, a folder with all that is below it, or a
    pattern such as `photos/*/*.jpg`.

    The base of a pattern is the part before its first wildcard. A result's path below `out` is the file's name for a named file,
    the path below the folder for a file in a folder, and the path below the base for a match. `suffix` (`.png`, say) replaces the
    file's own suffix. If `out` lies below a folder or a base, the images in `out` are earlier results and are not inputs.

    Raises FileNotFoundError if an input does not exist, and NoImagesError if no input holds an image. Raises ImageError if a
    named file has no image suffix, if `out` is a folder or a base itself, or if a result would replace another result or an
    input. With `compare`, comparisons count as results.
    """
    jobs: dict[tuple[Path, Path], Job] = {}
    for text in inputs:
        for source, relative in _find(text, out.resolve()):
            target = out / (relative if suffix is None else relative.with_suffix(suffix))
            comparison = out / COMPARISONS / relative.with_name(f"{relative.name}.png")
            jobs[source.resolve(), target] = Job(source, target, comparison)
    if not jobs:
        raise NoImagesError(f"{', '.join(inputs)}: no images ({', '.join(sorted(SUFFIXES))})")
    _refuse_collisions(list(jobs.values()), compare)
    return list(jobs.values())


def _find(text: str, out: Path) -> Iterator[tuple[Path, Path]]:
    """(image file, path of its result below `out`) for each image of one input. `out` is the folder of the results."""
    path = Path(text)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise ImageError(f"not named as an image is ({', '.join(sorted(SUFFIXES))})", path)
        yield path, Path(path.name)
    elif path.is_dir():
        yield from _below(path, images_below(path), out)
    elif glob.has_magic(text):
        yield from _find_matches(text, out)
    else:
        raise FileNotFoundError(f"{text}: no such file or folder")


def _find_matches(pattern: str, out: Path) -> Iterator[tuple[Path, Path]]:
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    if not matches:
        raise FileNotFoundError(f"{pattern}: no file or folder matches")
    parts = Path(pattern).parts
    base = Path(*parts[: next(index for index, part in enumerate(parts) if glob.has_magic(part))])
    for match in matches:
        images = images_below(match) if match.is_dir() else [match] if match.suffix.lower() in SUFFIXES else []
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
    """Raises ImageError. Names that differ only in case count as the same, because some systems treat them as one file."""
    sources = {job.source.resolve() for job in jobs}
    writers: dict[str, tuple[Job, str]] = {}
    for job in jobs:
        files = [("result", job.target), *([("comparison", job.comparison)] if compare else [])]
        for kind, written in files:
            if written.resolve() in sources:
                raise ImageError(f"its {kind} would replace {written}, which is an input; give another --out", job.source)
            other, its_kind = writers.setdefault(str(written).casefold(), (job, kind))
            if other is not job:
                same = f"as the {its_kind} of {other.source}"
                raise ImageError(f"its {kind} would be {written}, {same}; give another name or --out", job.source)
