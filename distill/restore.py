"""Restores image files with a trained student, or a teacher: `python -m distill.restore --weights W IN... --out DIR`.

A second run keeps each result that is newer than its input and was made with the same weights and quality.
"""

from __future__ import annotations

import argparse
import errno
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from torch import nn
from tqdm.contrib.logging import logging_redirect_tqdm

from distill.command import SignalGate, new_parser, run_command
from distill.config import ConfigError
from distill.config.types import Precision
from distill.data.decoding.kinds import unread_in_words
from distill.data.find import PassedOver
from distill.data.image_files import ImageError
from distill.data.pixels import AnyPixels, Pixels, centre_crop, side_by_side, to_rgb
from distill.errors import one_line
from distill.networks.adapters import ColoursError, OneChannel
from distill.networks.student_files import GENERAL_STUDENT, load_student, locate_network
from distill.networks.teacher import teacher_precision
from distill.pictures.formats import Picture, dropped
from distill.pictures.metadata import Metadata
from distill.pictures.reading import read_picture
from distill.pictures.record import is_done, results_since
from distill.pictures.restorer import TILE, NotFiniteError, Restorer
from distill.pictures.selection import COMPARISONS, Job, select
from distill.pictures.transparency import filled, with_hidden
from distill.pictures.writing import DEFAULT_QUALITY, encode_picture
from distill.runtime.device import choose_device
from distill.runtime.files import WriteError, locked, write_bytes
from distill.runtime.memory import is_out_of_memory
from distill.runtime.progress import progress_bar
from restormer.weight_files import sha256_of

logger = logging.getLogger(__name__)

Format = Literal["png", "jpg", "webp", "avif", "tif"]

MAX_PIXELS = 400_000_000
COMPARISON_SIDE = 512
# A name that is too long, and a folder where the file should be, or a file where its folder should be.
ERRORS_OF_A_PATH = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)
EXAMPLE = """example:
  python -m distill.restore --weights runs/quickstart/student_best.pth photos/ scan.tif 'more/*/*.jpg' --out restored --compare

Kept, as far as the written format holds them: relative names, format, 8 or 16 bits, grey, alpha, EXIF, XMP, resolution, colour
profile. Pictures are written upright; CMYK and palettes as RGB; GIF, HEIC, JPEG 2000 and other formats as PNG. A picture that
cannot be restored is left out: exit status 2."""


@dataclass
class Summary:
    """The outcome of each picture."""

    restored: list[Path] = field(default_factory=list)
    """The files written."""
    done: list[Path] = field(default_factory=list)
    """The results that were there already."""
    failed: list[ImageError] = field(default_factory=list)
    unread: set[Path] = field(default_factory=set)
    """Image files of kinds that are not read."""


def restore(
    inputs: Sequence[str],
    weights: str,
    out: Path,
    *,
    file_format: Format | None = None,
    quality: int = DEFAULT_QUALITY,
    tile: int = TILE,
    device: str = "auto",
    precision: Literal["auto"] | Precision = "auto",
    each_channel: bool = False,
    overwrite: bool = False,
    compare: bool = False,
    allow_large: bool = False,
) -> Summary:
    """Restores every image file among the inputs (files, folders, patterns) and writes the results into the folder `out`.

    `weights` is a file, `general_student`, or a name as in `teacher.weights`. `file_format` None keeps each file's own format; a
    kind that is not written becomes a PNG. `quality`, 1 to 100, applies to JPEG, WebP and AVIF. `tile` is the side in pixels of
    the largest image that the network sees at once. `precision` auto is fp16 on CUDA and fp32 elsewhere. `each_channel` is as in
    `teacher`. Without `overwrite`, a result is kept if it is newer than its input and of the same weights and quality. `compare`
    also writes the centres of picture and result, side by side, to out/compare. Pictures of more than 400 megapixels need
    `allow_large`.

    A picture that cannot be restored is listed in the summary, and the others are still restored. The arguments are checked
    first: raises FileNotFoundError, WeightsError, ConfigError (device, tile, each_channel), and ImageError (nothing to do, or a
    result would replace another file). Raises WriteError if `out` cannot be written.
    """
    passed = PassedOver()
    jobs = select(inputs, out, None if file_format is None else f".{file_format}", compare, passed)
    place = choose_device(device, key="--device")
    chosen = teacher_precision(precision, place)
    if chosen != "fp32" and place.type == "cpu":
        logger.warning("--precision: %s is many times slower than fp32 on a CPU", chosen)
    file = locate_network(weights)
    restorer = Restorer(_network(file, each_channel), place, chosen, tile)
    # If one of these settings changes, earlier results are restored again. Device, precision and tile are not among them: they
    # hardly change a result, and a user who goes on with smaller tiles wants to keep the results so far.
    settings: dict[str, str | int] = {"weights_sha256": sha256_of(file), "quality": quality}
    summary = Summary(failed=[*passed.broken.values()], unread=passed.unread)
    with locked(out), logging_redirect_tqdm(), progress_bar(len(jobs), "image") as bar:
        since = results_since(out, jobs, settings, overwrite=overwrite, compare=compare)
        for job in jobs:
            if not overwrite and is_done(job, since, compare):
                summary.done.append(job.target)
            else:
                try:
                    _restore_one(job, restorer, None if allow_large else MAX_PIXELS, quality, compare)
                    summary.restored.append(job.target)
                except ImageError as error:
                    logger.warning("%s", error)
                    summary.failed.append(error)
            bar.update()
    for message in [*passed.broken.values(), *unread_in_words(passed.unread)]:
        logger.warning("%s", message)
    return summary


def _network(file: Path, each_channel: bool) -> nn.Module:
    network = load_student(file, each_channel=each_channel)
    if each_channel and not isinstance(network, OneChannel):
        raise ConfigError(f"--each-channel: the network of {file} has three channels already")
    return network


def _restore_one(job: Job, restorer: Restorer, max_pixels: int | None, quality: int, compare: bool) -> None:
    """Raises ImageError if the picture cannot be read, restored or encoded. Raises WriteError if a file cannot be written."""
    picture = read_picture(job.source, max_pixels)
    for note in [*picture.notes, *dropped(picture, job.target.suffix)]:
        logger.warning("%s: %s", job.source, note)
    blurry = picture.pixels
    height, width = blurry.shape[:2]
    with progress_bar(height * width, "pixel", desc=job.source.name, unit_scale=True, leave=False) as bar:
        try:
            restored = restorer.restore(filled(blurry, picture.alpha), bar.update)
            picture.pixels = with_hidden(restored, blurry, picture.alpha)
        except NotFiniteError as error:
            raise ImageError(f"{error}; only --precision fp32 can mend this", job.source) from None
        except ColoursError as error:
            raise ImageError(str(error), job.source) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ImageError("there is not enough memory; a smaller --tile needs less", job.source) from None
    if compare:
        _write(job, job.comparison, encode_picture(_comparison(blurry, picture), ".png"))
    del blurry  # frees memory for encoding
    _write(job, job.target, _encode(job, picture, quality))


def _write(job: Job, path: Path, data: memoryview) -> None:
    """Raises ImageError if the path is at fault, such as a name that is too long, and WriteError for any other reason."""
    try:
        write_bytes(path, data)
    except WriteError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in ERRORS_OF_A_PATH:
            raise ImageError(f"its result {error}", job.source) from error
        raise


def _encode(job: Job, picture: Picture, quality: int) -> memoryview:
    """The encoded file. EXIF, XMP or a resolution that cannot be written is left out, with a warning. Raises ImageError if that
    does not help."""
    suffix, metadata = job.target.suffix, picture.metadata
    reasons: list[str] = []
    for left_out in metadata.omissions():
        try:
            data = encode_picture(replace(picture, metadata=metadata.without(left_out)), suffix, quality)
        except Exception as error:  # noqa: BLE001 (Pillow's writer raises anything for EXIF that other programs wrote)
            reasons.append(one_line(error))
            continue
        if left_out:
            logger.warning("%s: its %s cannot be written, and is left out: %s", job.source, " and ".join(left_out), reasons[0])
        return data
    raise ImageError(f"cannot be written as {suffix[1:]}: {reasons[0]}", job.source)


def _comparison(blurry: AnyPixels, restored: Picture) -> Picture:
    """The centres of both, side by side, at most 512 x 512 pixels each, in 8-bit RGB with the picture's colour profile."""
    profile = Metadata(icc=restored.metadata.icc)
    return Picture(side_by_side([_centre(blurry), _centre(restored.pixels)]), metadata=profile)


def _centre(pixels: AnyPixels) -> Pixels:
    return centre_crop(to_rgb(pixels), COMPARISON_SIDE)


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("restore", "Restores image files with a trained student, or a teacher; run again, it goes on.", EXAMPLE)
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="IN",
        help="files, folders (searched recursively), patterns such as 'photos/*/*.jpg'",
    )
    add(
        "--weights",
        required=True,
        metavar="W",
        help=f"a student: a file, or {GENERAL_STUDENT}; or a teacher: a file, or a name as in teacher.weights",
    )
    add("--out", required=True, type=Path, metavar="DIR", help="where the results go, under the inputs' relative names")
    add("--format", choices=get_args(Format), help="of the files written (default: each input's own)")
    add("--quality", type=int, default=DEFAULT_QUALITY, metavar="Q", help="of JPEG, WebP, AVIF: 1 to 100 (default %(default)s)")
    add(
        "--tile",
        type=int,
        default=TILE,
        metavar="N",
        help="the network sees NxN pixels at once; lower it to save memory (default %(default)s)",
    )
    add("--device", default="auto", help="auto, cpu, mps, cuda or cuda:N (default %(default)s)")
    add("--precision", choices=("auto", "fp32", "fp16"), default="auto", help="auto is fp16 on CUDA, fp32 elsewhere (default)")
    add("--each-channel", action="store_true", help="apply a grey network to each channel of a colour picture")
    add("--overwrite", action="store_true", help="replace files that exist already")
    add("--compare", action="store_true", help=f"also write the centre before and after, side by side, to DIR/{COMPARISONS}/")
    add("--allow-large", action="store_true", help=f"restore pictures of more than {MAX_PIXELS // 10**6} megapixels too")
    return parser


def main() -> None:
    arguments = make_parser().parse_intermixed_args()  # options may stand between inputs
    if not 1 <= arguments.quality <= 100:
        raise ConfigError(f"--quality: 1 to 100, found {arguments.quality}")
    SignalGate().install()
    summary = restore(
        arguments.inputs,
        arguments.weights,
        arguments.out,
        file_format=arguments.format,
        quality=arguments.quality,
        tile=arguments.tile,
        device=arguments.device,
        precision=arguments.precision,
        each_channel=arguments.each_channel,
        overwrite=arguments.overwrite,
        compare=arguments.compare,
        allow_large=arguments.allow_large,
    )
    kept = f", {len(summary.done)} kept: done already (--overwrite restores them again)" if summary.done else ""
    print(f"{arguments.out}: {len(summary.restored)} images restored{kept}")
    if summary.failed:
        total = len(summary.restored) + len(summary.done) + len(summary.failed)
        raise ImageError(f"{len(summary.failed)} of {total} images could not be restored; they are named above")


if __name__ == "__main__":
    run_command(main)
