"""What a loader hands over: uint8 images and each sample's random numbers; and the way to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from distill.config.degradations import Degradation
from distill.data.image_files import ImageError
from distill.data.pixels import Pixels
from distill.data.triplets import ImageFile
from distill.synthesis.degrade import degrade
from distill.synthesis.eight_bit import to_float

Draws = dict[str, float]


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


def to_tensor(pixels: Pixels) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W), uint8, the same memory where it is contiguous: that is what torch calls channels_last."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]


def batch_of_one(name: str, sharp: Pixels, blurry: Pixels | None, draws: Draws, teacher: Pixels | None = None) -> Batch:
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


def unpack(batch: Batch, degradations: Sequence[Degradation]) -> tuple[Tensor, Tensor]:
    """(sharp, blurry), (B, 3, H, W) in [0, 1], channels_last, of a batch on the device. `degradations` make the blurry images
    where the batch has none."""
    sharp = to_float(batch.sharp)
    blurry = degrade(sharp, degradations, batch.draws) if batch.blurry is None else to_float(batch.blurry)
    return sharp, blurry


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The loader's batches, their images on the device.

    On CUDA they are copied on a stream of their own, from pinned memory: the host, which waits for nothing, asks for a copy while
    the device still computes the step before, and the two run side by side.
    """
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copies = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            moved = batch.to(device)
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(copies)
        for image in moved.images():
            image.record_stream(steps)  # or its memory would be reused by the next copy, during this step
        yield moved
