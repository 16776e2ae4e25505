"""Makes a patch data set from sharp images, as the original project did: `python -m distill.prepare --sharp PHOTOS --out DIR`.

Writes `DIR/{sharp,blurry}/train/train`, `.../train/test` and `.../benchmark`. A second run cuts only images with missing patches.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from distill.command import SignalGate, new_parser, run_command
from distill.config import ConfigError, parse_recipe
from distill.data.decoding.versions import READER, was_misread
from distill.data.find import find_images, fixed_part
from distill.data.image_files import ImageError, warn_of_16_bits
from distill.data.loader import load
from distill.data.patch_writer import BENCHMARK, TEST, TRAIN, PatchWriter, Settings, split
from distill.errors import listed
from distill.runtime.files import locked, write_bytes
from distill.runtime.progress import progress_bar

logger = logging.getLogger(__name__)

RECORD = "prepare.json"
# Version of the split and of the patches' file names. Raise it if either changes: with patches of two versions in one folder,
# training and test images would mix.
LAYOUT = 2
EXAMPLE = """example:
  python -m distill.prepare --sharp PHOTOS/train --out data/photos --patch 256 --degrade configs/photos_online.yaml
"""


def prepare(sharp: str, out: Path, settings: Settings, workers: int = 2) -> Counter[str]:
    """Writes the data set and returns the number of patches in each part.

    A single image file that cannot be used is skipped, with a warning. Raises ConfigError if `out` holds another data set or lies
    among the images, FileNotFoundError if the folder of images is missing, ImageError if no data set can be made of the images,
    and WriteError.
    """
    images = find_images(sharp)
    warn_of_16_bits(list(images.values()))
    _refuse_overlap(sharp, out)
    folders = split(list(images), settings.seed)
    patches: Counter[str] = Counter()
    skipped, new = [], 0
    with locked(out):
        _check_record(out, _record(images, settings), images)
        results = load(PatchWriter(images, folders, out, settings), workers, batch_size=None)
        with progress_bar(len(images), "image") as bar, closing(results):
            for done in results:
                patches[done.folder] += done.patches
                new += done.new
                if done.skipped is not None:
                    skipped.append(done.skipped)
                bar.update()
    logger.info("%d of %d images were cut now", new, len(images))
    for bad in skipped:
        logger.warning("skipped %s: %s", bad.path, bad.reason)
    if not patches[TRAIN]:
        size = f"{settings.patch}x{settings.patch}"
        raise ImageError(f"{sharp}: no training image holds a patch of {size} pixels; give a smaller --patch")
    for folder in (TEST, BENCHMARK):
        if not patches[folder]:
            logger.warning("WARNING: no image of %s holds a patch of this size; the folder is empty", folder)
    return patches


def _refuse_overlap(sharp: str, out: Path) -> None:
    """Raises ConfigError if patches would lie among the sharp images: the next run would cut those patches too."""
    folder = fixed_part(sharp).resolve()
    for written in ((out / kind).resolve() for kind in ("sharp", "blurry")):
        if written.is_relative_to(folder) or folder.is_relative_to(written):
            what = "would lie among the images of --sharp, and count as such the next time"
            raise ConfigError(f"--out: patches in {out} {what}; give another folder")


def _record(images: dict[str, Path], settings: Settings) -> dict[str, Any]:
    """Everything that decides the patches and the split. If any of it changed, old and new patches would mix, and images would
    move between training, test and benchmark. An image's size in bytes stands for its content."""
    recipe = [step.model_dump(mode="json") for step in settings.degrade]
    values = {"layout": LAYOUT, "patch": settings.patch, "seed": settings.seed, "quality": settings.quality, "degrade": recipe}
    return {**values, "images": {stem: path.stat().st_size for stem, path in images.items()}}


def _check_record(out: Path, record: dict[str, Any], images: dict[str, Path]) -> None:
    """Raises ConfigError if `out` holds files that this command did not write, patches of other options or images or of images
    that were misread, or a record that cannot be read. Writes the record if there is none."""
    path = out / RECORD
    if path.exists():
        try:
            before = json.loads(path.read_bytes())
            changed = [key for key in record if before.get(key) != record[key]]
        except (ValueError, AttributeError, OSError):
            raise ConfigError(f"{path}: cannot be read; remove {out}, or give another --out") from None
        if changed:
            what = f"holds patches of other settings ({', '.join(changed)})"
            raise ConfigError(f"{out}: {what}; remove it, or give another --out")
        if before.get("reader") == READER:
            return
        if misread := [str(file) for file in images.values() if was_misread(file)]:
            what = f"holds patches of images that an earlier version misread ({listed(misread, 1)})"
            raise ConfigError(f"{out}: {what}; remove it, or give another --out")
    elif any(file.is_file() for kind in ("sharp", "blurry") for file in (out / kind).rglob("*")):
        raise ConfigError(f"{out}: holds files in sharp/ or blurry/ that this command did not write; give another --out")
    write_bytes(path, json.dumps(record | {"reader": READER}, indent=1).encode())


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "prepare",
        "Splits sharp images into training, test and benchmark, cuts and blurs patches of them; run again, it goes on.",
        EXAMPLE,
    )
    parser.add_argument("--sharp", required=True, metavar="DIR", help="sharp images, searched recursively")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where sharp/ and blurry/ are written")
    parser.add_argument("--patch", type=int, default=512, metavar="N", help="side of the patches in pixels (default 512)")
    parser.add_argument(
        "--degrade",
        default="bicubic_x4",
        metavar="RECIPE",
        help="the blur: a preset, a YAML list, or a config file whose `degrade` is taken (default bicubic_x4)",
    )
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the split and the blur (default 42)")
    parser.add_argument("--quality", type=int, metavar="Q", help="write JPEG of this quality instead of PNG")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default 2)")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    for name, lowest, highest in (("patch", 16, 65536), ("seed", 0, 2**32 - 1), ("workers", 0, 1024), ("quality", 1, 100)):
        value = getattr(arguments, name)
        if value is not None and not lowest <= value <= highest:
            raise ConfigError(f"--{name}: {lowest} to {highest}, found {value}")
    recipe = parse_recipe(arguments.degrade)
    if not recipe:
        raise ConfigError(f"--degrade: {arguments.degrade} has no degradation: nothing would make a blurry image")
    SignalGate().install()
    settings = Settings(arguments.patch, arguments.seed, recipe, arguments.quality)
    patches = prepare(arguments.sharp, arguments.out, settings, arguments.workers)
    parts = f"{patches[TRAIN]} for training, {patches[TEST]} for tests, {patches[BENCHMARK]} for the benchmark"
    print(f"{arguments.out}: patches of {arguments.patch}x{arguments.patch}: {parts}")


if __name__ == "__main__":
    run_command(main)
