"""The runtimes that a network is timed in beside torch compute the same images."""

from __future__ import annotations

import pytest
import torch

from distill.benchmark.workloads import photograph, runtime_forward
from unet.model import UNet


def network() -> UNet:
    torch.manual_seed(0)
    unet = UNet(width=4, depth=2)
    torch.nn.init.normal_(unet.final.weight, std=0.1)
    return unet.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("runtime", "precision", "largest"), [("onnxruntime", "fp32", 1e-4), ("openvino", "fp32", 1e-4), ("openvino", "bf16", 0.05)]
)
def test_another_runtime_gives_the_same_images(runtime: str, precision: str, largest: float) -> None:
    pytest.importorskip(runtime)
    image = photograph([2, 48, 64])
    restored = runtime_forward(network(), runtime, precision, image)()  # type: ignore[arg-type]
    assert float((restored - network()(image).clamp(0, 1)).abs().max()) < largest
    assert float((restored - image).abs().mean()) > 0.002


def test_a_precision_that_a_runtime_lacks_is_said() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="onnxruntime has no bf16 on a CPU"):
        runtime_forward(network(), "onnxruntime", "bf16", photograph([1, 32, 32]))
