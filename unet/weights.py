"""U-Net weights: which network a state dict is of, and the original project's files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unet.model import UNet


class UNetWeightsError(ValueError):
    """A state dict that is not of a U-Net of this project."""


def original_state_dict(checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The weights in one of the original project's files: a plain state dict (`student_model_v1.pth`), or the resume file's
    `{"epoch", "model", "optimizer"}` (`student_checkpoint.pth`)."""
    return checkpoint["model"] if "model" in checkpoint and "optimizer" in checkpoint else checkpoint


def infer_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keywords of `UNet` that these keys and shapes come from.

    `residual` leaves no trace in them and is not included. Raises UNetWeightsError.
    """
    levels = [int(match[1]) for key in state if (match := re.fullmatch(r"enc(\d+)\.block\.0\.weight", key))]
    if not levels or "final.weight" not in state:
        raise UNetWeightsError("not the weights of a U-Net: there is no enc1.block.0.weight, or no final.weight")
    return {
        "width": state["enc1.block.0.weight"].shape[0],
        "depth": max(levels) + 1,
        "norm": "batch" if "enc1.block.1.running_mean" in state else "none",
    }


def unet_from_state_dict(state: Mapping[str, Tensor], residual: bool) -> UNet:
    """The network of these weights. Raises UNetWeightsError for a missing or surplus key and for a wrong shape.

    The original project's files are of `residual=False`.
    """
    model = UNet(**infer_architecture(state), residual=residual)
    own = model.state_dict()
    for what, keys in (("missing", own.keys() - state.keys()), ("surplus", state.keys() - own.keys())):
        if keys:
            raise UNetWeightsError(f"not the weights of this U-Net: {len(keys)} {what} keys, such as {min(keys)}")
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise UNetWeightsError(f"not the weights of this U-Net: {key} is {list(state[key].shape)}, not {list(value.shape)}")
    model.load_state_dict(dict(state))
    return model
