"""Training patches and validation images, as loader workers make them: uint8 pixels and the sample's random numbers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from distill.config import Config, DataConfig, ImagesConfig
from distill.data.images import (
    ImageError,
    ImageFile,
    Pixels,
    RecentTriplets,
    Triplet,
    centre_crop,
    find_images,
    pad_to,
    pair_images,
)
from distill.data.loader import load
from distill.data.sampler import StreamSampler, permutation, sample_generator
from distill.synthesis import augment, degrade
from distill.synthesis.dead_leaves import dead_leaves
from distill.teacher_cache.store import TeacherCache

# The colour photographs in scikit-image's wheel. The stereo pair of the motorcycle stays together; chelsea and coffee are for
# validation only, so that the figures of every shipped config are about photographs that nothing was trained on.
SAMPLES_FOR_TRAINING = (
    "astronaut.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
SAMPLES_FOR_VALIDATION = ("chelsea.png", "coffee.png")

Draws = dict[str, float]


def list_images(images: ImagesConfig, source: str, samples: Sequence[str]) -> list[ImageFile]:
    """The files of one source: a folder, a pair of folders, or `samples`. Raises FileNotFoundError and ImageError."""
    if source == "samples":
        folder = Path(str(files("skimage.data")))
        return [ImageFile(Path(name).stem, folder / name) for name in samples]
    if images.blurry is None:
        return [ImageFile(stem, path) for stem, path in find_images(source).items()]
    return [ImageFile(stem, *paths) for stem, paths in pair_images(source, images.blurry).items()]


@dataclass(frozen=True)
class Skipped:
    """An image that could not be used, and why."""

    path: str
    reason: str

    @classmethod
    def of(cls, error: ImageError) -> Skipped:
        assert error.path is not None, "an error of one file"
        return cls(str(error.path), error.reason)


@dataclass(frozen=True)
class Uncached:
    """A patch whose teacher image is not in the cache yet: which image, and where the patch was cut."""

    image: ImageFile
    top: int
    left: int


@dataclass
class Batch:
    """What a loader hands over. Images are (B, 3, H, W) uint8; draws are (B,) each and stay on the CPU."""

    sharp: Tensor
    blurry: Tensor | None
    draws: dict[str, Tensor]
    names: list[str]
    skipped: list[Skipped] = field(default_factory=list)
    teacher: Tensor | None = None
    """The cached teacher images, in mode `cached`."""
    uncached: dict[int, Uncached] = field(default_factory=dict)
    """Rows of `teacher` that are still empty."""

    def _with_images(self, change: Callable[[Tensor], Tensor]) -> Batch:
        blurry, teacher = (None if image is None else change(image) for image in (self.blurry, self.teacher))
        return replace(self, sharp=change(self.sharp), blurry=blurry, teacher=teacher)

    def images(self) -> list[Tensor]:
        """Those that there are."""
        return [image for image in (self.sharp, self.blurry, self.teacher) if image is not None]

    def pin_memory(self) -> Batch:
        return self._with_images(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The images on the device, still uint8: a quarter of the bytes of float32. Does not wait for the copy."""
        return self._with_images(lambda image: image.to(device, non_blocking=True))


class TrainingPatches(Dataset[Batch]):
    """Random patches of one or several sources, addressed by their position in the endless stream (see sampler.py)."""

    cache: TeacherCache | None = None
    """Where triplets are read from, in mode `cached`."""

    def __init__(self, config: Config) -> None:
        """Raises FileNotFoundError and ImageError where the images are not as the config says."""
        data = config.data
        self.config = config
        self._recent = RecentTriplets(data.keep_mb * 1e6)
        self.names = [data.sharp] if isinstance(data.sharp, str) else data.sharp
        self.sources = [None if n == "dead_leaves" else list_images(data, n, SAMPLES_FOR_TRAINING) for n in self.names]

    def __len__(self) -> int:
        """Samples of one epoch."""
        if self.config.data.images_per_epoch is not None:
            return self.config.data.images_per_epoch
        return len(self.sources) * max(len(source) for source in self.sources if source is not None)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, round(len(self) / self.config.data.batch))

    def __getitem__(self, position: int) -> Batch:
        """One sample as a batch of one. Raises ImageError when its source holds no readable image at all."""
        number = position % len(self.sources)
        source, seed = self.sources[number], self.config.run.seed
        if source is None:
            name = f"dead_leaves/{position // len(self.sources)}"
            leaves = dead_leaves(self.config.data.patch, sample_generator(seed, 0, name, "leaves"))
            return self._cut(name, 0, Triplet(leaves), None, [])
        epoch, start = divmod(position // len(self.sources), len(source))
        order = permutation(seed, epoch, len(source))
        skipped: list[Skipped] = []
        for turn in range(len(source)):
            image = source[order[(start + turn) % len(source)]]
            try:
                triplet = self._read(number, image)
                return self._cut(f"{self.names[number]}/{image.stem}", epoch, triplet, image, skipped)
            except ImageError as error:
                skipped.append(Skipped.of(error))
        first = skipped[0]
        raise ImageError(f"{self.names[number]}: none of its {len(source)} images can be used; {first.path}: {first.reason}")

    def _read(self, number: int, image: ImageFile) -> Triplet:
        """The triplet of a source's image. Raises ImageError."""
        key = (number, image.stem)
        triplet = self._recent.get(key)
        if triplet is None:
            triplet = image.read() if self.cache is None else self.cache.read(image)
            if self.cache is None or triplet.teacher is not None:  # else the teacher image comes later
                self._recent.keep(key, triplet)
        return triplet

    def _cut(self, name: str, epoch: int, triplet: Triplet, image: ImageFile | None, skipped: list[Skipped]) -> Batch:
        """The same window of all three, and the sample's random numbers."""
        seed, side = self.config.run.seed, self.config.data.patch
        crop = sample_generator(seed, epoch, name, "crop")
        top, left = (int(crop.integers(0, max(extent, side) - side + 1)) for extent in triplet.sharp.shape[:2])
        draws = augment.draw(self.config.augment, sample_generator(seed, epoch, name, "augment"))
        if triplet.blurry is None:
            draws |= degrade.draw(self.config.degrade, sample_generator(seed, epoch, name, "degrade"))
        uncached: dict[int, Uncached] = {}
        teacher = triplet.teacher
        if self.cache is not None and teacher is None:
            assert image is not None
            teacher, uncached = np.zeros_like(triplet.sharp), {0: Uncached(image, top, left)}
        sharp, blurry, teacher = (
            None if whole is None else cut(whole, side, top, left) for whole in (triplet.sharp, triplet.blurry, teacher)
        )
        assert sharp is not None
        return replace(_batch_of_one(name, sharp, blurry, draws, teacher), skipped=skipped, uncached=uncached)


def cut(pixels: Pixels, side: int, top: int, left: int) -> Pixels:
    """A side x side patch of an image, which is reflected to that size where it is smaller."""
    return pad_to(pixels, side)[top : top + side, left : left + side]


class ValidationImages(Dataset[Batch | Skipped]):
    """Whole images or their centres, blurred by draws that depend on the seed and the image's name alone."""

    def __init__(self, config: Config) -> None:
        """Raises FileNotFoundError and ImageError where the images are not as the config says."""
        val = config.data.val
        assert isinstance(val.sharp, str)
        self.config = config
        self.images = list_images(val, val.sharp, SAMPLES_FOR_VALIDATION)
        if config.eval.images is not None and config.eval.images < len(self.images):
            chosen = np.linspace(0, len(self.images) - 1, config.eval.images).round().astype(int)
            self.images = [self.images[index] for index in chosen]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch | Skipped:
        image, crop = self.images[index], self.config.eval.crop
        try:
            triplet = image.read()
        except ImageError as error:
            return Skipped.of(error)
        draws: Draws = {}
        blurry = None if triplet.blurry is None else centre_crop(triplet.blurry, crop)
        if blurry is None:
            draws = degrade.draw(self.config.degrade, sample_generator(self.config.run.seed, 0, image.stem, "validation"))
        return _batch_of_one(image.stem, centre_crop(triplet.sharp, crop), blurry, draws)


def to_tensor(pixels: Pixels) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W), uint8, the same memory where it is contiguous: that is what torch calls channels_last."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]


def _batch_of_one(name: str, sharp: Pixels, blurry: Pixels | None, draws: Draws, teacher: Pixels | None = None) -> Batch:
    values = {key: torch.tensor([value]) for key, value in draws.items()}
    tensors = [None if pixels is None else to_tensor(pixels) for pixels in (blurry, teacher)]
    return Batch(to_tensor(sharp), tensors[0], values, [name], teacher=tensors[1])


def collate(samples: Sequence[Batch]) -> Batch:
    """Batches of one -> one batch."""
    first = samples[0]
    return Batch(
        sharp=_stack([s.sharp for s in samples]),
        blurry=None if first.blurry is None else _stack([s.blurry for s in samples if s.blurry is not None]),
        teacher=None if first.teacher is None else _stack([s.teacher for s in samples if s.teacher is not None]),
        uncached={row: s.uncached[0] for row, s in enumerate(samples) if s.uncached},
        draws={key: torch.cat([s.draws[key] for s in samples]) for key in first.draws},
        names=[name for s in samples for name in s.names],
        skipped=[bad for s in samples for bad in s.skipped],
    )


def _stack(images: Sequence[Tensor]) -> Tensor:
    """(1, 3, H, W) each -> (B, 3, H, W), channels_last. In a loader worker torch's own function writes into the memory that the
    training process shares; elsewhere the batch would be copied there."""
    return default_collate([image[0].permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def training_loader(
    dataset: TrainingPatches, position: int, steps: int, pin: bool, rank: int = 0, ranks: int = 1
) -> Generator[Batch]:
    """`steps` batches of the stream from `position` on, or a rank's part of each, on the CPU; one set of workers for the whole of
    it, which ends when the generator is closed."""
    data: DataConfig = dataset.config.data
    yield from load(
        dataset,
        workers=min(data.workers, max(0, steps)),
        batch_sampler=StreamSampler(position, steps, data.batch, rank, ranks),
        collate_fn=collate,
        pin_memory=pin,
    )
