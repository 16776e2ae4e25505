"""Counts the channels of a U-Net that no photograph turns on: behind a ReLU, zero at all but one in 10 000 pixels of each.

python docs/dead_channels.py runs/results_study/student_model_v1.pth photo.png more.png
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.command import run_command
from distill.data.batch import to_tensor
from distill.data.image_files import read_image
from distill.networks.student_files import load_student
from distill.synthesis.eight_bit import to_float


@torch.no_grad()
def shares_on(network: nn.Module, image: Tensor) -> Tensor:
    """(channels,): at how many of the pixels each channel behind a ReLU is above zero, from 0 to 1."""
    shares: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: shares.append((output > 0).float().mean(dim=(0, 2, 3))))
        for module in network.modules()
        if isinstance(module, nn.ReLU)
    ]
    network(image)
    for hook in hooks:
        hook.remove()
    return torch.cat(shares)


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    weights, *photographs = sys.argv[1:]
    network = load_student(Path(weights))
    on = torch.stack([shares_on(network, to_float(to_tensor(read_image(Path(path))))) for path in photographs])
    dead = (on.amax(dim=0) < 1e-4).sum()
    print(f"{dead} of {on.shape[1]} channels are dead")


if __name__ == "__main__":
    run_command(main)
