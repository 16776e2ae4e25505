"""Paired augmentation on the device: all images of a sample get the same transform, before teacher and student run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import kornia
import numpy as np
import torch
from torch import Tensor

from distill.config import AugmentConfig
from distill.synthesis.eight_bit import quantize

CHANNEL_ORDERS = tuple(itertools.permutations(range(3)))  # the first is the identity


def draw(config: AugmentConfig, rng: np.random.Generator) -> dict[str, float]:
    """The random numbers of one sample."""
    # Numbers are drawn even for augmentations that are off, so that switching one off does not change the others. The channel
    # order is drawn last because it is drawn only if it is needed.
    horizontal, vertical, turns, shuffle = rng.random(), rng.random(), int(rng.integers(4)), rng.random()
    return {
        "augment.flip_horizontal": float(config.flip and horizontal < 0.5),
        "augment.flip_vertical": float(config.flip and vertical < 0.5),
        "augment.quarter_turns": turns if config.rotate else 0,
        "augment.gamma": math.exp(rng.uniform(math.log(config.gamma[0]), math.log(config.gamma[1]))),
        "augment.brightness": rng.uniform(*config.brightness),
        "augment.channel_order": int(rng.integers(1, 6)) if shuffle < config.shuffle_channels else 0,
    }


def draw_again(config: AugmentConfig, rng: np.random.Generator, repeat: int) -> dict[str, float]:
    """The random numbers with which `turn_again` flips and turns one sample when it is used for the `repeat`-th time again."""
    drawn = draw(config, rng)
    return {f"again.{repeat}.{name}": drawn[f"augment.{name}"] for name in ("flip_horizontal", "flip_vertical", "quarter_turns")}


def turn_again(
    images: Sequence[Tensor | None], config: AugmentConfig, draws: dict[str, Tensor], repeat: int
) -> list[Tensor | None]:
    """Flips and turns images that `augment` has made, as `draw_again` says. None stays None."""
    return [None if image is None else _geometric(image, config, draws, f"again.{repeat}") for image in images]


def augment(images: Sequence[Tensor | None], config: AugmentConfig, draws: dict[str, Tensor]) -> list[Tensor | None]:
    """Augments tensors, each (B, 3, P, P) in [0, 1]. None stays None. A sample gets the same transform in every tensor. After
    each change of gamma or brightness, the image is rounded to 8 bits again. `draws` are (B,) on the CPU."""
    return [
        None if image is None else _photometric(_geometric(image, config, draws, "augment"), config, draws) for image in images
    ]


def _geometric(image: Tensor, config: AugmentConfig, draws: dict[str, Tensor], purpose: str) -> Tensor:
    def drew(key: str, value: int = 1) -> Tensor:
        """(B, 1, 1, 1) bool: the samples that drew this value."""
        return (draws[f"{purpose}.{key}"] == value).to(image.device, non_blocking=True)[:, None, None, None]

    if config.flip:
        image = torch.where(drew("flip_horizontal"), kornia.geometry.transform.hflip(image), image)
        image = torch.where(drew("flip_vertical"), kornia.geometry.transform.vflip(image), image)
    if config.rotate:
        # torch.rot90 only moves pixels. kornia's rotation would interpolate them. Three turns are made as one turn, then two.
        image = torch.where(drew("quarter_turns", 1) | drew("quarter_turns", 3), torch.rot90(image, 1, (-2, -1)), image)
        image = torch.where(drew("quarter_turns", 2) | drew("quarter_turns", 3), torch.rot90(image, 2, (-2, -1)), image)
    return image


def _photometric(image: Tensor, config: AugmentConfig, draws: dict[str, Tensor]) -> Tensor:
    if config.shuffle_channels > 0:
        orders = torch.tensor(CHANNEL_ORDERS)[draws["augment.channel_order"].long()].to(image.device, non_blocking=True)
        image = image.gather(1, orders[:, :, None, None].expand_as(image))
    gamma, brightness = (draws[f"augment.{key}"].float().to(image.device, non_blocking=True) for key in ("gamma", "brightness"))
    if config.gamma != (1.0, 1.0):
        # The gain is a tensor: kornia would copy a float to the device, and the host would wait for the copy.
        image = quantize(kornia.enhance.adjust_gamma(image, gamma, torch.ones_like(gamma)))
    if config.brightness != (0.0, 0.0):
        image = quantize(kornia.enhance.adjust_brightness(image, brightness))
    return image
