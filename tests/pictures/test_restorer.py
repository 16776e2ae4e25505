"""Pictures of any size and depth go through a network whose result is known, and come out exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import levels
from torch import nn

from distill.config import ConfigError
from distill.pictures.restorer import TILE, NotFiniteError, Restorer
from restormer.weights import load_restormer
from unet.model import SIZE_MULTIPLE, UNet

CPU = torch.device("cpu")


def adding(value: float) -> UNet:
    """A residual U-Net that adds a constant."""
    network = UNet(width=2, depth=2)
    nn.init.constant_(network.final.bias, value)
    return network


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (16, 16), (20, 300), (200, 20), (131, 150)])
def test_a_network_without_a_correction_changes_no_bit(dtype: type, colours: int, size: tuple[int, int]) -> None:
    pixels = levels((*size, colours), dtype)
    restored = Restorer(adding(0), CPU, tile=64).restore(pixels)
    assert restored.dtype == dtype
    np.testing.assert_array_equal(restored, pixels)


@pytest.mark.parametrize(("dtype", "step"), [(np.uint8, 51), (np.uint16, 13107)])
def test_a_constant_is_added_in_the_pictures_own_levels_and_stops_at_white(dtype: type, step: int) -> None:
    pixels = levels((90, 70, 3), dtype)
    restored = Restorer(adding(0.2), CPU, tile=64).restore(pixels)
    np.testing.assert_array_equal(restored, np.minimum(pixels.astype(int) + step, np.iinfo(dtype).max))


@pytest.mark.parametrize("size", [(150, 70), (70, 150)])
def test_tiles_of_a_unet_change_no_level(size: tuple[int, int]) -> None:
    """Wide pictures are cut the other way, and must not be turned."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(width=4, depth=3)
        nn.init.normal_(network.final.weight, std=0.2)
    pixels = levels((*size, 3), np.uint16)
    whole = Restorer(network, CPU, tile=160).restore(pixels)
    assert np.abs(whole.astype(int) - pixels).mean() > 1000
    difference = Restorer(network, CPU, tile=96).restore(pixels).astype(int) - whole
    assert np.abs(difference).max() <= 1


def test_a_restormer_is_blended_and_a_small_picture_padded() -> None:
    restorer = Restorer(load_restormer("embedded"), CPU, tile=64)
    pixels = np.tile(np.linspace(40, 200, 80).astype(np.uint8)[:, None, None], (1, 12, 3))
    restored = restorer.restore(pixels)
    assert restored.shape == pixels.shape
    assert np.abs(restored.astype(int) - pixels).max() < 12  # a slope has nothing to sharpen


def test_progress_adds_up_to_the_picture() -> None:
    for size in [(150, 300), (5, 300)]:
        completed: list[int] = []
        Restorer(adding(0), CPU, tile=64).restore(levels((*size, 3)), completed.append)
        assert sum(completed) == size[0] * size[1]


def test_without_a_tile_of_the_users_any_network_restores() -> None:
    far = UNet(width=1, depth=5, block="residual", blocks=[4] * 5)
    assert far.receptive_radius > TILE // 2 - SIZE_MULTIPLE
    assert Restorer(far, CPU).restore(levels((20, 30, 3))).shape == (20, 30, 3)


def test_a_tile_that_is_all_margin_is_refused() -> None:
    with pytest.raises(ConfigError, match="--tile: 47 is too small for this network; at least 48"):
        Restorer(adding(0), CPU, tile=47)
    with pytest.raises(ConfigError, match="at least 64"):
        Restorer(load_restormer("embedded"), CPU, tile=63)


def test_an_image_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NotFiniteError):
        Restorer(adding(float("inf")), CPU).restore(levels((20, 20, 3)))


def test_half_precision_rounds_the_correction_and_not_the_picture() -> None:
    pixels = levels((32, 32, 3), np.uint16)
    np.testing.assert_array_equal(Restorer(adding(0), CPU, "fp16").restore(pixels), pixels)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_it_gives_the_same(precision: str) -> None:
    pixels = levels((150, 300, 3))
    restored = Restorer(adding(0.2), torch.device("cuda"), precision, tile=64).restore(pixels)
    np.testing.assert_allclose(restored, np.minimum(pixels.astype(int) + 51, 255), atol=1)
