"""A network over an image larger than its memory: overlapping tiles, put together strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Measured: with 16 to 64 pixels the embedded teacher comes equally near to its image of the whole (50 dB in tiles of 256).
OVERLAP = 32


@dataclass(frozen=True)
class Span:
    """What a tile covers of one axis, and how much each of its pixels counts there; over all spans of an axis that sums to 1."""

    start: int
    stop: int
    weights: Tensor
    """float32, (stop - start,)."""

    @property
    def pixels(self) -> slice:
        return slice(self.start, self.stop)


def blended_spans(extent: int, tile: int, overlap: int = OVERLAP) -> list[Span]:
    """An axis of `extent` pixels in spans of at most `tile`, evenly spread. Neighbours share at least `overlap` pixels, in which
    their weights rise and fall linearly, so that no seam shows: for networks of which a tile differs from the whole.

    Raises ValueError where the overlap is not smaller than the tile.
    """
    starts = _starts(extent, tile, overlap)
    ramp = _ramp(min(tile, extent), overlap)
    total = torch.zeros(extent)
    for start in starts:
        total[start : start + tile] += ramp
    return [Span(start, start + len(ramp), ramp / total[start : start + tile]) for start in starts]


def exact_spans(extent: int, tile: int, margin: int, stride: int) -> list[Span]:
    """An axis of `extent` pixels in spans of at most `tile` that start on multiples of `stride`, the step of a network's coarsest
    level, and of which each pixel counts in one alone: where that one sees `margin` pixels beyond it, or the image's own edge.

    With a margin of the network's receptive radius at least, tiles give what the whole image gives. Raises ValueError where the
    margins leave nothing of the tile.
    """
    margin += -margin % stride
    step = (tile - 2 * margin) // stride * stride
    if step < stride:
        raise ValueError(
            f"margins of {margin} pixels leave nothing of a tile of {tile}; at least {2 * margin + stride} are needed"
        )
    spans, first = [], 0
    while first < extent:
        start = max(0, first - margin)
        last = extent if extent - start <= tile else start + (step + margin if first else (tile - margin) // stride * stride)
        stop = min(extent, last + margin)
        weights = torch.zeros(stop - start)
        weights[first - start : last - start] = 1
        spans.append(Span(start, stop, weights))
        first = last
    return spans


def restore_in_strips(
    network: Callable[[Tensor], Tensor], read: Callable[[slice, slice], Tensor], rows: Sequence[Span], columns: Sequence[Span]
) -> Iterator[tuple[int, Tensor]]:
    """Applies `network`, (1, 3, h, w) -> the same shape, to all tiles, and yields the image in strips from its top to its bottom:
    (its first row, (1, 3, h, W) float32, where the network leaves its tiles).

    `read` gives a tile of the input by its rows and columns. No more is held at a time than two strips as high as a tile.
    """
    begun: Tensor | None = None  # the rows of the strip before that this one adds to
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        strip = _strip(network, read, row, columns)
        if begun is not None:
            strip[..., : begun.shape[-2], :] += begun
        complete = strip.shape[-2] if following is None else following.start - row.start
        yield row.start, strip[..., :complete, :]
        begun = strip[..., complete:, :]


def _strip(
    network: Callable[[Tensor], Tensor], read: Callable[[slice, slice], Tensor], row: Span, columns: Sequence[Span]
) -> Tensor:
    """One row of tiles, side by side, and weighted for what comes above and below."""
    strip: Tensor | None = None
    for column in columns:
        restored = network(read(row.pixels, column.pixels)).float()
        if strip is None:
            strip = restored.new_zeros((*restored.shape[:-1], columns[-1].stop))
        strip[..., column.pixels] += restored * column.weights.to(restored.device)
    assert strip is not None, "an image has a tile at least"
    return strip.mul_(row.weights[:, None].to(strip.device))


def apply_in_tiles(network: Callable[[Tensor], Tensor], image: Tensor, tile: int, overlap: int = OVERLAP) -> Tensor:
    """Applies `network`, (1, 3, h, w) -> the same shape, to tiles of (1, 3, H, W) of at most tile x tile pixels, blended where
    they overlap as `blended_spans` says.

    The result is float32, on the image's device; a network may move its tile elsewhere. Raises ValueError where the overlap is
    not smaller than the tile.
    """
    rows, columns = (blended_spans(extent, tile, overlap) for extent in image.shape[-2:])
    strips = restore_in_strips(network, lambda y, x: image[..., y, x], rows, columns)
    return torch.cat([strip.to(image.device) for _, strip in strips], dim=-2)


def _starts(extent: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one axis, evenly spread; one tile that covers a short axis."""
    if overlap >= tile:
        raise ValueError(f"an overlap of {overlap} pixels leaves nothing of a tile of {tile}")
    if extent <= tile:
        return [0]
    count = -(-(extent - overlap) // (tile - overlap))
    return [round(index * (extent - tile) / (count - 1)) for index in range(count)]


def _ramp(extent: int, overlap: int) -> Tensor:
    """Weights along one axis of a tile: 1 inside, falling towards both ends, never 0."""
    from_end = torch.arange(extent).float() + 0.5
    from_end = torch.minimum(from_end, from_end.flip(0))
    return (from_end / max(overlap, 1)).clamp(max=1)
