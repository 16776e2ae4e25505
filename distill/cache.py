"""Stores the teacher's images for `teacher.mode: cached`: `python -m distill.cache --config configs/div2k_cached.yaml`.

A second run computes only the teacher images that are missing, damaged, or made from an input that changed. The command can be
stopped or killed at any moment. Under torchrun every rank computes its share.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from distill.command import SignalGate, add_config_arguments, new_parser, read_config, run_command
from distill.config import Config, ConfigError, DataConfig, TeacherConfig
from distill.data.image_files import warn_of_16_bits
from distill.data.sources import cached_images
from distill.data.triplets import ImageFile
from distill.networks.teacher import Teacher, build_teacher, identify
from distill.runtime.device import choose_device
from distill.runtime.files import locked
from distill.runtime.progress import progress_bar
from distill.runtime.ranks import Ranks
from distill.scoring.metrics import decibel
from distill.teacher_cache.approximation import measure_approximation
from distill.teacher_cache.differences import Differences, find_differences, refuse
from distill.teacher_cache.fill import fill
from distill.teacher_cache.manifest import CacheError, Header, merge_parts
from distill.teacher_cache.opening import cached_precision
from distill.teacher_cache.pack import pack
from distill.teacher_cache.store import TeacherCache, new_header, reset_cache

logger = logging.getLogger(__name__)

EXAMPLE = """example:
  python -m distill.cache --config configs/photos_cached.yaml
  python -m distill.cache --config configs/photos_cached.yaml --verify
"""


def build_cache(config: Config, fresh: bool = False, repair: bool = False) -> TeacherCache:
    """Completes `teacher.cache` for the images of `data`.

    `fresh` first removes what the cache holds. `repair` checksums every file, even if its size and time are as recorded, tries
    unreadable inputs again, and removes the teacher images whose input is gone. Raises ConfigError, FileNotFoundError,
    ImageError, WeightsError, CacheError and WriteError for errors the user can mend.
    """
    images, ranks = _images(config.data), Ranks.of_environment()
    warn_of_16_bits([image.blurry for image in images if image.blurry is not None])
    device = choose_device(config.run.device, ranks)
    folder = Path(config.teacher.cache)
    with ExitStack() as held:
        held.enter_context(ranks.connected(device))
        with ranks.first_of_node_first():
            teacher = _teacher(config.teacher, device, fresh)
        header = new_header(identify(teacher), images, config.data, config.teacher.tile)
        if ranks.first:
            held.enter_context(locked(folder))
            merge_parts(folder)  # the lines of other ranks, if an earlier run was killed
            if fresh:
                _refuse_foreign(folder)
                reset_cache(folder, images, header)
        stems = ranks.broadcast(lambda: _stems_to_compute(_open(folder, header), images, repair))
        cache, share = TeacherCache(folder), ranks.share(_with_stems(stems, images))
        if not ranks.first:
            cache.manifest.append_as(ranks.rank)
        entries = fill(cache, teacher, share, config.teacher.tile, config.data.workers, device)
        # The bar of one process counts all images and starts at the valid ones. With several ranks it counts rank 0's share only.
        with _progress(share if ranks.count > 1 else images, share, ranks) as bar, closing(entries):
            for _ in entries:
                bar.update()
        ranks.barrier()  # every rank has appended its lines
        if ranks.first:
            merge_parts(folder)
            cache.manifest.refresh()
            _summarise(cache, stems)
    return cache


def _stems_to_compute(cache: TeacherCache, images: Sequence[ImageFile], repair: bool) -> list[str]:
    """The stems (image paths below their folder, without suffix) whose teacher image must be computed. Records the new times of
    files whose content did not change. `repair` also removes the teacher images whose input is gone."""
    found = _compare(cache, images, thorough=repair)
    cache.restamp(_with_stems(found.touched, images))
    if found.removed and repair:
        cache.remove(found.removed)
    elif found.removed:
        logger.warning("%s; --repair removes them", Differences(removed=found.removed).complaint())
    # An unreadable input that did not change is tried again only with --repair.
    unreadable = [stem for stem, entry in cache.manifest.entries.items() if repair and entry.unreadable is not None]
    return sorted({*found.to_compute, *unreadable})


def verify_cache(config: Config) -> TeacherCache:
    """Checksums every input and output of the cache, PNG or packed. Raises a CacheError that names what is wrong."""
    images, teacher = _images(config.data), _teacher(config.teacher, choose_device(config.run.device))
    return _verified(config.teacher, images, teacher)


def _verified(settings: TeacherConfig, images: Sequence[ImageFile], teacher: Teacher) -> TeacherCache:
    """`verify_cache` for images and a teacher that the caller has. Raises the same CacheError."""
    cache = TeacherCache(settings.cache)
    if cache.manifest.header is None:
        raise CacheError(f"{cache.folder}: no manifest, nothing to verify", mend="" if cache.bare is None else None)
    cache.check_identity(identify(teacher))
    refuse(cache, _compare(cache, images, thorough=True), thorough=True)
    return cache


def pack_cache(config: Config, folder: Path) -> TeacherCache:
    """Completes the PNG cache, then copies its teacher, blurry and sharp images into shards in `folder`. A shard is a
    safetensors file with the raw pixels of many images. A second call packs only what changed. Raises the errors of
    `build_cache`."""
    cache, images = build_cache(config), _images(config.data)
    assert cache.manifest.header is not None
    with locked(folder):
        packed = TeacherCache(folder)
        if packed.bare is not None or packed.storage == "png":
            raise CacheError(f"{folder}: holds other images; give a folder of its own to --pack")
        packed.check_identity(cache.manifest.header.teacher)
        packed.manifest.write_header(cache.manifest.header.model_copy(update={"storage": "safetensors"}))
        found = _compare(packed, images, thorough=True)
        packed.restamp(_with_stems(found.touched, images))
        if found.removed:
            packed.remove(found.removed)
        # Images that were packed without a teacher image and have one now.
        made = cache.manifest.entries
        mended = [stem for stem, old in packed.manifest.entries.items() if old.output is None and made[stem].output is not None]
        todo = _with_stems([*found.to_compute, *mended], images)
        shards = pack(cache, todo, packed, config.data.workers)
        with _progress(images, todo, Ranks()) as bar, closing(shards):
            for entries in shards:
                bar.update(len(entries))
        packed.remove_unused_shards()
    _summarise(packed, [image.stem for image in todo])
    return packed


def approximation_table(config: Config, count: int) -> str:
    """A table with one line per augmentation. It gives the PSNR of the augmented cached teacher image, and beside it the PSNR of
    the augmented blurry image, both over `count` images. The reference is the image that mode `online` would compute: the
    teacher's output for the augmented blurry image. Verifies the cache first. Raises the errors of `verify_cache`, and
    ConfigError if `count` is below 1."""
    if count < 1:
        raise ConfigError(f"--approximation: at least 1 image, found {count}")
    device = choose_device(config.run.device)
    images, teacher = _images(config.data), _teacher(config.teacher, device)
    cache = _verified(config.teacher, images, teacher)
    readable = [image for image in images if cache.manifest.entries[image.stem].output is not None]
    chosen = readable[:: max(1, len(readable) // count)][:count]
    rows = measure_approximation(teacher, cache, chosen, config.data.patch, device)
    lines = [f"PSNR to the online teacher image, {len(chosen)} images", f"{'augmentation':<16}{'cached':>8}{'blurry':>8}"]
    return "\n".join(
        lines + [f"{name:<16}{decibel(cached):8.2f}{decibel(blurry):8.2f}" for name, (cached, blurry) in rows.items()]
    )


def _images(data: DataConfig) -> list[ImageFile]:
    for index, source in enumerate(data.entries):
        if source.blurry is None:
            key = "data.blurry" if data.sources is None else f"data.sources.{index}.blurry"
            raise ConfigError(
                f"{key}: null leaves nothing of {source.folder} to cache, since each epoch blurs anew; python -m distill.prepare"
                " makes a folder of blurry images"
            )
    return cached_images(data)


def _teacher(settings: TeacherConfig, device: torch.device, fresh: bool = False) -> Teacher:
    """The teacher. `auto` is the precision of the cache that is there, unless `fresh` replaces it."""
    if settings.precision == "auto" and not fresh:
        settings = settings.model_copy(update={"precision": cached_precision(settings) or "auto"})
    teacher = build_teacher(settings, device)
    if teacher is None:
        raise ConfigError("teacher.mode: none has no images to cache; set cached or online")
    return teacher


def _refuse_foreign(folder: Path) -> None:
    """Raises CacheError for a folder that holds something other than a PNG cache."""
    try:
        cache = TeacherCache(folder)
    except CacheError:  # a damaged manifest, which --fresh replaces
        return
    if cache.bare is not None:
        what = f"holds {len(cache.bare)} images that this command did not write"
        raise CacheError(f"{folder}: {what}; give another teacher.cache")
    if cache.storage == "safetensors":
        raise CacheError(f"{folder}: is packed; set teacher.cache to the folder of PNGs, and --pack {folder} again")


def _open(folder: Path, header: Header) -> TeacherCache:
    _refuse_foreign(folder)
    cache = TeacherCache(folder)
    cache.check_identity(header.teacher)
    before = cache.manifest.header
    if before is not None and before.tile != header.tile:
        sides = f"{before.tile}, and those that are computed now of {header.tile}"
        logger.warning("WARNING: %s: large images were restored in tiles of %s", folder, sides)
    cache.manifest.write_header(header)
    return cache


def _compare(cache: TeacherCache, images: Sequence[ImageFile], thorough: bool) -> Differences:
    with progress_bar(len(images), "image", desc="checking", leave=False) as bar:
        return find_differences(cache, images, thorough, bar.update)


def _with_stems(stems: Sequence[str], images: Sequence[ImageFile]) -> list[ImageFile]:
    wanted = set(stems)
    return [image for image in images if image.stem in wanted]


def _progress(images: Sequence[ImageFile], todo: Sequence[ImageFile], ranks: Ranks) -> tqdm[Any]:
    known, silent = len(images) - len(todo), not ranks.first
    return progress_bar(len(images), "image", silent, initial=known)


def _summarise(cache: TeacherCache, tried: Sequence[str]) -> None:
    """Names skipped inputs and prints totals. `tried`: the stems whose inputs this call read, successfully or not."""
    entries = cache.manifest.entries.values()
    for entry in entries:
        if entry.unreadable is not None:
            logger.warning("skipped %s: %s", entry.stem, entry.unreadable)
    # The line of every packed image holds the size of the whole shard. The keys are files, so that a shard counts once.
    files = {entry.shard or entry.stem: entry.output.size for entry in entries if entry.output is not None}
    total, size = sum(entry.output is not None for entry in entries), sum(files.values()) / 1e6
    new = sum(cache.manifest.entries[stem].output is not None for stem in tried)
    print(f"{cache.folder}: {total} teacher images, {size:.1f} MB; {new} of them are new")


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "cache", "Stores the teacher's images for teacher.mode: cached: what is missing, changed or damaged.", EXAMPLE
    )
    add_config_arguments(parser)
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--verify", action="store_true", help="checksum everything, compute nothing; status 2 if anything is wrong"
    )
    action.add_argument(
        "--repair", action="store_true", help="checksum everything, compute what is wrong, remove images whose input is gone"
    )
    action.add_argument("--fresh", action="store_true", help="remove what the cache holds and compute it anew")
    action.add_argument("--pack", type=Path, metavar="DIR", help="also copy all images into a pack, which reads faster than PNGs")
    action.add_argument(
        "--approximation", type=int, metavar="N", help="compare the cached images of N inputs with online ones, augmented"
    )
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    config = read_config(arguments)
    if Ranks.of_environment().count > 1 and (arguments.verify or arguments.pack or arguments.approximation):
        raise ConfigError("--verify, --pack and --approximation are for one process: run them without torchrun")
    SignalGate().install()
    if arguments.verify:
        cache = verify_cache(config)
        print(f"{cache.folder}: {len(cache.manifest.entries)} images verified")
    elif arguments.pack is not None:
        pack_cache(config, arguments.pack)
    elif arguments.approximation is not None:
        print(approximation_table(config, arguments.approximation))
    else:
        build_cache(config, arguments.fresh, arguments.repair)


if __name__ == "__main__":
    run_command(main)
