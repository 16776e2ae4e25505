"""Wraps networks so that they do what a teacher must: take and give RGB images in float32, in every precision, of any sides from
16 pixels on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.config.types import Precision
from distill.errors import UserError
from unet.model import MIN_SIDE

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class ColoursError(UserError):
    """A network of one channel got an image that has colours."""


def in_channels_last(network: nn.Module) -> nn.Module:
    """Changes the memory format of the weights of convolutions, and returns the network. `Module.to` refuses networks that have
    weights of five axes."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


class Adapted(nn.Module):
    """A network that was not written for this project.

    In half precision its weights are rounded and autocast runs it. Autocast leaves norms, softmax and what is added to a float32
    image in float32, whatever the network's own code says.
    """

    def __init__(
        self,
        network: nn.Module,
        arch: str,
        call: Callable[[Any, Tensor], Tensor] | None = None,
        *,
        multiple: int = 1,
        minimum: int = 0,
        square: bool = False,
        precisions: Collection[Precision] = tuple(DTYPES),
    ) -> None:
        """`arch` is the architecture's name. `call(network, image)` runs the network, if that is more than `network(image)`.
        `multiple`, `minimum` and `square` are what the network demands of an image's sides."""
        super().__init__()
        self.network, self.arch, self.call = in_channels_last(network), arch, call
        self.multiple, self.minimum, self.square, self.precisions = multiple, minimum, square, precisions
        self.one_by_one = False
        """Whether the network can take one image at a time only."""

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) float32 RGB in [0, 1], any H, W >= 16 -> the same shape, not clamped. Raises ValueError for a smaller
        image."""
        height, width = image.shape[-2:]
        if min(height, width) < MIN_SIDE:
            raise ValueError(f"{self.arch} takes images of at least {MIN_SIDE}x{MIN_SIDE} pixels, not {height}x{width}")
        padded = self._padded(image)
        dtype = next(self.network.parameters()).dtype
        # Not `enabled=False`: autocast refuses the meta device, where `bench` counts operations.
        with nullcontext() if dtype == torch.float32 else torch.autocast(image.device.type, dtype):
            parts = padded.split(1) if self.one_by_one else (padded,)
            restored = [self.network(part) if self.call is None else self.call(self.network, part) for part in parts]
        whole = torch.cat(restored) if self.one_by_one else restored[0]
        return whole[..., :height, :width].float()

    def _padded(self, image: Tensor) -> Tensor:
        """The image, extended at the right and the bottom to sides that the network can take. Always new memory, because some
        networks change their input."""
        height, width = image.shape[-2:]
        if max(self.multiple, self.minimum) <= MIN_SIDE and not self.square:
            # No comparison of sides, so that torch can export this for any size.
            return F.pad(image.clone(), (0, -width % self.multiple, 0, -height % self.multiple), mode="reflect")
        rows, columns = (side + -side % self.multiple for side in (max(height, self.minimum), max(width, self.minimum)))
        if self.square:
            rows = columns = max(rows, columns)
        # Reflection reaches no farther than the image does.
        mirrored = F.pad(image.clone(), (0, min(columns - width, width - 1), 0, min(rows - height, height - 1)), mode="reflect")
        missing = (0, columns - mirrored.shape[-1], 0, rows - mirrored.shape[-2])
        return F.pad(mirrored, missing, mode="replicate")


class OneChannel(nn.Module):
    """Makes a network of one channel restore RGB images: a grey image has three equal channels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.each_channel = False
        """Whether to apply the network to each channel of an image that has colours. Else such an image is refused."""

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> the same shape, not clamped. Raises ColoursError."""
        if self.each_channel:
            return self.network(image.flatten(0, 1).unsqueeze(1)).reshape(image.shape)
        grey = image[:, :1]
        # On a GPU this waits for the device, once a call. `each_channel` does not.
        if not torch.equal(grey.expand_as(image), image):
            raise ColoursError(
                "the network has one channel, for grey pictures, and this picture has colours;"
                " teacher.each_channel: true, or --each-channel, applies it to each channel"
            )
        return self.network(grey.contiguous()).expand_as(image)


def supported(network: nn.Module, dtype: torch.dtype) -> bool:
    """Whether the network can compute in this dtype."""
    return any(DTYPES[precision] == dtype for precision in getattr(network, "precisions", DTYPES))
