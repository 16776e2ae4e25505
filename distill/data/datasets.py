"""Training patches and validation images, as loader workers make them: uint8 pixels and the sample's random numbers."""

from __future__ import annotations

import signal
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distill.config import Config, DataConfig, ImagesConfig
from distill.data import augment, degrade
from distill.data.dead_leaves import dead_leaves
from distill.data.images import ImageError, Pixels, centre_crop, find_images, pad_to, pair_images, read_image
from distill.data.sampler import StreamSampler, permutation, sample_generator

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

# How long a loader worker lives on after SIGTERM, so that the main process can save.
WORKER_GRACE_S = 60

Draws = dict[str, float]


@dataclass(frozen=True)
class ImageFile:
    """A sharp image on disk and, where there is one, its blurry partner."""

    stem: str
    sharp: Path
    blurry: Path | None = None

    def read(self) -> tuple[Pixels, Pixels | None]:
        """(sharp, blurry), each (H, W, 3) uint8. Raises ImageError for damage and for a pair of different size."""
        sharp = read_image(self.sharp)
        if self.blurry is None:
            return sharp, None
        blurry = read_image(self.blurry)
        if blurry.shape != sharp.shape:
            sizes = [f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (blurry, sharp)]
            raise ImageError(f"{self.blurry}: {sizes[0]} pixels, but its sharp image {self.sharp} has {sizes[1]}")
        return sharp, blurry


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


@dataclass
class Batch:
    """What a loader hands over. Images are (B, 3, H, W) uint8; draws are (B,) each and stay on the CPU."""

    sharp: Tensor
    blurry: Tensor | None
    draws: dict[str, Tensor]
    names: list[str]
    skipped: list[Skipped] = field(default_factory=list)

    def pin_memory(self) -> Batch:
        self.sharp = self.sharp.pin_memory()
        self.blurry = None if self.blurry is None else self.blurry.pin_memory()
        return self

    def to(self, device: torch.device) -> Batch:
        """The images on the device, still uint8: a quarter of the bytes of float32. Does not wait for the copy."""
        blurry = None if self.blurry is None else self.blurry.to(device, non_blocking=True)
        return Batch(self.sharp.to(device, non_blocking=True), blurry, self.draws, self.names, self.skipped)


class TrainingPatches(Dataset[Batch]):
    """Random patches of one or several sources, addressed by their position in the endless stream (see sampler.py)."""

    def __init__(self, config: Config) -> None:
        """Raises FileNotFoundError and ImageError where the images are not as the config says."""
        data = config.data
        self.config = config
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
            return self._cut(name, 0, dead_leaves(self.config.data.patch, sample_generator(seed, 0, name, "leaves")), None, [])
        epoch, start = divmod(position // len(self.sources), len(source))
        order = permutation(seed, epoch, len(source))
        skipped: list[Skipped] = []
        for turn in range(len(source)):
            image = source[order[(start + turn) % len(source)]]
            try:
                sharp, blurry = image.read()
                return self._cut(f"{self.names[number]}/{image.stem}", epoch, sharp, blurry, skipped)
            except ImageError as error:
                path, _, reason = str(error).partition(": ")
                skipped.append(Skipped(path, reason))
        first = skipped[0]
        raise ImageError(f"{self.names[number]}: none of its {len(source)} images can be used; {first.path}: {first.reason}")

    def _cut(self, name: str, epoch: int, sharp: Pixels, blurry: Pixels | None, skipped: list[Skipped]) -> Batch:
        seed, side = self.config.run.seed, self.config.data.patch
        sharp = pad_to(sharp, side)
        crop = sample_generator(seed, epoch, name, "crop")
        top, left = (int(crop.integers(0, extent - side + 1)) for extent in sharp.shape[:2])
        window = (slice(top, top + side), slice(left, left + side))
        draws = augment.draw(self.config.augment, sample_generator(seed, epoch, name, "augment"))
        if blurry is None:
            draws |= degrade.draw(self.config.degrade, sample_generator(seed, epoch, name, "degrade"))
        else:
            blurry = pad_to(blurry, side)[window]
        return _batch_of_one(name, sharp[window], blurry, draws, skipped)


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
            sharp, blurry = image.read()
        except ImageError as error:
            path, _, reason = str(error).partition(": ")
            return Skipped(path, reason)
        draws: Draws = {}
        if blurry is None:
            draws = degrade.draw(self.config.degrade, sample_generator(self.config.run.seed, 0, image.stem, "validation"))
        else:
            blurry = centre_crop(blurry, crop)
        return _batch_of_one(image.stem, centre_crop(sharp, crop), blurry, draws, [])


def _batch_of_one(name: str, sharp: Pixels, blurry: Pixels | None, draws: Draws, skipped: list[Skipped]) -> Batch:
    def tensor(pixels: Pixels) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]

    values = {key: torch.tensor([value]) for key, value in draws.items()}
    return Batch(tensor(sharp), None if blurry is None else tensor(blurry), values, [name], skipped)


def collate(samples: Sequence[Batch]) -> Batch:
    """Batches of one -> one batch."""
    first = samples[0]
    return Batch(
        sharp=torch.cat([s.sharp for s in samples]),
        blurry=None if first.blurry is None else torch.cat([s.blurry for s in samples if s.blurry is not None]),
        draws={key: torch.cat([s.draws[key] for s in samples]) for key in first.draws},
        names=[name for s in samples for name in s.names],
        skipped=[bad for s in samples for bad in s.skipped],
    )


def training_loader(dataset: TrainingPatches, first_step: int, last_step: int, pin: bool) -> Generator[Batch]:
    """Batches of the stream from `first_step` to `last_step`, on the CPU; one set of workers for the whole of it, which ends when
    the generator is closed."""
    data: DataConfig = dataset.config.data
    workers = min(data.workers, max(0, last_step - first_step))
    batches = iter(
        DataLoader(
            dataset,
            batch_sampler=StreamSampler(first_step, last_step, data.batch),
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=_start_worker,
            pin_memory=pin,
        )
    )
    try:
        yield from batches
    finally:
        # Not left to the garbage collector: after an error its traceback keeps the iterator, and with it the workers, alive.
        if shut_down := getattr(batches, "_shutdown_workers", None):
            shut_down()


def _start_worker(_: int) -> None:
    # Ctrl-C reaches the whole process group, and so does a scheduler's SIGTERM. The main process saves and ends, and its workers
    # with it; a worker that died first would fail its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(WORKER_GRACE_S))
    torch.set_num_threads(1)
