"""The U-Net is the original project's for the original's settings, and starts as the identity for ours."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.networks.student_files import load_student
from unet.model import UNet, for_inference
from unet.weights import UNetWeightsError, infer_architecture, unet_from_state_dict


def oracle(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """The original network in eval mode, written from its description with functional operators: three poolings, Conv-BN-ReLU
    twice a level, transposed convolutions up, the upsampled half first in each concatenation, reflection to 16, a 1x1 head."""

    def twice(x: Tensor, name: str) -> Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            x = nn.functional.conv2d(x, state[f"{name}.block.{conv}.weight"], state[f"{name}.block.{conv}.bias"], padding=1)
            mean, var = state[f"{name}.block.{norm}.running_mean"], state[f"{name}.block.{norm}.running_var"]
            x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
            x = x * state[f"{name}.block.{norm}.weight"][:, None, None] + state[f"{name}.block.{norm}.bias"][:, None, None]
            x = x.clamp(min=0)
        return x

    def up(x: Tensor, name: str) -> Tensor:
        return nn.functional.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2)

    height, width = image.shape[-2:]
    x = nn.functional.pad(image, (0, (16 - width % 16) % 16, 0, (16 - height % 16) % 16), mode="reflect")
    e1 = twice(x, "enc1")
    e2 = twice(nn.functional.max_pool2d(e1, 2), "enc2")
    e3 = twice(nn.functional.max_pool2d(e2, 2), "enc3")
    b = twice(nn.functional.max_pool2d(e3, 2), "bottleneck")
    d3 = twice(torch.cat([up(b, "up3"), e3], 1), "dec3")
    d2 = twice(torch.cat([up(d3, "up2"), e2], 1), "dec2")
    d1 = twice(torch.cat([up(d2, "up1"), e1], 1), "dec1")
    return nn.functional.conv2d(d1, state["final.weight"], state["final.bias"])[:, :, :height, :width]


def original_state(width: int = 8) -> dict[str, Tensor]:
    """A checkpoint with the original's keys and random values, batch statistics included."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def block(name: str, c_in: int, c_out: int) -> None:
        for conv, norm, channels in ((0, 1, c_in), (3, 4, c_out)):
            state[f"{name}.block.{conv}.weight"] = torch.randn(c_out, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
            state[f"{name}.block.{conv}.bias"] = torch.randn(c_out, generator=generator) * 0.1
            for key in ("weight", "bias", "running_mean"):
                state[f"{name}.block.{norm}.{key}"] = torch.randn(c_out, generator=generator)
            state[f"{name}.block.{norm}.running_var"] = torch.rand(c_out, generator=generator) + 0.5
            state[f"{name}.block.{norm}.num_batches_tracked"] = torch.tensor(7)

    for level, (c_in, c_out) in enumerate([(3, width), (width, 2 * width), (2 * width, 4 * width)], start=1):
        block(f"enc{level}", c_in, c_out)
    block("bottleneck", 4 * width, 8 * width)
    for level, c_out in ((3, 4 * width), (2, 2 * width), (1, width)):
        state[f"up{level}.weight"] = torch.randn(2 * c_out, c_out, 2, 2, generator=generator) / (2 * c_out) ** 0.5
        state[f"up{level}.bias"] = torch.randn(c_out, generator=generator) * 0.1
        block(f"dec{level}", 2 * c_out, c_out)
    state["final.weight"] = torch.randn(3, width, 1, 1, generator=generator)
    state["final.bias"] = torch.randn(3, generator=generator)
    return state


def test_the_original_size() -> None:
    assert sum(p.numel() for p in UNet(width=64, depth=4, residual=False).parameters()) == 7_703_107


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 70)])
def test_an_original_checkpoint_gives_the_original_image(height: int, width: int) -> None:
    state = original_state()
    model = unet_from_state_dict(state, residual=False).eval()
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(image), oracle(state, image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"epoch": 3, "model": s, "optimizer": {"state": {}, "param_groups": []}}]
)
def test_both_of_the_originals_files_load(tmp_path: Path, wrap: Any) -> None:
    state = original_state()
    torch.save(wrap(state), tmp_path / "student.pth")
    loaded = load_student(tmp_path / "student.pth")
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), oracle(state, image), atol=1e-4, rtol=1e-4)


BLOCKS = [1, 0, 2, 0, 1]
FORMS = pytest.mark.parametrize("block", ["double_conv", "residual"])


def form(block: str, depth: int) -> dict[str, Any]:
    return {"block": block, "blocks": BLOCKS[:depth] if block == "residual" else None}


@FORMS
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_residual_student_starts_as_the_identity_and_can_learn(depth: int, norm: str, block: str) -> None:
    model = UNet(width=4, depth=depth, residual=True, norm=norm, **form(block, depth))
    image = torch.rand(2, 3, 17, 33)
    out = model(image)
    assert torch.equal(out, image)
    (out - 0.5).abs().mean().backward()
    assert model.final.weight.grad is not None
    assert model.final.weight.grad.abs().sum() > 0


def test_a_residual_block_adds_nothing_at_first_and_all_of_the_network_learns() -> None:
    model = UNet(width=4, depth=3, residual=False, block="residual", blocks=[1, 2, 1])
    image = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    without = UNet(width=4, depth=3, residual=False, block="residual", blocks=[0, 0, 0])
    without.load_state_dict({key: value for key, value in model.state_dict().items() if key in without.state_dict()})
    assert torch.equal(model(image), without(image))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # in the first step only the norms that begin at zero learn of a branch
        optimizer.zero_grad()
        model(image).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in model.parameters())  # type: ignore[union-attr]


def test_the_residual_form_has_the_layers_that_it_says() -> None:
    assert sum(p.numel() for p in UNet(width=16, depth=3, block="residual", blocks=[1, 2, 4]).parameters()) == 394_323


@FORMS
@pytest.mark.parametrize("depth", [2, 5])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_architecture_is_read_off_the_weights(depth: int, norm: str, block: str) -> None:
    keywords = {"width": 6, "depth": depth, "norm": norm} | form(block, depth)
    assert infer_architecture(UNet(**keywords).state_dict()) == keywords  # type: ignore[arg-type]


def test_other_weights_are_refused() -> None:
    state = original_state()
    with pytest.raises(UNetWeightsError, match=r"1 missing keys, such as up2\.bias"):
        unet_from_state_dict({k: v for k, v in state.items() if k != "up2.bias"}, residual=False)
    with pytest.raises(UNetWeightsError, match=r"surplus keys, such as extra"):
        unet_from_state_dict(state | {"extra": torch.zeros(1)}, residual=False)
    with pytest.raises(UNetWeightsError, match=r"dec1\.block\.3\.weight is"):
        unet_from_state_dict(state | {"dec1.block.3.weight": torch.zeros(1)}, residual=False)
    with pytest.raises(UNetWeightsError, match="not the weights of a U-Net"):
        unet_from_state_dict({"a": torch.zeros(1)}, residual=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"enc9.block.0.weight": torch.zeros(1)}, "depth is 2 to 5"),
        ({"enc1.block.0.weight": torch.tensor(1.0)}, r"enc1\.block\.0\.weight is \[\]"),
        ({"enc1.block.0.weight": torch.zeros(0, 3, 3, 3)}, "width at least 1"),
        ({"enc1.block.0.weight": torch.zeros(1).expand(10**6, 3, 3, 3)}, "not the weights of this U-Net"),
        ({"final.bias": torch.full((3,), float("nan"))}, r"final\.bias has values that are not finite"),
    ],
)
def test_weights_that_say_something_odd_are_refused_before_they_take_memory(change: dict[str, Tensor], reason: str) -> None:
    with pytest.raises(UNetWeightsError, match=reason):
        unet_from_state_dict(original_state() | change, residual=False)


def test_an_encoder_that_has_no_first_level_is_no_unet() -> None:
    with pytest.raises(UNetWeightsError, match="not the weights of a U-Net"):
        infer_architecture({"enc2.block.0.weight": torch.zeros(1), "final.weight": torch.zeros(1)})


@pytest.mark.parametrize("keywords", [{"depth": 1}, {"depth": 6}, {"width": 0}, {"norm": "layer"}])
def test_what_is_no_unet_is_refused(keywords: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="depth is 2 to 5"):
        UNet(**keywords)


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"block": "nafnet"}, "block is double_conv or residual"),
        ({"block": "residual"}, "blocks are given for block residual"),
        ({"blocks": [1, 1, 1]}, "blocks are given for block residual"),
        ({"block": "residual", "blocks": [1, 1]}, "for each of the 3 levels"),
        ({"block": "residual", "blocks": [1, 1, -1]}, "at least 0"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(keywords: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        UNet(depth=3, **keywords)


@FORMS
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_form_for_inference_gives_the_same_images(norm: str, block: str) -> None:
    model = UNet(width=8, depth=3, norm=norm, **form(block, 3)).train()
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
            if tensor.dim() == 4:
                tensor.sub_(0.35).div_(tensor.shape[1] ** 0.5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = for_inference(model)
    image = torch.rand(2, 3, 33, 40, generator=generator)
    expected = copy.deepcopy(model).eval()(image)
    assert float((expected - image).detach().std()) > 0.01
    torch.testing.assert_close(fast(image), expected.detach(), atol=1e-5, rtol=1e-5)

    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    UNet(width=8, depth=3, norm="none", **form(block, 3)).load_state_dict(fast.state_dict())
    assert model.training  # the original stays as it was
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
