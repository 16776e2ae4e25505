"""The blocks in bands are the blocks, wherever the bands are cut, and step aside where they must not be used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from restormer import fused
from restormer.layers import LayerNorm, TransformerBlock
from restormer.model import Restormer


def random_blocks(dim: int, heads: int, norm: str, bias: bool, count: int = 2) -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    blocks = nn.Sequential(*(TransformerBlock(dim, heads, 2.66, bias, norm) for _ in range(count)))
    for module in blocks.modules():
        for name, parameter in module.named_parameters(recurse=False):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = noise / parameter[0].numel() ** 0.5 if parameter.dim() == 4 else 0.5 * noise
            if name == "weight" and parameter.dim() == 1:
                parameter.data += 1
    return blocks.requires_grad_(False)


@pytest.mark.parametrize("band_bytes", [1, 30_000, 200_000, 2**30], ids=["a row", "some rows", "some images", "everything"])
@pytest.mark.parametrize("norm", ["WithBias", "BiasFree"])
@pytest.mark.parametrize("bias", [False, True])
def test_bands_give_what_the_blocks_give(monkeypatch: pytest.MonkeyPatch, band_bytes: int, norm: str, bias: bool) -> None:
    """Hidden width 2 * 31, four heads; 17 rows do not divide into equal bands."""
    monkeypatch.setattr(fused, "BAND_BYTES", band_bytes)
    blocks = random_blocks(12, 4, norm, bias)
    x = torch.randn(5, 17, 20, 12, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    torch.testing.assert_close(fused.apply_blocks(blocks, x), blocks(x), atol=2e-5, rtol=1e-5)  # type: ignore[arg-type]
    assert torch.equal(x, before)  # skip connections still need it


@pytest.mark.parametrize("band_bytes", [1, 30_000, 2**30], ids=["a row", "some rows", "everything"])
@pytest.mark.parametrize("norm", ["WithBias", "BiasFree"])
def test_bands_in_bf16_are_as_near_as_the_blocks(monkeypatch: pytest.MonkeyPatch, band_bytes: int, norm: str) -> None:
    monkeypatch.setattr(fused, "BAND_BYTES", band_bytes)
    blocks = random_blocks(12, 4, norm, bias=True)
    x = torch.randn(5, 17, 20, 12, generator=torch.Generator().manual_seed(1))
    exact = blocks(x)
    half = blocks.bfloat16()
    bands, plain = ((form - exact).square().mean().sqrt() for form in (fused.apply_blocks(half, x), half(x)))  # type: ignore[arg-type]
    assert bands < 1.2 * plain
    assert plain > 1e-4  # bf16 rounds: the comparison is of something


@pytest.mark.parametrize(("images", "rows"), [(1, 1), (1, 16), (3, 7), (7, 3)])
@pytest.mark.parametrize("band_bytes", [1, 10_000, 2**30])
def test_every_row_is_projected_once_and_yielded_once(
    monkeypatch: pytest.MonkeyPatch, band_bytes: int, images: int, rows: int
) -> None:
    monkeypatch.setattr(fused, "BAND_BYTES", band_bytes)
    x = torch.arange(images * rows, dtype=torch.float32).view(images, rows, 1, 1).expand(-1, -1, 20, 8)
    projected, yielded = torch.zeros(images * rows), torch.zeros(images, rows)

    class Norm(nn.Identity):
        def forward(self, part: torch.Tensor) -> torch.Tensor:
            projected[part[..., 0, 0].long().flatten()] += 1
            return part

    weights = (torch.randn(32, 8), None), (torch.randn(32, 1, 3, 3), None)
    for image, row, wide in fused._wide_bands(x, Norm(), *weights):  # type: ignore[arg-type]
        yielded[image, row] += 1
        assert wide.shape == (*yielded[image, row].shape, 20, 32)
    assert bool((projected == 1).all())
    assert bool((yielded == 1).all())


def test_no_wide_tensor_is_larger_than_a_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "BAND_BYTES", 50_000)
    blocks = random_blocks(12, 1, "WithBias", False, count=1)
    widest = 0
    convolve = nn.functional.conv2d

    def measured(x: torch.Tensor, *others: object, **keywords: object) -> torch.Tensor:
        nonlocal widest
        widest = max(widest, x.numel() * x.element_size())
        return convolve(x, *others, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(fused.F, "conv2d", measured)
    fused.apply_blocks(blocks, torch.randn(1, 64, 64, 12))  # type: ignore[arg-type]
    rows = 2 * 64 * 64 * 4  # the two neighbouring rows, of 64 padded channels
    assert 0 < widest <= 50_000 + rows


@pytest.fixture
def whole() -> Iterator[list[int]]:
    """Counts the calls of a block's own norm with a whole image."""
    calls: list[int] = []
    forward = LayerNorm.forward

    def counted(self: LayerNorm, x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape[-3])
        return forward(self, x)

    LayerNorm.forward = counted  # type: ignore[method-assign]
    yield calls
    LayerNorm.forward = forward  # type: ignore[method-assign]


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated, and still used
@pytest.mark.parametrize("needs", ["gradients", "half precision", "a trace", "nothing"])
def test_the_plain_form_is_used_where_it_is_needed(monkeypatch: pytest.MonkeyPatch, whole: list[int], needs: str) -> None:
    monkeypatch.setattr(fused, "BAND_BYTES", 1)
    torch.manual_seed(0)
    model = Restormer(dim=8, num_blocks=[1, 1, 1, 1], heads=[1, 1, 1, 1], num_refinement_blocks=1)
    image = torch.rand(1, 3, 32, 32)
    if needs == "gradients":
        model(image).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    elif needs == "half precision":
        with torch.no_grad():
            model.half()(image)
    elif needs == "a trace":
        with torch.no_grad():
            torch.jit.trace(model, image, check_trace=False)
    else:
        with torch.no_grad():
            model(image)
    assert (max(whole) == 32) == (needs != "nothing")
