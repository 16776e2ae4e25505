"""VGG16's features are torchvision's, whatever file they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor

from distill.config import ConfigError, VggConfig
from distill.networks.vgg import VggFeatures


def relu2_2(network: Any, image: Tensor) -> Tensor:
    for index in range(9):  # conv1_1 relu conv1_2 relu pool conv2_1 relu conv2_2 relu
        image = network.features[index](image)
    return image


@pytest.fixture(scope="module")
def vgg16() -> Any:
    """Torchvision's, whole."""
    torch.manual_seed(5)
    return torchvision.models.vgg16(weights=None)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("resize", [None, 24])
def test_vgg_features_are_torchvisions(vgg16: Any, monkeypatch: pytest.MonkeyPatch, normalize: bool, resize: int | None) -> None:
    monkeypatch.setattr(torchvision.models.VGG16_Weights, "get_state_dict", lambda *_, **__: vgg16.state_dict())
    vgg = VggFeatures(VggConfig(weights="imagenet", normalize=normalize, resize=resize))
    image = torch.rand(1, 3, 32, 32)
    expected = image
    if resize is not None:
        expected = torch.nn.functional.interpolate(expected, (24, 24), mode="bilinear")
    if normalize:
        expected = torchvision.transforms.functional.normalize(expected, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(vgg(image), relu2_2(vgg16, expected))


def test_random_vgg_weights_are_the_same_in_every_run() -> None:
    torch.manual_seed(1)
    first = VggFeatures(VggConfig(weights="random"))
    torch.manual_seed(2)
    drawn = torch.rand(3)
    torch.manual_seed(2)
    second = VggFeatures(VggConfig(weights="random"))
    assert torch.equal(torch.rand(3), drawn)  # it takes nothing from the run's own numbers
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_random_vgg_weights_are_distributed_as_torchvisions(vgg16: Any) -> None:
    """Else the term would have another weight than with trained ones: features of layers without this fade."""
    ours, theirs = VggFeatures(VggConfig(weights="random")).features.state_dict(), vgg16.features[:9].state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].shape == value.shape
        assert float(ours[key].std()) == pytest.approx(float(value.std()), rel=0.1)


def test_weights_in_a_file_are_read_and_more_than_the_layers_needed_may_be_there(vgg16: Any, tmp_path: Path) -> None:
    state = {key: value for key, value in vgg16.state_dict().items() if key.startswith("features")}
    torch.save(state, tmp_path / "vgg16.pth")
    vgg = VggFeatures(VggConfig(weights=str(tmp_path / "vgg16.pth")))
    assert all(torch.equal(value, state[f"features.{key}"]) for key, value in vgg.features.state_dict().items())


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_downloaded_are_the_users_to_mend(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(torchvision.models.VGG16_Weights, "get_state_dict", fails)
    with pytest.raises(ConfigError, match=r"vgg\.weights: imagenet: cannot download https://.*; fetch it elsewhere"):
        VggFeatures(VggConfig())


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"vgg\.weights.*features\.0\.weight"):
        VggFeatures(VggConfig(weights=str(tmp_path / "w.pth")))
