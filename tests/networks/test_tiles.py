"""Tiles cover every pixel, and where they meet nothing shows."""

from __future__ import annotations

from typing import Any

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor, nn

from distill.networks.tiles import OVERLAP, apply_in_tiles, blended_spans, exact_spans, restore_in_strips
from restormer.weights import load_restormer
from unet.model import SIZE_MULTIPLE, ResidualBlock, UNet


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


BLOCKS = {2: [1, 2], 3: [0, 2, 1], 4: [1, 0, 1, 2], 5: [0, 1, 0, 1, 1]}
FORMS = pytest.mark.parametrize("blocks", [None, BLOCKS], ids=["double_conv", "residual"])


def unet(depth: int, residual: bool = False, blocks: dict[int, list[int]] | None = None) -> UNet:
    """With weights that let an edge be seen as far off as the architecture allows."""
    with torch.random.fork_rng():
        torch.manual_seed(depth)
        form: dict[str, Any] = {} if blocks is None else {"block": "residual", "blocks": blocks[depth]}
        network = UNet(width=4, depth=depth, residual=residual, **form).eval().requires_grad_(False)
        for block in network.modules():
            if isinstance(block, ResidualBlock):
                nn.init.ones_(block.norm2.weight)  # type: ignore[arg-type]
        for parameter in network.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
        if blocks is not None:  # residual blocks add up to large values, and float32's errors grow with them
            network.final.weight /= network(torch.rand(1, 3, 64, 64)).std()
    return network


@FORMS
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_a_unet_depends_on_no_pixel_beyond_its_receptive_radius_and_on_the_last_within(
    depth: int, blocks: dict[int, list[int]] | None
) -> None:
    network = unet(depth, blocks=blocks).double()
    whole = torch.rand(1, 3, 256, 16, dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(whole)[..., 128:, :].abs().sum(), whole)
    touched = gradient.abs().sum(dim=(0, 1, 3)).nonzero()
    assert 128 - int(touched.min()) == network.receptive_radius


@pytest.mark.parametrize(("height", "width"), [(150, 131), (240, 17), (160, 145)])
@pytest.mark.parametrize("depth", [2, 3, 4])
@FORMS
def test_a_unet_in_exact_tiles_gives_what_it_gives_of_the_whole(
    depth: int, height: int, width: int, blocks: dict[int, list[int]] | None
) -> None:
    network, whole = unet(depth, residual=True, blocks=blocks), image(height, width)
    rows, columns = (exact_spans(extent, 144, network.receptive_radius, SIZE_MULTIPLE) for extent in (height, width))
    assert len(rows) > 1
    strips = restore_in_strips(network, lambda y, x: whole[..., y, x], rows, columns)
    restored = torch.cat([strip for _, strip in strips], dim=-2)
    torch.testing.assert_close(restored, network(whole), atol=1e-5, rtol=0)


def test_a_margin_below_the_receptive_radius_would_show() -> None:
    """The test above can fail."""
    network, whole = unet(4, residual=True), image(300, 64)
    rows, columns = exact_spans(300, 160, 16, SIZE_MULTIPLE), exact_spans(64, 160, 16, SIZE_MULTIPLE)
    strips = restore_in_strips(network, lambda y, x: whole[..., y, x], rows, columns)
    error = torch.cat([strip for _, strip in strips], dim=-2) - network(whole)
    assert float(error.abs().max()) > 1e-3


@pytest.mark.parametrize("extent", [1, 16, 159, 160, 161, 176, 321, 1000])
@pytest.mark.parametrize("tile", [112, 160])
def test_every_pixel_counts_once_in_all(extent: int, tile: int) -> None:
    for spans in (exact_spans(extent, tile, 46, 16), blended_spans(extent, tile, 32)):
        total = torch.zeros(extent)
        for span in spans:
            assert 0 <= span.start < span.stop <= extent
            assert span.stop - span.start <= tile
            total[span.pixels] += span.weights
        torch.testing.assert_close(total, torch.ones(extent), atol=1e-6, rtol=0)


def test_strips_come_from_top_to_bottom_and_none_is_higher_than_a_tile() -> None:
    whole = image(500, 60)
    next_row = 0
    for top, strip in restore_in_strips(
        lambda t: t, lambda y, x: whole[..., y, x], blended_spans(500, 64, 40), blended_spans(60, 64)
    ):
        assert top == next_row
        assert strip.shape[-2] <= 64
        next_row += strip.shape[-2]
    assert next_row == 500


def test_margins_that_leave_nothing_of_a_tile_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 112"):
        exact_spans(1000, 111, margin=46, stride=16)


def test_a_restormers_tiles_show_no_seam() -> None:
    """Where a tile begins or ends, the gradient across is that of the lines near by; without blending it is a quarter less."""
    sharp = torch.from_numpy(skimage.data.coffee()[64:160, :384]).permute(2, 0, 1)[None].float() / 255
    blurry = gaussian_blur2d(sharp, (11, 11), (1.6, 1.6))
    network = load_restormer("embedded").eval().requires_grad_(False)
    whole = network(blurry)
    assert 0.95 < _gradient_at_seams(apply_in_tiles(network, blurry, 160), whole, 160, OVERLAP) <= 1.02
    assert _gradient_at_seams(apply_in_tiles(network, blurry, 160, 1), whole, 160, 1) < 0.8


def _gradient_at_seams(restored: Tensor, whole: Tensor, tile: int, overlap: int) -> float:
    """Mean absolute gradient across the columns where tiles begin or end, relative to that 4 and 8 pixels beside them; both
    relative to what they are in an image without tiles."""
    width = restored.shape[-1]
    share = [image.diff(dim=-1).abs().mean(dim=(0, 1, 2)) for image in (restored, whole)]
    spans = blended_spans(width, tile, overlap)
    seams = torch.tensor([place - 1 for span in spans for place in (span.start, span.stop) if 0 < place < width])

    def relative(columns: Tensor) -> float:
        return float(share[0][columns].sum() / share[1][columns].sum())

    return relative(seams) / relative(torch.cat([seams + beside for beside in (-8, -4, 4, 8)]))
