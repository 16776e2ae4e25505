"""The original project's patch data set from a folder of sharp images: `python -m distill.prepare --sharp PHOTOS --out DIR`.

Writes `OUT/{sharp,blurry}/train/train`, `.../train/test` and `.../benchmark`; run again, it goes on.
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
from distill.data.find import find_images, fixed_part
from distill.data.image_files import ImageError
from distill.data.loader import load
from distill.data.patch_writer import BENCHMARK, TEST, TRAIN, PatchWriter, Settings, split
from distill.runtime.files import locked, write_bytes
from distill.runtime.progress import progress_bar

logger = logging.getLogger(__name__)

RECORD = "prepare.json"
# Of split and names; another number where either changes, or test images of one would be training images of the other.
LAYOUT = 2
EXAMPLE = """example:
  python -m distill.prepare --sharp PHOTOS/train --out data/photos --patch 256 --degrade configs/photos_online.yaml
"""


def prepare(sharp: str, out: Path, settings: Settings, workers: int = 2) -> Counter[str]:
    """Writes the data set, and returns how many patches each part has.

    Raises ConfigError where `out` holds another data set or lies among the images, FileNotFoundError and ImageError for images
    that cannot be used, and WriteError.
    """
    images = find_images(sharp)
    _refuse_inputs(sharp, out)
    folders = split(list(images), settings.seed)
    patches: Counter[str] = Counter()
    skipped, new = [], 0
    with locked(out):
        _check_record(out, _record(images, settings))
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


def _refuse_inputs(sharp: str, out: Path) -> None:
    """Raises ConfigError where patches would lie among the images: the next run would cut them up in turn."""
    folder = fixed_part(sharp).resolve()
    for written in ((out / kind).resolve() for kind in ("sharp", "blurry")):
        if written.is_relative_to(folder) or folder.is_relative_to(written):
            what = "would lie among the images of --sharp, and count as such the next time"
            raise ConfigError(f"--out: patches in {out} {what}; give another folder")


def _record(images: dict[str, Path], settings: Settings) -> dict[str, Any]:
    """What the patches are made of: with any of it changed, old and new ones would be mixed, and images change parts."""
    recipe = [step.model_dump(mode="json") for step in settings.degrade]
    values = {"layout": LAYOUT, "patch": settings.patch, "seed": settings.seed, "quality": settings.quality, "degrade": recipe}
    return {**values, "images": {stem: path.stat().st_size for stem, path in images.items()}}


def _check_record(out: Path, record: dict[str, Any]) -> None:
    """Raises ConfigError where the folder holds patches that another command, or other options or images, made."""
    path = out / RECORD
    if not path.exists():
        if any(file.is_file() for kind in ("sharp", "blurry") for file in (out / kind).rglob("*")):
            raise ConfigError(f"{out}: holds files in sharp/ or blurry/ that this command did not write; give another --out")
        write_bytes(path, json.dumps(record, indent=1).encode())
        return
    try:
        before = json.loads(path.read_bytes())
        changed = [key for key in record if before.get(key) != record[key]]
    except (ValueError, AttributeError, OSError):
        raise ConfigError(f"{path}: cannot be read; remove {out}, or give another --out") from None
    if changed:
        what = f"holds patches of other settings ({', '.join(changed)})"
        raise ConfigError(f"{out}: {what}; remove it, or give another --out")


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "prepare", "Splits a folder of sharp images, cuts them into patches and blurs each once; run again, it goes on.", EXAMPLE
    )
    parser.add_argument("--sharp", required=True, metavar="DIR", help="sharp images, searched recursively")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where sharp/ and blurry/ are written")
    parser.add_argument("--patch", type=int, default=512, metavar="N", help="side of the patches in pixels (default 512)")
    parser.add_argument(
        "--degrade",
        default="bicubic_x4",
        metavar="RECIPE",
        help="the blur: a preset, a YAML list, or a config file whose `degrade` is taken (default bicubic_x4, the original's)",
    )
    parser.add_argument("--seed", type=int, default=42, metavar="N", help="of the split and the blur (default 42)")
    parser.add_argument(
        "--quality", type=int, metavar="Q", help="write JPEG of this quality, as the original did, instead of PNG"
    )
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
