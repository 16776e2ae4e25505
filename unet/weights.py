"""Builds a U-Net from a state dict. Extracts weights and Adam moments from the original project's files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unet.model import UNet

# The first layer of each form.
RESIDUAL_FIRST = "stem.weight"
FIRST_LAYERS = ("enc1.block.0.weight", RESIDUAL_FIRST)


class UNetWeightsError(ValueError):
    """A state dict or an optimizer state that fits no U-Net of this project."""


def original_adam_state(checkpoint: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Adam's `step`, `exp_avg` and `exp_avg_sq` for each parameter name in a resume file of the original project,
    `{"epoch", "model", "optimizer"}`. {} for a plain state dict.

    The optimizer state numbers parameters in the order of the file's own state dict. Raises UNetWeightsError if the optimizer
    state does not fit the state dict.
    """
    if "model" not in checkpoint or "optimizer" not in checkpoint:
        return {}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    names = [key for key in checkpoint["model"] if not key.endswith(buffers)]
    try:
        numbers = [number for group in checkpoint["optimizer"]["param_groups"] for number in group["params"]]
        slots = checkpoint["optimizer"]["state"]
        moments: dict[str, Mapping[str, Any]] = {
            name: {"step": float(slots[number]["step"]), **{key: slots[number][key] for key in ("exp_avg", "exp_avg_sq")}}
            for name, number in zip(names, numbers, strict=True)
            if number in slots
        }
        shapes = {name: [slot[key].shape for key in ("exp_avg", "exp_avg_sq")] for name, slot in moments.items()}
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        raise UNetWeightsError("its optimizer state is not Adam's, or not of its model") from None
    for name, found in shapes.items():
        if found != [checkpoint["model"][name].shape] * 2:
            raise UNetWeightsError(f"its optimizer state is not of its model: {name} is {list(found[0])} there")
    return moments


def infer_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keywords of the `UNet` that has these keys and shapes.

    `residual` is not included, because keys and shapes do not depend on it. Raises UNetWeightsError.
    """
    name = next((name for name in FIRST_LAYERS if name in state), None)
    if name is None or "final.weight" not in state:
        raise UNetWeightsError(f"not the weights of a U-Net: there is no {' or '.join(FIRST_LAYERS)}, or no final.weight")
    if state[name].dim() != 4:
        raise UNetWeightsError(f"not the weights of a U-Net: {name} is {list(state[name].shape)}")
    depth = 1 + max((int(match[1]) for key in state if (match := re.match(r"(?:enc|up)(\d)\.", key))), default=0)
    blocks = None
    if name == RESIDUAL_FIRST:
        levels = [*(f"enc{level}" for level in range(1, depth)), "bottleneck"]
        blocks = [sum(bool(re.fullmatch(rf"{level}\.\d+\.conv1\.weight", key)) for key in state) for level in levels]
    return {
        "width": state[name].shape[0],
        "depth": depth,
        "norm": "batch" if any(key.endswith(".running_mean") for key in state) else "none",
        "block": "double_conv" if blocks is None else "residual",
        "blocks": blocks,
    }


def is_unet(state: Mapping[str, Tensor]) -> bool:
    """Whether these may be the weights of a U-Net."""
    return "final.weight" in state and any(name in state for name in FIRST_LAYERS)


def unet_from_state_dict(state: Mapping[str, Tensor], residual: bool) -> UNet:
    """The network with these weights. Raises UNetWeightsError for a missing or surplus key, a wrong shape, or a NaN or infinity.

    The original project's files need `residual=False`.
    """
    try:
        with torch.device("meta"):  # allocates nothing before the weights have been checked
            model = UNet(**infer_architecture(state), residual=residual)
    except (ValueError, RuntimeError) as error:  # torch raises RuntimeError for sizes beyond 64 bits
        raise UNetWeightsError(" ".join(str(error).split())[:200]) from None
    own = model.state_dict()
    for what, keys in (("missing", own.keys() - state.keys()), ("surplus", state.keys() - own.keys())):
        if keys:
            raise UNetWeightsError(f"not the weights of this U-Net: {len(keys)} {what} keys, such as {min(keys)}")
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise UNetWeightsError(f"not the weights of this U-Net: {key} is {list(state[key].shape)}, not {list(value.shape)}")
        if not state[key].isfinite().all():
            raise UNetWeightsError(f"{key} has values that are not finite")
    model.to_empty(device="cpu").load_state_dict(dict(state))
    return model
