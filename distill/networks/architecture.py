"""Builds a student's network, and tells the constructor keywords of a network."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from distill.config import ConfigError, RestormerConfig, UNetConfig
from distill.networks.adapters import Adapted, OneChannel
from restormer.model import Restormer
from restormer.weights import infer_architecture as restormer_architecture
from unet.model import UNet, for_inference
from unet.weights import infer_architecture as unet_architecture


def architecture(student: UNetConfig | RestormerConfig) -> dict[str, Any]:
    """The network's constructor keywords."""
    return student.model_dump(exclude={"arch", "init", "compile"})


def build_network(student: UNetConfig | RestormerConfig) -> nn.Module:
    """The network with its initial weights. Raises ConfigError if the keywords describe no network."""
    try:
        return UNet(**architecture(student)) if student.arch == "unet" else Restormer(**architecture(student))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"student: {error}") from None


def describe_network(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """`unet` or `restormer`, and the network's constructor keywords. For a network of another project, its architecture's name,
    and no keywords: its weights imply them."""
    if isinstance(model, OneChannel) or (isinstance(model, Adapted) and isinstance(model.network, UNet)):
        return describe_network(model.network)
    if isinstance(model, Adapted):
        return model.arch, {}
    if isinstance(model, UNet):
        return "unet", unet_architecture(model.state_dict()) | {"residual": model.residual}
    return "restormer", restormer_architecture(model.state_dict())


def inference_copy(model: nn.Module) -> nn.Module:
    """A frozen copy in eval mode. For speed, a U-Net's BatchNorm is folded into its convolutions."""
    return for_inference(model) if isinstance(model, UNet) else copy.deepcopy(model).eval().requires_grad_(False)
