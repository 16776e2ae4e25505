"""Tiles cover every pixel, and where they meet nothing shows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.engine.tiles import apply_in_tiles


def image(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height * width))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 64), (200, 131), (63, 300), (16, 500)])
def test_the_identity_stays_the_identity_and_no_tile_is_too_large(height: int, width: int) -> None:
    sizes: list[tuple[int, int]] = []

    def identity(tile: Tensor) -> Tensor:
        sizes.append((tile.shape[-2], tile.shape[-1]))
        return tile

    whole = image(height, width)
    torch.testing.assert_close(apply_in_tiles(identity, whole, tile=64, overlap=16), whole, atol=1e-6, rtol=0)
    assert all(h == min(64, height) and w == min(64, width) for h, w in sizes)


def test_an_image_of_one_tile_is_restored_whole() -> None:
    whole = image(40, 64)
    flipped = apply_in_tiles(lambda tile: tile.flip(-1), whole, tile=64, overlap=16)
    torch.testing.assert_close(flipped, whole.flip(-1), atol=1e-6, rtol=0)


def test_a_local_network_gives_nearly_what_it_gives_of_the_whole() -> None:
    """A blur of radius 4: at a tile's border it sees padding, and there the tile's weight is nearly 0."""
    kernel = torch.ones(3, 1, 9, 9) / 81

    def blur(tile: Tensor) -> Tensor:
        return F.conv2d(F.pad(tile, [4] * 4, mode="reflect"), kernel, groups=3)

    whole = image(150, 170)
    error = (apply_in_tiles(blur, whole, tile=64, overlap=24) - blur(whole)).abs()
    assert float(error.max()) < 0.02
    assert float(error.mean()) < 0.001


def test_a_step_between_tiles_becomes_a_slope() -> None:
    """Each tile comes out one level above the one before: the result rises by no more than a level over the overlap."""
    count = iter(range(10))
    out = apply_in_tiles(lambda tile: tile * 0 + next(count), image(32, 160), tile=64, overlap=16)
    steps = out[0, 0, 0].diff()
    assert float(steps.min()) >= 0
    assert float(steps.max()) < 2 / 16


def test_an_overlap_as_large_as_the_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap of 64"):
        apply_in_tiles(lambda tile: tile, image(100, 100), tile=64, overlap=64)
