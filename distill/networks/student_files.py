"""The files that a student is kept in: its architecture beside its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from distill.config import RestormerConfig, UNetConfig
from distill.networks.architecture import architecture, describe_network
from distill.runtime.files import save_atomically
from restormer.weight_files import WeightsError, check_state_dict, read_torch_file, read_weights
from restormer.weights import restormer_from_state_dict
from unet.weights import UNetWeightsError, original_state_dict, unet_from_state_dict

FORMAT = "online-distill student 1"
About = Mapping[str, str | int | float]
"""What a student file says about its network, in plain values; `training/about.py` lists the names."""


def save_student(path: Path, model: nn.Module, student: UNetConfig | RestormerConfig, about: About | None = None) -> None:
    """Writes weights and architecture, so that `load_student` needs no YAML, and what there is to say about them. The file
    appears whole or not at all."""
    content = {"format": FORMAT, "arch": student.arch, "architecture": architecture(student), "about": dict(about or {})}
    save_atomically(path, content | {"state_dict": model.state_dict()})


def student_safetensors(model: nn.Module, about: About, dtype: torch.dtype = torch.float32) -> bytes:
    """The same as a `.safetensors` file: all but the weights is JSON in its metadata."""
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in model.state_dict().items()}
    arch, keywords = describe_network(model)
    content = {"format": FORMAT, "arch": arch, "architecture": json.dumps(keywords), "about": json.dumps(dict(about))}
    return save({key: value.contiguous() for key, value in state.items()}, content)


def load_student(path: Path, residual: bool = False) -> nn.Module:
    """A network from a file of `save_student` or `student_safetensors`, of the original project, or of a Restormer; in eval mode,
    on the CPU.

    `residual` is for plain state dicts of a U-Net, which do not say it; the original's have none. Raises WeightsError and
    FileNotFoundError.
    """
    return read_student(path, residual)[0]


def read_student(path: Path, residual: bool = False) -> tuple[nn.Module, dict[str, str | int | float]]:
    """The network as `load_student` gives it, and what the file says about it: {} where it says nothing."""
    content: Any = read_torch_file(path) if path.suffix != ".safetensors" else _read_safetensors(path)
    about: dict[str, str | int | float] = {}
    try:
        if isinstance(content, dict) and content.get("format") == FORMAT:
            model, about = _of_this_project(path, content), _plain(content.get("about"))
        elif isinstance(content, dict) and _is_unet(original_state_dict(content)):
            model = unet_from_state_dict(check_state_dict(path, original_state_dict(content)), residual)
        else:
            model = restormer_from_state_dict(read_weights(path))
    except (UNetWeightsError, WeightsError) as error:
        raise WeightsError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    return model.eval(), about


def _read_safetensors(path: Path) -> dict[str, Any]:
    """As a torch file of `save_student` reads, where the metadata is of `student_safetensors`; else the weights alone."""
    state = read_weights(path)
    with safe_open(path, framework="pt") as file:
        said = file.metadata() or {}
    if said.get("format") != FORMAT:
        return dict(state)
    try:
        described = {name: json.loads(said.get(name, "null")) for name in ("architecture", "about")}
    except (ValueError, RecursionError):
        raise WeightsError(f"{path}: its metadata is not JSON") from None
    return {"format": FORMAT, "arch": said.get("arch"), "state_dict": state} | described


def _plain(about: Any) -> dict[str, str | int | float]:
    # A file of before had none, and nothing depends on it: what is no plain value is left out.
    items = about.items() if isinstance(about, Mapping) else ()
    return {key: value for key, value in items if isinstance(key, str) and isinstance(value, str | int | float)}


def _of_this_project(path: Path, content: Mapping[str, Any]) -> nn.Module:
    """The network of a file of `save_student`: the one that its weights are of, whatever it says beside them, but for what they
    do not tell. Raises WeightsError and UNetWeightsError."""
    state = check_state_dict(path, content.get("state_dict"))
    if content.get("arch") == "restormer":
        return restormer_from_state_dict(state)
    keywords = content.get("architecture")
    residual = keywords.get("residual") if isinstance(keywords, Mapping) else None
    if content.get("arch") != "unet" or not isinstance(residual, bool):
        raise WeightsError(f"{path}: a student of an unknown kind")
    return unet_from_state_dict(state, residual)


def _is_unet(state: Any) -> bool:
    return isinstance(state, Mapping) and "enc1.block.0.weight" in state
