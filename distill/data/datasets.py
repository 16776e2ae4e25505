"""Training patches and validation images, which loader workers make: uint8 pixels and each sample's random numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from operator import attrgetter

import numpy as np
from cachetools import LRUCache
from torch.utils.data import Dataset

from distill.config import DEAD_LEAVES, Config
from distill.data.batch import Batch, Skipped, Uncached, batch_of_one
from distill.data.image_files import ImageError
from distill.data.pixels import centre_crop, cut
from distill.data.sampler import permutation, sample_generator
from distill.data.sources import Source, training_sources, validation_images
from distill.data.triplets import ImageFile, Triplet, TripletReader
from distill.synthesis import augment, degrade
from distill.synthesis.dead_leaves import dead_leaves


class TrainingPatches(Dataset[Batch]):
    """Random patches of one or several sources, indexed by their position in the endless stream (see sampler.py)."""

    def __init__(self, config: Config, sources: Sequence[Source] | None = None, reader: TripletReader | None = None) -> None:
        """`sources` default to `training_sources(config.data)`. `reader` reads their images with teacher images; None reads the
        image files alone. Raises FileNotFoundError and ImageError if images are missing."""
        self.config = config
        self.sources = training_sources(config.data) if sources is None else sources
        # (source, sample of that source) for the positions of one round, in which every source gives all its parts.
        self._round = [(source, turn) for source in range(len(self.sources)) for turn in range(self.sources[source].parts)]
        self._degrades = any(source.blurry is None for source in config.data.entries)
        self.reader = reader
        # The triplets that were used last. Each loader worker has its own. If all images fit, a worker decodes each only once.
        self._recent: LRUCache[tuple[int, str], Triplet] = LRUCache(config.data.keep_mb * 1e6, getsizeof=attrgetter("nbytes"))

    def __len__(self) -> int:
        """The number of samples in a training epoch. By default, as many as it takes to go through every source once: the
        sources take turns, so the shorter ones begin again."""
        if self.config.data.images_per_epoch is not None:
            return self.config.data.images_per_epoch
        rounds = max(ceil(len(source.images) / source.parts) for source in self.sources if source.images is not None)
        return len(self._round) * rounds

    @property
    def images(self) -> list[ImageFile]:
        """The image files of all sources."""
        return [image for source in self.sources for image in source.images or []]

    def sized(self, patch: int, batch: int) -> TrainingPatches:
        """The same samples, cut to patches of this side and given in batches of this size."""
        other = copy.copy(self)
        other.config = self.config.sized(patch, batch)
        return other

    def place(self, position: int) -> tuple[int, int]:
        """(number of the source, place in its own stream) of a position in the stream of all samples."""
        before, slot = divmod(position, len(self._round))
        number, turn = self._round[slot]
        return number, before * self.sources[number].parts + turn

    def count_sharp(self, first: int, count: int) -> int:
        """How many of `count` samples from position `first` on have a sharp image."""
        return sum(self.sources[self.place(position)[0]].has_sharp for position in range(first, first + count))

    def __getitem__(self, position: int) -> Batch:
        """One sample as a batch of one. If its image cannot be used, the next image in the source's order takes its place. Raises
        ImageError if no image of the source can be used."""
        number, place = self.place(position)
        source, seed = self.sources[number], self.config.run.seed
        if source.images is None:
            # The epoch of the random numbers is always 0: the number in its name already tells each image from all others.
            name = f"{DEAD_LEAVES}/{place}" if source.number is None else f"{source.name}/{source.number}/{place}"
            leaves = dead_leaves(self.config.data.patch, sample_generator(seed, 0, name, "leaves"))
            return self._cut(name, 0, Triplet(leaves), None, [])
        # As in sampler.py, this epoch is one pass through the source's images. It is not the training epoch of `__len__`.
        epoch, start = divmod(place, len(source.images))
        order = permutation(seed, epoch, len(source.images), source.number)
        skipped: list[Skipped] = []
        for turn in range(len(source.images)):
            image = source.images[order[(start + turn) % len(source.images)]]
            try:
                triplet = self._read(number, image)
                return self._cut(f"{source.name}/{image.stem}", epoch, triplet, image, skipped)
            except ImageError as error:
                skipped.append(Skipped.of(error))
        first = skipped[0]
        raise ImageError(f"{source.label}: none of its {len(source.images)} images can be used; {first.path}: {first.reason}")

    def _read(self, number: int, image: ImageFile) -> Triplet:
        """The triplet of an image of source `number`, from memory or from the reader. Raises ImageError."""
        key = (number, image.stem)
        triplet = self._recent.get(key)
        if triplet is None:
            triplet = image.read() if self.reader is None else self.reader.read(image)
            # A triplet without its teacher image is not kept: the next read may find that image in the teacher cache.
            complete = triplet.teacher is not None or self.reader is None
            if complete and triplet.nbytes <= self._recent.maxsize:
                self._recent[key] = triplet
        return triplet

    def _cut(self, name: str, epoch: int, triplet: Triplet, image: ImageFile | None, skipped: list[Skipped]) -> Batch:
        """Cuts a patch at the same random place from all images of the triplet, and draws the sample's random numbers."""
        seed, side = self.config.run.seed, self.config.data.patch
        crop = sample_generator(seed, epoch, name, "crop")
        block = 1 if image is None else image.block
        # Along a side that is shorter than the patch, the place is 0, and `cut` pads the image.
        top, left = (int(crop.integers(0, max(extent, side) - side + 1)) // block * block for extent in triplet.size)
        draws = augment.draw(self.config.augment, sample_generator(seed, epoch, name, "augment"))
        for repeat in range(1, self.config.teacher.reuse):
            draws |= augment.draw_again(self.config.augment, sample_generator(seed, epoch, name, f"augment {repeat}"), repeat)
        if self._degrades:
            draws |= degrade.draw(self.config.degrade, sample_generator(seed, epoch, name, "degrade"))
        uncached: dict[int, Uncached] = {}
        teacher = triplet.teacher
        if self.reader is not None and teacher is None:
            assert image is not None
            teacher, uncached = np.zeros((*triplet.size, 3), np.uint8), {0: Uncached(image, top, left)}
        sharp, blurry, teacher = (
            None if whole is None else cut(whole, side, top, left) for whole in (triplet.sharp, triplet.blurry, teacher)
        )
        return replace(batch_of_one(name, sharp, blurry, draws, teacher), skipped=skipped, uncached=uncached)


class ValidationImages(Dataset[Batch | Skipped]):
    """Whole images, or their centres if `eval.crop` is set. If `degrade` makes the blurry images, its draws depend only on seed
    and image name."""

    def __init__(self, config: Config) -> None:
        """Raises FileNotFoundError and ImageError if the images that the configuration names are missing or do not pair."""
        self.config = config
        self.images = validation_images(config.data.val)
        if config.eval.images is not None and config.eval.images < len(self.images):
            self.images = _some_of_each_kind(self.images, config.eval.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch | Skipped:
        image, crop = self.images[index], self.config.eval.crop
        try:
            triplet = image.read()
        except ImageError as error:
            return Skipped.of(error)
        draws: dict[str, float] = {}
        blurry = None if triplet.blurry is None else centre_crop(triplet.blurry, crop, image.block)
        if blurry is None:
            seed = self.config.run.seed if self.config.eval.seed is None else self.config.eval.seed
            # Without the source's number, so that an image has the same blur whether it stands in a list or not.
            stem = image.stem if self.config.data.val.sources is None else image.stem.partition("/")[2]
            draws = degrade.draw(self.config.degrade, sample_generator(seed, 0, stem, "validation"))
        sharp = None if triplet.sharp is None else centre_crop(triplet.sharp, crop, image.block)
        return batch_of_one(image.stem, sharp, blurry, draws)


def _some_of_each_kind(images: Sequence[ImageFile], count: int) -> list[ImageFile]:
    """`count` images at even intervals: of those with a sharp one and of those without in proportion, and at least one with a
    sharp one if there is any."""
    with_sharp = [image for image in images if image.sharp is not None]
    without = [image for image in images if image.sharp is None]
    share = max(min(len(with_sharp), 1), round(count * len(with_sharp) / len(images)))
    return [*_evenly(with_sharp, share), *_evenly(without, count - share)]


def _evenly(images: Sequence[ImageFile], count: int) -> list[ImageFile]:
    return [images[index] for index in np.linspace(0, len(images) - 1, count).round().astype(int)]
