"""Restores pictures of any size, of 8 or 16 bits. The network gets one tile at a time, so its memory is bounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from distill.config import ConfigError
from distill.config.types import Precision
from distill.data.image_files import MIN_SIDE
from distill.data.pixels import AnyPixels
from distill.networks.adapters import DTYPES
from distill.networks.architecture import inference_copy
from distill.networks.teacher import Teacher
from distill.networks.tiles import OVERLAP, Span, blended_spans, exact_spans, restore_in_strips
from unet.model import SIZE_MULTIPLE, UNet

# Measured in fp32 for a tile of this side: a U-Net of width 64 takes 1.3 GB, the published Restormer about as much, and a U-Net
# of width 16 takes 0.3 GB. Smaller tiles cost time, because overlaps are computed twice.
TILE = 768


class NotFiniteError(ValueError):
    """A restored picture has pixels that are NaN or infinite."""


class Restorer:
    """Restores whole pictures with a network, on one device and in one precision."""

    def __init__(self, network: nn.Module, device: torch.device, precision: Precision = "fp32", tile: int = TILE) -> None:
        """`tile` is the side, in pixels, of the largest image that the network gets at once. Raises ConfigError if `tile` is too
        small."""
        self.device = device
        self._apply = _on_device(network, device, precision)
        # A U-Net gives the same result in tiles as for the whole picture, because each tile has a margin of the receptive radius,
        # rounded up to a multiple of SIZE_MULTIPLE.
        # A Restormer's attention is between channels, but its map is a sum over all pixels of a tile. Its results for tiles
        # therefore differ from its result for the whole picture, and are blended where the tiles overlap.
        if isinstance(network, UNet):
            margin = -(-network.receptive_radius // SIZE_MULTIPLE) * SIZE_MULTIPLE
            smallest = 2 * margin + SIZE_MULTIPLE  # margins at both ends, and the least that can lie between them
            if tile == TILE:  # the default grows for a network with wide margins
                tile = max(TILE, 4 * margin)
            self._spans: Callable[[int], list[Span]] = partial(exact_spans, tile=tile, margin=margin, stride=SIZE_MULTIPLE)
        else:
            self._spans = partial(blended_spans, tile=tile, overlap=OVERLAP)
            smallest = 2 * OVERLAP  # overlaps at both ends, side by side
        if tile < smallest:
            raise ConfigError(f"--tile: {tile} is too small for this network; at least {smallest}")

    def restore(self, pixels: AnyPixels, advance: Callable[[int], object] = lambda pixels: None) -> AnyPixels:
        """(H, W, 1 or 3), any H, W >= 1, uint8 or uint16 -> the restored picture, of the same shape and type.

        The network gets a grey picture as three equal channels, and the three channels of its output are averaged to grey.
        `advance` is called with the number of pixels completed since its last call, H * W in all. Raises NotFiniteError.
        """
        height, width = pixels.shape[:2]
        if min(height, width) < MIN_SIDE:  # too small for the networks: mirrored to that size, and cropped after restoring
            missing = ((0, max(0, MIN_SIDE - height)), (0, max(0, MIN_SIDE - width)), (0, 0))
            padded = cast(AnyPixels, np.pad(pixels, missing, mode="symmetric"))
            restored = self.restore(padded)[:height, :width]
            advance(height * width)
            return restored
        restored = np.empty_like(pixels, order="C")
        # A strip spans the picture's width, so a narrower picture needs less memory. A wide picture is therefore restored with
        # its axes swapped. The network still gets each tile unswapped.
        if width > height:
            self._restore_into(restored.swapaxes(0, 1), pixels.swapaxes(0, 1), lambda tile: self._apply(tile.mT).mT, advance)
        else:
            self._restore_into(restored, pixels, self._apply, advance)
        return restored

    @torch.no_grad()
    def _restore_into(
        self, restored: AnyPixels, pixels: AnyPixels, network: Callable[[Tensor], Tensor], advance: Callable[[int], object]
    ) -> None:
        """Writes the restored picture into `restored`, strip by strip. Raises NotFiniteError."""
        white = float(np.iinfo(pixels.dtype).max)

        def read(rows: slice, columns: slice) -> Tensor:
            tile = np.moveaxis(pixels[rows, columns].astype(np.float32), 2, 0)[None]
            return torch.from_numpy(tile).to(self.device).div(white).expand(1, 3, *tile.shape[2:])  # grey -> three channels

        height, width = pixels.shape[:2]
        for top, strip in restore_in_strips(network, read, self._spans(height), self._spans(width)):
            if not bool(strip.isfinite().all()):
                raise NotFiniteError("the network's image of it is not finite")
            levels = strip[0] if pixels.shape[2] == 3 else strip[0].mean(dim=0, keepdim=True)
            levels = levels.clamp(0, 1).mul_(white).round_().permute(1, 2, 0)
            restored[top : top + len(levels)] = levels.cpu().numpy()
            advance(len(levels) * width)


def _on_device(network: nn.Module, device: torch.device, precision: Precision) -> Callable[[Tensor], Tensor]:
    """A function on the device: (1, 3, h, w) float32 in [0, 1] -> the restored image, float32."""
    network = inference_copy(network).to(device)
    if not isinstance(network, UNet):
        return Teacher(network, DTYPES[precision]).to(device)  # takes and returns float32 in every precision

    def apply(image: Tensor) -> Tensor:
        # Autocast runs only the convolutions in half precision. A residual U-Net adds its correction to the float32 image, which
        # is not rounded.
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
            return network(image.contiguous(memory_format=torch.channels_last)).float()

    return apply
