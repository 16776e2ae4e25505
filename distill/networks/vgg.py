"""VGG16's first layers, whose features the perceptual loss compares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from distill.config import ConfigError, VggConfig
from restormer.weight_files import find_network, read_weights

UP_TO_RELU2_2: list[str | int] = [64, 64, "M", 128, 128]  # channels of the convolutions; "M" is max pooling
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """VGG16 (Simonyan and Zisserman, ICLR 2015) up to relu2_2, frozen. It normalises its input itself. Its use in a perceptual
    loss is from Johnson, Alahi and Fei-Fei, ECCV 2016."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: VggConfig) -> None:
        """Downloads torchvision's weights for `imagenet`. Raises ConfigError, WeightsError and FileNotFoundError."""
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # `weights: random` is the same network in every run and after every resume
            self.features = make_layers(UP_TO_RELU2_2)  # not vgg16(): most of its 138 million weights would be discarded
            for parameter in self.features.parameters():  # as in vgg16(); without it random features fade with depth
                if parameter.ndim == 4:
                    nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
                else:
                    nn.init.zeros_(parameter)
        if config.weights != "random":
            self._load(config.weights)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        self.requires_grad_(False).eval()

    def _load(self, weights: str) -> None:
        if weights == "imagenet":
            state = _download(torchvision.models.VGG16_Weights.IMAGENET1K_V1)
        else:
            state = read_weights(Path(weights))
            state = find_network(Path(weights), state, lambda form: "features.0.weight" in form) or state
        wanted = {f"features.{key}": value for key, value in self.features.state_dict().items()}
        for key, value in wanted.items():
            if key not in state or state[key].shape != value.shape:
                raise ConfigError(f"vgg.weights: {weights}: {key} is missing or of another shape; not torchvision's vgg16")
        self.features.load_state_dict({key.removeprefix("features."): state[key] for key in wanted})

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> relu2_2, (B, 128, H/2, W/2), or (B, 128, resize/2, resize/2) with `resize`."""
        if self.config.resize is not None:
            image = F.interpolate(image, (self.config.resize,) * 2, mode="bilinear", align_corners=False)
        if self.config.normalize:
            image = (image - self.mean) / self.std
        return self.features(image)


def _download(weights: torchvision.models.VGG16_Weights) -> Mapping[str, Tensor]:
    """The weights, from torch's hub cache if they are there, else downloaded into it. Raises ConfigError."""
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no internet, or the file has the wrong hash
        raise ConfigError(
            f"vgg.weights: imagenet: cannot download {weights.url} ({error}); fetch it elsewhere and give the file"
        ) from None
