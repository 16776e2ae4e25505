"""Opens a teacher cache for training: locks it, and compares it with the run's configuration."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from distill.config import DataConfig, TeacherConfig
from distill.config.types import Precision
from distill.data.triplets import ImageFile
from distill.networks.teacher import Teacher, identify
from distill.runtime.files import locked
from distill.runtime.progress import progress_bar
from distill.teacher_cache.differences import find_differences, refuse
from distill.teacher_cache.manifest import CacheError
from distill.teacher_cache.online_filler import OnlineFiller
from distill.teacher_cache.store import TeacherCache, new_header

logger = logging.getLogger(__name__)


def cache_lock(config: TeacherConfig) -> AbstractContextManager[None]:
    """A lock for a run that may fill its cache. Take it before comparing the cache, so that no other process changes the cache
    afterwards. Does nothing for a run that only reads. Raises WriteError."""
    fills = config.mode == "cached" and config.on_missing == "compute"
    return locked(Path(config.cache)) if fills else nullcontext()


def cached_precision(settings: TeacherConfig) -> Precision | None:
    """The precision of the images in the cache; None if there is no cache. Raises CacheError for a manifest that cannot be
    understood."""
    header = TeacherCache(settings.cache).manifest.header
    return None if header is None else header.teacher.precision


def open_for_training(
    settings: TeacherConfig, data: DataConfig, teacher: Teacher, images: Sequence[ImageFile], device: torch.device
) -> tuple[TeacherCache, OnlineFiller | None]:
    """The cache of mode `cached`, compared with the configuration, and its filler.

    The filler is None unless `teacher.on_missing` is `compute` and the cache is a PNG cache with a manifest. Call this under
    `cache_lock`. Raises CacheError if another teacher made the cache, or if it does not match `images` and there is no filler;
    ImageError if a cache without a manifest has two files of the same stem (path without suffix); and WriteError.
    """
    compute = settings.on_missing == "compute"
    cache, identity = TeacherCache(settings.cache, recompute=compute), identify(teacher)
    if cache.manifest.header is None and cache.bare is None:
        if not compute:
            raise CacheError(f"{cache.folder}: there are no cached teacher images", mend="")
        cache.manifest.write_header(new_header(identity, images, data, settings.tile))
    cache.check_identity(identity)
    with progress_bar(len(images), "image", desc="checking the cache", leave=False) as bar:
        found = find_differences(cache, images, advance=bar.update)
    if cache.bare is not None:
        doubt = "no manifest: nothing tells whether this teacher made these images, and from these inputs"
        logger.warning("%s: %s", cache.folder, doubt)
    if not compute or cache.storage != "png":
        refuse(cache, found)
        return cache, None
    if found.to_compute:
        count = f"{len(found.to_compute)} of {len(images)}"
        logger.info("%s: %s teacher images are computed when they first come", cache.folder, count)
    touched = set(found.touched)
    cache.restamp([image for image in images if image.stem in touched])
    cache.forget(found.to_compute)
    return cache, OnlineFiller(cache, teacher, settings.tile, device)
