"""A CUDA device that computes nothing: torch tracks the device, dtype and shape of its tensors, and refuses operations on tensors
of different devices as a GPU would. Tensors on the CPU stay real, so that values can be read from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Network = TypeVar("Network", bound=nn.Module)


class _RealOnCpu(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs or {}))
        if any(isinstance(x, FakeTensor) or (isinstance(x, torch.device) and x.type == "cuda") for x in given):
            return func(*args, **(kwargs or {}))
        with unset_fake_temporarily():
            return func(*args, **(kwargs or {}))


@contextmanager
def pretended_gpu() -> Iterator[None]:
    # Autocast asks whether there is a GPU, and kornia's JPEG waits once for its tables.
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch("torch.cuda.current_stream"),
        FakeTensorMode(allow_non_fake_inputs=True),
        _RealOnCpu(),
    ):
        yield


def on_gpu(network: Network) -> Network:
    """Replaces the network's tensors by pretended ones. `Module.to` cannot."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            pretended = torch.empty_like(parameter, device="cuda")
            module._parameters[name] = nn.Parameter(pretended, requires_grad=parameter.requires_grad)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty_like(buffer, device="cuda")
    return network
