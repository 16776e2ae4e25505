"""Student files: a student's weights, its architecture, and what is known about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from distill.config import RestormerConfig, UNetConfig, general_student
from distill.networks.adapters import OneChannel
from distill.networks.architecture import architecture, describe_network
from distill.networks.foreign import load_foreign
from distill.runtime.files import save_atomically
from restormer.model import Restormer
from restormer.published import locate_weights
from restormer.weight_files import (
    WeightsError,
    check_state_dict,
    find_network,
    read_safetensors,
    read_torch_file,
    unwrapped,
)
from restormer.weights import is_restormer, restormer_from_state_dict
from unet.weights import UNetWeightsError, is_unet, unet_from_state_dict

FORMAT = "online-distill student 1"
About = Mapping[str, str | int | float]
"""What a student file says about its network: names and plain values. `training/about.py` lists the names."""
GENERAL_STUDENT = "general_student"


def locate_network(weights: str) -> Path:
    """The file of a student or a Restormer: `general_student`, which comes with this package, or as `locate_weights` finds it.
    Raises WeightsError and FileNotFoundError."""
    return general_student() if weights == GENERAL_STUDENT else locate_weights(weights, also=[GENERAL_STUDENT])


def save_student(path: Path, model: nn.Module, student: UNetConfig | RestormerConfig, about: About | None = None) -> None:
    """Writes weights, architecture and `about` to a torch file. `load_student` then needs no YAML. The file appears whole or not
    at all."""
    content = {"format": FORMAT, "arch": student.arch, "architecture": architecture(student), "about": dict(about or {})}
    save_atomically(path, content | {"state_dict": model.state_dict()})


def student_safetensors(model: nn.Module, about: About, dtype: torch.dtype = torch.float32) -> bytes:
    """What `save_student` saves, as the bytes of a `.safetensors` file. Its metadata holds architecture and `about` as JSON."""
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in model.state_dict().items()}
    arch, keywords = describe_network(model)
    content = {"format": FORMAT, "arch": arch, "architecture": json.dumps(keywords), "about": json.dumps(dict(about))}
    return save({key: value.contiguous() for key, value in state.items()}, content)


def load_student(path: Path, residual: bool = False, each_channel: bool = False) -> nn.Module:
    """The network from a file of this project, of the original project, of a Restormer, or of any network that `load_foreign`
    recognises. It is in eval mode, on the CPU.

    If the file holds only a U-Net's state dict, it does not say whether the network is residual. `residual` then says whether it
    is. The original project's U-Nets are not residual. `each_channel` is as in `teacher`. Raises WeightsError and
    FileNotFoundError.
    """
    network = read_student(path, residual)[0]
    if isinstance(network, OneChannel):
        network.each_channel = each_channel
    return network


def read_student(path: Path, residual: bool = False) -> tuple[nn.Module, dict[str, str | int | float]]:
    """The network, loaded as in `load_student`, and what the file says about it: {} if it says nothing."""
    content = _read(path)
    try:
        model = _of_this_project(path, content) if _is_student(content) else _of_weights(path, content, residual)
    except (UNetWeightsError, WeightsError) as error:
        # Some of these messages begin with the path already.
        raise WeightsError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    if isinstance(model, Restormer) and model.channels == 1:
        model = OneChannel(model)
    return model.eval(), _about(content)


def read_about(path: Path) -> dict[str, str | int | float]:
    """What a file says about its network, without building the network. Raises WeightsError and FileNotFoundError."""
    return _about(_read(path))


def _read(path: Path) -> Any:
    """The content of a torch file. If `student_safetensors` made the file: the dict that `save_student` writes to a torch file.
    For other `.safetensors` files: the weights alone."""
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    state = read_safetensors(path)
    with safe_open(path, framework="pt") as file:
        said = file.metadata() or {}
    if said.get("format") != FORMAT:
        return state
    try:
        described = {name: json.loads(said.get(name, "null")) for name in ("architecture", "about")}
    except (ValueError, RecursionError):
        raise WeightsError(f"{path}: its metadata is not JSON") from None
    return {"format": FORMAT, "arch": said.get("arch"), "state_dict": state} | described


def _is_student(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT


def _of_weights(path: Path, content: Any, residual: bool) -> nn.Module:
    """The network of a file that another program wrote. A Restormer needs no other package, and is fast here, so our own networks
    come first. Raises WeightsError and UNetWeightsError."""
    state = unwrapped(path, content)
    if (found := find_network(path, state, is_unet)) is not None:
        return unet_from_state_dict(found, residual)
    if (found := find_network(path, state, is_restormer)) is not None:
        return restormer_from_state_dict(found)
    return load_foreign(path, state)


def _about(content: Any) -> dict[str, str | int | float]:
    about = content.get("about") if _is_student(content) else None
    # Older files have no `about`, and nothing depends on it. Values that are not plain are left out.
    items = about.items() if isinstance(about, Mapping) else ()
    return {key: value for key, value in items if isinstance(key, str) and isinstance(value, str | int | float)}


def _of_this_project(path: Path, content: Mapping[str, Any]) -> nn.Module:
    """The network of a student file. Only `arch` and `residual` are taken from what the file says. The rest of the architecture
    is inferred from the weights. Raises WeightsError and UNetWeightsError."""
    state = check_state_dict(path, content.get("state_dict"))
    if content.get("arch") == "restormer":
        return restormer_from_state_dict(state)
    keywords = content.get("architecture")
    residual = keywords.get("residual") if isinstance(keywords, Mapping) else None
    if content.get("arch") != "unet" or not isinstance(residual, bool):
        raise WeightsError(f"{path}: a student of an unknown kind")
    return unet_from_state_dict(state, residual)
