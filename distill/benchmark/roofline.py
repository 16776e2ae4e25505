"""Measures a machine's peak rates, and counts a network's operations and memory traffic."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

REPETITIONS = 7


def synchronize(device: torch.device) -> None:
    """Waits for the device; on a CPU there is nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _best_time(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest repetition: other load on the machine slows some repetitions."""
    times = []
    for _ in range(REPETITIONS):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


class Machine:
    """A device and its measured peak rates."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        source = torch.zeros(2**28 if device.type == "cuda" else 2**27, device=device)  # larger than the processor's caches
        target = torch.zeros_like(source)
        self.copy_bandwidth = 2 * source.numel() * source.element_size() / _best_time(lambda: target.copy_(source), device)
        """Bytes/s read plus bytes/s written, copying a block of memory."""
        self._rates: dict[torch.dtype, float] = {}

    def matrix_rate(self, dtype: torch.dtype) -> float:
        """FLOP/s of one large square matrix product, a multiplication and an addition counted as two. Measured once per dtype."""
        if dtype not in self._rates:
            side = 8192 if self.device.type == "cuda" else 3072
            a, b = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))
            out = torch.empty_like(a)
            self._rates[dtype] = 2 * side**3 / _best_time(lambda: torch.mm(a, b, out=out), self.device)
        return self._rates[dtype]

    def rates(self) -> dict[str, float]:
        """The matrix rates measured so far, by dtype name."""
        return {str(dtype).removeprefix("torch."): rate for dtype, rate in self._rates.items()}


@dataclass(frozen=True)
class Cost:
    flop: float
    """A multiplication and an addition counted as two."""
    traffic_bytes: float
    """Bytes of every operation's inputs and outputs, each moved once: the network's memory traffic without fusion."""


def cost(network: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> Cost:
    """The cost of a forward pass on an input of `shape`, (B, 3, H, W). Moves the network to the meta device, where operations are
    counted and nothing is computed, and leaves it there."""
    image = torch.empty(shape, dtype=dtype, device="meta")
    network, traffic = network.to("meta", dtype), _Traffic()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, traffic:
        network(image)
    return Cost(counter.get_total_flops(), traffic.bytes)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of all tensors that operations read and write. Views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(t.numel() * t.element_size() for t in (*_tensors(args), *_tensors(out)))
        return out


def _tensors(tree: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
