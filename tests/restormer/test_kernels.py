"""The Triton kernels are the convolutions they stand for: in Triton's interpreter, as compiled code, and on a GPU.

Triton reads TRITON_INTERPRET when it is imported, so the interpreter runs this file as a script in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from restormer import kernels

needs_triton = pytest.mark.skipif(not kernels.AVAILABLE, reason="needs triton")

# (b, h, w, c), dtype, bias. Bands are 32 rows, tiles 16 columns and 32 channels: smaller, larger and equal sides.
CASES: dict[str, tuple[tuple[int, int, int, int], torch.dtype, bool]] = {
    "one pixel": ((1, 1, 1, 3), torch.float32, True),
    "one column": ((2, 34, 1, 5), torch.float32, False),
    "one row, odd channels": ((1, 1, 9, 127), torch.float32, True),
    "several images": ((2, 17, 19, 31), torch.float32, False),
    "exact tiles": ((1, 32, 16, 32), torch.float16, False),
    "half precision": ((1, 35, 18, 40), torch.float16, True),
}
OPERATORS = {"plain": kernels.depthwise3x3, "gate": kernels.depthwise3x3_gate}


def random_arguments(
    shape: tuple[int, int, int, int], dtype: torch.dtype, bias: bool, operator: str, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor | None]:
    """For an output of this shape."""
    wide = shape[-1] * (2 if operator == "gate" else 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape[:-1], wide, generator=generator)
    weight = torch.randn(wide, 1, 3, 3, generator=generator) / 3
    offset = torch.randn(wide, generator=generator)
    return x.to(device, dtype), weight.to(device, dtype), offset.to(device, dtype) if bias else None


def error_in_roundings(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, operator: str) -> float:
    """The largest error of `out`, where 1 is what one rounding to its dtype and sums in float32 may make of the exact result."""
    image = x.double().permute(0, 3, 1, 2)
    offset = None if bias is None else bias.double()
    exact = F.conv2d(image, weight.double(), offset, padding=1, groups=x.shape[-1]).permute(0, 2, 3, 1)
    if operator == "gate":
        gate, value = exact.chunk(2, dim=-1)
        exact = F.gelu(gate) * value
    assert (out.shape, out.dtype) == (exact.shape, x.dtype)
    allowed = (torch.finfo(out.dtype).eps / 2 + 2e-6) * exact.abs() + 2e-6
    return float(((out.double() - exact).abs() / allowed).max())


def gelu_error() -> float:
    """Of the gate alone, over every magnitude: the weights pass the pixel on, and the other half is 1."""
    ramp = torch.cat([torch.linspace(-12, 12, 4094), torch.tensor([-6e4, 6e4])]).reshape(1, 32, 16, 8)
    weight = torch.zeros(16, 1, 3, 3)
    weight[:, 0, 1, 1] = 1
    out = kernels.depthwise3x3_gate(torch.cat([ramp, torch.ones_like(ramp)], dim=-1), weight, None)
    exact = F.gelu(ramp.double())
    return float(((out - exact).abs() / (1 + exact.abs())).max())


def in_interpreter() -> dict[str, Any]:
    results: dict[str, Any] = {"gelu": gelu_error()}
    for operator, call in OPERATORS.items():
        for name, case in CASES.items():
            arguments = random_arguments(*case, operator)
            results[f"{operator}, {name}"] = error_in_roundings(call(*arguments), *arguments, operator)
        checks = torch.library.opcheck(call, random_arguments((1, 3, 4, 5), torch.float32, True, operator), raise_exception=False)
        results[f"{operator}, operator"] = {check: str(result) for check, result in checks.items()}
    return results


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = tmp_path_factory.mktemp("triton")
    return json.loads(run_python(__file__, TRITON_INTERPRET="1", TRITON_CACHE_DIR=str(cache)))


def run_python(*arguments: str, **environment: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    ran = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@needs_triton
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_is_the_convolution_rounded_once(interpreted: dict[str, Any], operator: str, case: str) -> None:
    assert interpreted[f"{operator}, {case}"] <= 1


@needs_triton
def test_the_gelu_is_the_one_of_erf(interpreted: dict[str, Any]) -> None:
    assert interpreted["gelu"] < 3e-7


@needs_triton
@pytest.mark.parametrize("operator", OPERATORS)
def test_torch_may_treat_an_operator_as_declared(interpreted: dict[str, Any], operator: str) -> None:
    """Nothing is mutated or aliased, and the fake result looks like the real one, with symbolic shapes too."""
    assert set(interpreted[f"{operator}, operator"].values()) == {"SUCCESS"}


def test_without_triton_the_module_says_so() -> None:
    script = """
import sys
sys.modules["triton"] = None
import torch
from restormer import kernels
assert not kernels.AVAILABLE
try:
    kernels.depthwise3x3(torch.zeros(1, 4, 4, 2), torch.zeros(2, 1, 3, 3), None)
except RuntimeError as error:
    print(error)
"""
    assert "triton is not installed" in run_python("-c", script)


@needs_triton
@pytest.mark.parametrize("wrong", ["memory", "weight"])
def test_what_a_kernel_would_misread_is_refused(wrong: str) -> None:
    x = torch.zeros(1, 4, 5, 6)
    if wrong == "memory":
        x = x.transpose(1, 2)
    weight = torch.zeros(6 if wrong == "memory" else 3, 1, 3, 3)
    with pytest.raises(ValueError, match="contiguous" if wrong == "memory" else "6 channels"):
        kernels.depthwise3x3(x, weight, None)


Compile = Callable[..., Any]


@pytest.fixture
def compile_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compile:
    """`compile_for(90, ...)` compiles the kernel as a launch on compute capability 9.0 would, without the device."""
    from triton.backends.compiler import GPUTarget

    def build(capability: int, h: int = 64, w: int = 48, c: int = 144, gate: bool = True, biased: bool = True) -> Any:
        device = SimpleNamespace(
            get_current_device=lambda: capability,  # Triton keeps compiled kernels by device
            get_current_stream=lambda device: 0,
            get_current_target=lambda: GPUTarget("cuda", capability, 32),
        )
        monkeypatch.setattr("triton.runtime.jit.driver", SimpleNamespace(active=device))
        constants = {"c": c, "gate": gate, "biased": biased, **kernels.LAUNCH}
        return kernels._depthwise3x3.warmup(*[torch.float16] * 4, h, w, grid=(1,), **constants)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return build


@needs_triton
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("capability", [75, 80, 90])
def test_compiled_code_keeps_to_its_registers(compile_for: Compile, tmp_path: Path, capability: int, gate: bool) -> None:
    """16 warps fit on a multiprocessor, and nothing is spilled to memory."""
    import triton

    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compile_for(capability, gate=gate).asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    registers, stack, local = map(int, re.findall(r"(?:REG|STACK|LOCAL):(\d+)", usage))
    assert 0 < registers <= 128
    assert (stack, local) == (0, 0)


@needs_triton
@pytest.mark.parametrize("c", [128, 136, 1020])
def test_four_channels_are_one_load(compile_for: Compile, c: int) -> None:
    code = compile_for(80, c=c).asm["ptx"]
    assert set(re.findall(r"(?:ld|st)\.global\S*", code)) == {"ld.global.v2.b32", "st.global.v2.b32"}


@needs_triton
def test_images_of_every_size_share_one_kernel(compile_for: Compile) -> None:
    kernel = compile_for(80, h=64, w=48)
    assert compile_for(80, h=1, w=48) is kernel
    assert compile_for(80, h=64, w=1) is kernel
    assert compile_for(80, h=51, w=77) is kernel


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("wide", [510, 512])
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_gpu_gives_the_convolution_rounded_once(operator: str, wide: int, dtype: torch.dtype) -> None:
    c = wide // 2 if operator == "gate" else wide
    arguments = random_arguments((2, 64, 48, c), dtype, True, operator, device="cuda")
    assert error_in_roundings(OPERATORS[operator](*arguments), *arguments, operator) <= 1


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("operator", OPERATORS)
def test_torch_may_treat_an_operator_on_a_gpu_as_declared(operator: str) -> None:
    torch.library.opcheck(OPERATORS[operator], random_arguments((2, 9, 7, 5), torch.float16, True, operator, device="cuda"))


if __name__ == "__main__":
    print(json.dumps(in_interpreter()))
