"""Building a student from its configuration, and the files it is kept in: architecture beside the weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from distill.config import Config, ConfigError, RestormerConfig, UNetConfig
from distill.training.checkpoint import save_atomically
from restormer.model import Restormer
from restormer.weights import (
    WeightsError,
    check_state_dict,
    locate_weights,
    read_torch_file,
    read_weights,
    restormer_from_state_dict,
)
from restormer.weights import infer_architecture as restormer_architecture
from unet.model import UNet, for_inference
from unet.weights import UNetWeightsError, original_adam_state, original_state_dict, unet_from_state_dict
from unet.weights import infer_architecture as unet_architecture

FORMAT = "online-distill student 1"


def build_student(config: Config) -> nn.Module:
    """The student at its start: `student.init`'s weights where given, else random ones that depend on the seed alone.

    Raises ConfigError, WeightsError and FileNotFoundError.
    """
    student = config.student
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        model = build_network(student.arch, architecture(student))
    if student.init is not None:
        _load_init(model, student)
    elif isinstance(model, Restormer):
        # As the U-Net's: the first prediction is the input, and training starts from there, not from noise.
        for parameter in model.output.parameters():
            nn.init.zeros_(parameter)
    return model


def architecture(student: UNetConfig | RestormerConfig) -> dict[str, Any]:
    """The network's constructor keywords."""
    return student.model_dump(exclude={"arch", "init", "compile"})


def build_network(arch: str, keywords: Mapping[str, Any]) -> nn.Module:
    """Raises ConfigError for keywords that describe no network."""
    try:
        return UNet(**keywords) if arch == "unet" else Restormer(**keywords)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"student: {error}") from None


def _load_init(model: nn.Module, student: UNetConfig | RestormerConfig) -> None:
    assert student.init is not None
    if isinstance(student, RestormerConfig):
        path = locate_weights(student.init)
        state: Mapping[str, Tensor] = read_weights(path)
    else:
        path = Path(student.init)
        loaded = load_student(path, residual=student.residual)
        state = loaded.state_dict()
    own = model.state_dict()
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in state.items()}:
        raise ConfigError(f"student.init: {path} is of another network than student describes ({architecture(student)})")
    if isinstance(student, UNetConfig) and loaded.residual != student.residual:
        raise ConfigError(f"student.init: {path} is of a network with residual: {not student.residual}")
    model.load_state_dict(dict(state))


def continue_optimizer(optimizer: torch.optim.Adam, model: nn.Module, student: UNetConfig | RestormerConfig) -> str | None:
    """Gives Adam the moments of `student.init` where that is the original project's resume file, and says so; None where it is
    not. Raises WeightsError."""
    if student.init is None or isinstance(student, RestormerConfig) or Path(student.init).suffix == ".safetensors":
        return None
    content = read_torch_file(Path(student.init))
    try:
        moments = original_adam_state(content)
    except UNetWeightsError as error:
        raise WeightsError(f"{student.init}: {error}") from None
    if not moments:
        return None
    state = optimizer.state_dict()
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if name in moments:
            # In the parameter's own memory format: the fused step walks through both side by side.
            like = {key: torch.empty_like(parameter).copy_(moments[name][key]) for key in ("exp_avg", "exp_avg_sq")}
            state["state"][number] = {"step": torch.tensor(moments[name]["step"]), **like}
    optimizer.load_state_dict(state)
    return f"{student.init}: going on after its epoch {content.get('epoch', '?')}, with Adam's moments"


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


def describe_network(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """`unet` or `restormer`, and its constructor's keywords."""
    if isinstance(model, UNet):
        return "unet", unet_architecture(model.state_dict()) | {"residual": model.residual}
    return "restormer", restormer_architecture(model.state_dict())


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


def inference_copy(model: nn.Module) -> nn.Module:
    """A frozen copy in eval mode, in the form that is fastest for its network."""
    return for_inference(model) if isinstance(model, UNet) else copy.deepcopy(model).eval().requires_grad_(False)


def _is_unet(state: Any) -> bool:
    return isinstance(state, Mapping) and "enc1.block.0.weight" in state
