"""Batches of a loader (uint8 images and each sample's random numbers), and their copy to the device."""

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


@dataclass(frozen=True)
class Skipped:
    """An image file that could not be used, and why."""

    path: str
    reason: str

    @classmethod
    def of(cls, error: ImageError) -> Skipped:
        assert error.path is not None, "an error of one file"
        return cls(str(error.path), error.reason)


@dataclass(frozen=True)
class Uncached:
    """A patch whose teacher image is not in the teacher cache yet: the image file that it was cut from, and the pixel there
    that is its top left corner."""

    image: ImageFile
    top: int
    left: int


@dataclass
class Batch:
    """A batch as a loader yields it. Images are (B, 3, H, W) uint8. Each tensor of `draws` is (B,) and stays on the CPU."""

    sharp: Tensor | None
    """None if no sample has a sharp image. Zeros for a single sample without one."""
    blurry: Tensor | None
    """None if no sample has a blurry image on disk. Zeros for a single sample without one: `unpack` makes it."""
    has_sharp: list[bool]
    has_blurry: list[bool]
    draws: dict[str, Tensor]
    names: list[str]
    skipped: list[Skipped] = field(default_factory=list)
    teacher: Tensor | None = None
    """The cached teacher images, in mode `cached`."""
    uncached: dict[int, Uncached] = field(default_factory=dict)
    """{index in the batch: patch} of the samples that have no cached teacher image. `teacher` holds zeros for them until
    `OnlineFiller.complete` writes their teacher images there."""

    def _with_images(self, change: Callable[[Tensor], Tensor]) -> Batch:
        sharp, blurry, teacher = (None if image is None else change(image) for image in (self.sharp, self.blurry, self.teacher))
        return replace(self, sharp=sharp, blurry=blurry, teacher=teacher)

    def pin_memory(self) -> Batch:
        return self._with_images(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """Copies the images to the device, without waiting for the copy. They stay uint8, a quarter of float32's bytes."""
        return self._with_images(lambda image: image.to(device, non_blocking=True))


def to_tensor(pixels: Pixels) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W), uint8, in the layout that torch calls channels_last. Contiguous pixels are not copied."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]


def batch_of_one(
    name: str, sharp: Pixels | None, blurry: Pixels | None, draws: dict[str, float], teacher: Pixels | None = None
) -> Batch:
    """One sample's (H, W, 3) images and random numbers as a batch."""
    values = {key: torch.tensor([value]) for key, value in draws.items()}
    tensors = [None if pixels is None else to_tensor(pixels) for pixels in (sharp, blurry, teacher)]
    return Batch(tensors[0], tensors[1], [sharp is not None], [blurry is not None], values, [name], teacher=tensors[2])


def collate(samples: Sequence[Batch]) -> Batch:
    """Batches of one -> one batch."""
    first = samples[0]
    return Batch(
        sharp=_stack([s.sharp for s in samples]),
        blurry=_stack([s.blurry for s in samples]),
        teacher=_stack([s.teacher for s in samples]),
        has_sharp=[has for s in samples for has in s.has_sharp],
        has_blurry=[has for s in samples for has in s.has_blurry],
        uncached={index: s.uncached[0] for index, s in enumerate(samples) if s.uncached},
        draws={key: torch.cat([s.draws[key] for s in samples]) for key in first.draws},
        names=[name for s in samples for name in s.names],
        skipped=[bad for s in samples for bad in s.skipped],
    )


def _stack(images: Sequence[Tensor | None]) -> Tensor | None:
    """(1, 3, H, W) each -> (B, 3, H, W), channels_last, because they are stacked as (H, W, 3). Zeros in place of an image that is
    None; None if all are.

    In a loader worker, torch's default_collate stacks straight into memory that the worker shares with the training process. A
    batch that was stacked in the worker's own memory would have to be copied into shared memory afterwards.
    """
    present = [image for image in images if image is not None]
    if not present:
        return None
    missing = torch.zeros_like(present[0])
    return default_collate([(missing if image is None else image)[0].permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def unpack(batch: Batch, degradations: Sequence[Degradation]) -> tuple[Tensor | None, Tensor]:
    """Converts a batch on the device to (sharp, blurry), each (B, 3, H, W) in [0, 1], channels_last. `degradations` make the
    blurry images that are not on disk. `sharp` is None if no sample has a sharp image."""
    sharp, blurry = (None if image is None else to_float(image) for image in (batch.sharp, batch.blurry))
    if not all(batch.has_blurry):
        assert sharp is not None, "blur is made of sharp images"
        made = degrade(sharp, degradations, batch.draws)
        blurry = made if blurry is None else torch.where(sample_mask(batch.has_blurry, made.device), blurry, made)
    assert blurry is not None
    return sharp, blurry


def sample_mask(which: Sequence[bool], device: torch.device) -> Tensor:
    """(B, 1, 1, 1) bool on the device, without waiting for the copy."""
    return torch.tensor(which)[:, None, None, None].to(device, non_blocking=True)


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yields the loader's batches with their images on the device.

    On CUDA, images are copied from pinned memory on a stream of their own. The host does not wait for the device. It starts
    the copy of a batch while the device still computes the previous step, and copy and step run at the same time.
    """
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copies = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copies):
            moved = batch.to(device)
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(copies)  # the step waits for its images on the device; the host does not wait
        for image in (moved.sharp, moved.blurry, moved.teacher):
            if image is not None:
                # Without this, torch could give the image's memory to the next copy while this step still reads the image.
                image.record_stream(steps)
        yield moved
