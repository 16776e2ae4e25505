"""Blurry and sharp stay aligned through every augmentation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distill.config import AugmentConfig
from distill.synthesis.augment import CHANNEL_ORDERS, augment, draw

COUNT, SIDE = 64, 16


def draws_of(config: AugmentConfig) -> dict[str, torch.Tensor]:
    rows = [draw(config, np.random.default_rng([3, row])) for row in range(COUNT)]
    return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}


@pytest.fixture
def coordinates() -> torch.Tensor:
    """(COUNT, 3, SIDE, SIDE): every pixel of every sample says which pixel it is."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return (torch.stack([y, x, y * SIDE + x]).float() / 255).expand(COUNT, -1, -1, -1)


def test_geometry_is_the_same_for_both_and_one_of_eight(coordinates: torch.Tensor) -> None:
    config = AugmentConfig()
    sharp, blurry = augment([coordinates, coordinates.clone()], config, draws_of(config))
    assert torch.equal(sharp, blurry)
    base = coordinates[0]
    eight = [torch.rot90(turned, k, (1, 2)) for turned in (base, base.flip(2)) for k in range(4)]
    found = [next(i for i, one in enumerate(eight) if torch.equal(one, sample)) for sample in sharp]
    assert set(found) == set(range(8))


@pytest.mark.parametrize(("flip", "rotate"), [(False, False), (True, False), (False, True)])
def test_what_is_switched_off_does_not_happen(coordinates: torch.Tensor, flip: bool, rotate: bool) -> None:
    config = AugmentConfig(flip=flip, rotate=rotate)
    (out,) = augment([coordinates], config, draws_of(config))
    base = coordinates[0]
    allowed = [base]
    if flip:
        allowed += [base.flip(2), base.flip(1), base.flip((1, 2))]
    if rotate:
        allowed += [torch.rot90(base, k, (1, 2)) for k in (1, 2, 3)]
    kinds = {next(i for i, one in enumerate(allowed) if torch.equal(one, sample)) for sample in out}
    assert kinds == set(range(len(allowed)))


@pytest.mark.parametrize(
    "keywords",
    [{"gamma": (0.5, 2.0)}, {"brightness": (-0.3, 0.3)}, {"shuffle_channels": 1.0}, {"gamma": (0.5, 2.0), "flip": True}],
)
def test_photometric_changes_are_the_same_for_both_and_end_in_8_bits(keywords: dict[str, Any]) -> None:
    config = AugmentConfig(**{"flip": False, "rotate": False, **keywords})
    image = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE)).float() / 255
    sharp, blurry = augment([image, image.clone()], config, draws_of(config))
    assert torch.equal(sharp, blurry)
    assert not torch.equal(sharp, image)
    torch.testing.assert_close(sharp, (sharp * 255).round() / 255, atol=1e-7, rtol=0)
    assert 0 <= float(sharp.min()) <= float(sharp.max()) <= 1


def test_brightness_is_what_was_drawn() -> None:
    config = AugmentConfig(flip=False, rotate=False, brightness=(-0.3, 0.3))
    image, draws = torch.rand(COUNT, 3, SIDE, SIDE), draws_of(config)
    (out,) = augment([image], config, draws)
    for row in range(COUNT):
        expected = (image[row] + draws["augment.brightness"][row].float()).clamp(0, 1)
        assert float((out[row] - expected).abs().max()) <= 0.5 / 255 + 1e-6


def test_gamma_and_channel_order_are_what_was_drawn() -> None:
    config = AugmentConfig(flip=False, rotate=False, gamma=(0.5, 2.0), shuffle_channels=1.0)
    image = torch.rand(COUNT, 3, SIDE, SIDE)
    draws = draws_of(config)
    (out,) = augment([image], config, draws)
    for row in range(COUNT):
        order = CHANNEL_ORDERS[int(draws["augment.channel_order"][row])]
        expected = image[row, list(order)] ** draws["augment.gamma"][row].float()
        assert order != (0, 1, 2)
        assert float((out[row] - expected).abs().max()) <= 0.5 / 255 + 1e-6


def test_without_augmentation_nothing_changes() -> None:
    config = AugmentConfig(flip=False, rotate=False)
    image = torch.rand(COUNT, 3, SIDE, SIDE)
    assert torch.equal(augment([image], config, draws_of(config))[0], image)
