"""Networks that a test can read at a glance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Function(nn.Module):
    """A network that is a function with one weight, for Teacher to freeze and convert."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return self.function(image)
