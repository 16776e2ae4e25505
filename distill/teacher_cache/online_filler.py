"""Fills a teacher cache while training."""

from __future__ import annotations

import torch

from distill.data.batch import Batch, to_tensor
from distill.data.image_files import ImageError, read_image
from distill.data.pixels import Pixels, cut
from distill.data.triplets import ImageFile
from distill.networks.teacher import Teacher
from distill.teacher_cache.fill import restore_group, store_result
from distill.teacher_cache.inputs import read_input
from distill.teacher_cache.manifest import Entry
from distill.teacher_cache.store import TeacherCache, read_checked


class OnlineFiller:
    """Completes batches while training, so that the first epoch fills the cache.

    Images are restored one by one. The bits of a teacher image then do not depend on the batch that first needs it, and a run
    that was stopped and resumed gives the same result.
    """

    def __init__(self, cache: TeacherCache, teacher: Teacher, tile: int, device: torch.device) -> None:
        self.cache, self.teacher, self.tile, self.device = cache, teacher, tile, device
        self.computed: dict[str, Entry] = {}

    def complete(self, batch: Batch) -> None:
        """Fills the missing teacher patches into `batch.teacher`, in place. Computes and stores the whole teacher image first if
        necessary. Raises ImageError and WriteError."""
        for index, missing in batch.uncached.items():
            assert batch.teacher is not None
            pixels = self._stored(missing.image)
            if pixels is None:
                pixels = self._compute(missing.image)
            batch.teacher[index] = to_tensor(cut(pixels, batch.teacher.shape[-1], missing.top, missing.left))[0]
        batch.uncached.clear()

    def _stored(self, image: ImageFile) -> Pixels | None:
        """The stored teacher image, if this filler computed it. None if it did not, or if the file was damaged since.

        Loader workers read ahead. A batch therefore lacks a teacher image that was computed after the worker looked for it.
        """
        entry = self.computed.get(image.stem)
        if entry is None or entry.output is None:
            return None
        path = self.cache.path_of(entry)
        try:
            return read_image(path, read_checked(path, entry.output, "damaged since it was cached"))
        except ImageError:
            return None

    def _compute(self, image: ImageFile) -> Pixels:
        (result,) = restore_group(self.teacher, [read_input(image)], self.tile, self.device)
        entry = store_result(self.cache, result)
        self.cache.manifest.append([entry])
        if result.pixels is None:
            assert result.unreadable is not None
            raise ImageError(result.unreadable, image.blurry)
        self.computed[image.stem] = entry
        return result.pixels
