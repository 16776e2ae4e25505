"""Builds a Restormer from weights. The architecture is inferred from the state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from restormer.model import Restormer
from restormer.published import locate_weights
from restormer.weight_files import WeightsError, find_network, first_keys, read_weights

FIRST_KEYS = ("patch_embed.proj.weight", "encoder_level1.0.attn.temperature")
_LEVELS = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")


def load_restormer(weights: str, sha256: str | None = None) -> Restormer:
    """The network with these weights, on the CPU, in float32.

    `weights` is a packaged name, a published name (downloaded once into torch's hub cache), or a file. `sha256` is the file's
    hash. It is checked if given. A published name without a known hash needs it. Raises WeightsError and FileNotFoundError.
    """
    path = locate_weights(weights, sha256)
    try:
        state = read_weights(path)
        return restormer_from_state_dict(find_network(path, state, is_restormer) or state)
    except WeightsError as error:
        text = str(error)
        raise WeightsError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def is_restormer(state: Mapping[str, Tensor]) -> bool:
    """Whether these may be the weights of a Restormer. Networks that are derived from it share most of its names."""
    return all(key in state for key in FIRST_KEYS)


def infer_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keywords of the `Restormer` that has these keys and shapes. Raises WeightsError."""
    needed = ["patch_embed.proj.weight", "output.weight"]
    needed += [f"{level}.0.{key}" for level in _LEVELS for key in ("attn.temperature", "ffn.project_out.weight")]
    for key in needed:
        if key not in state:
            raise WeightsError(f"not the weights of a Restormer: there is no {key}; the first keys are {first_keys(state)}")
    for key in needed:
        axes = 3 if key.endswith("temperature") else 4
        if state[key].dim() != axes or 0 in state[key].shape:
            raise WeightsError(f"not the weights of a Restormer: {key} is {list(state[key].shape)}")
    dim, inp_channels = state["patch_embed.proj.weight"].shape[:2]
    hidden = [state[f"{level}.0.ffn.project_out.weight"].shape[1] for level in _LEVELS]
    return {
        "inp_channels": inp_channels,
        "out_channels": state["output.weight"].shape[0],
        "dim": dim,
        "num_blocks": [_count_blocks(state, level) for level in _LEVELS],
        "num_refinement_blocks": _count_blocks(state, "refinement"),
        "heads": [state[f"{level}.0.attn.temperature"].shape[0] for level in _LEVELS],
        "ffn_expansion_factor": _expansion([dim, 2 * dim, 4 * dim, 8 * dim], hidden),
        "bias": "encoder_level1.0.attn.qkv.bias" in state,
        "LayerNorm_type": "WithBias" if "encoder_level1.0.norm1.body.bias" in state else "BiasFree",
        "dual_pixel_task": "skip_conv.weight" in state,
    }


def _count_blocks(state: Mapping[str, Tensor], level: str) -> int:
    # Counts the blocks instead of taking the largest number: a single key must not make a network of a million blocks.
    return len({match[1] for key in state if (match := re.match(rf"{level}\.(\d{{1,3}})\.", key))})


def _expansion(widths: list[int], hidden: list[int]) -> float:
    """The factor with the fewest decimals for which int(width * factor) is each level's hidden width."""
    for decimals in range(1, 10):
        # A factor below `low` would make a hidden width too small, so `low` is rounded up.
        low = max(h / w for h, w in zip(hidden, widths, strict=True))
        factor = round(low + 0.5 * 10**-decimals, decimals)
        if [int(width * factor) for width in widths] == hidden:
            return factor
    raise WeightsError(f"not the weights of a Restormer: no expansion factor gives the hidden widths {hidden}")


def restormer_from_state_dict(state: Mapping[str, Tensor]) -> Restormer:
    """The network with these weights. Raises WeightsError for a missing or surplus key, a wrong shape, or a NaN or infinity."""
    try:
        with torch.device("meta"):  # saves the time to compute initial values that are replaced at once
            model = Restormer(**infer_architecture(state))
    except (ValueError, RuntimeError) as error:  # torch raises RuntimeError for sizes beyond 64 bits
        raise WeightsError(" ".join(str(error).split())[:200]) from None
    own = model.state_dict()
    for what, keys in (("missing", own.keys() - state.keys()), ("surplus", state.keys() - own.keys())):
        if keys:
            raise WeightsError(f"not the weights of this Restormer: {len(keys)} {what} keys, such as {min(keys)}")
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise WeightsError(f"not the weights of this Restormer: {key} is {list(state[key].shape)}, not {list(value.shape)}")
        if not state[key].isfinite().all():
            raise WeightsError(f"{key} has values that are not finite")
    model.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return model.requires_grad_(True)
