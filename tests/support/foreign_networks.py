"""Networks of other projects, tiny and with random weights, as spandrel builds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from spandrel.architectures.Compact import Compact
from spandrel.architectures.DnCNN import DnCNN
from spandrel.architectures.DRUNet import DRUNet
from spandrel.architectures.FFTformer import FFTformer
from spandrel.architectures.KBNet import KBNet_s
from spandrel.architectures.LaMa import LaMa
from spandrel.architectures.NAFNet import NAFNet
from spandrel.architectures.RetinexFormer import RetinexFormer
from spandrel.architectures.SwinIR import SwinIR
from torch import nn

ONE_EACH = [1, 1]
MAKERS: dict[str, Callable[[], nn.Module]] = {
    "NAFNet": lambda: NAFNet(width=4, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1]),
    # Takes one image at a time, and a map of noise beside it.
    "DRUNet": lambda: DRUNet(in_nc=4, out_nc=3, nc=[4, 8, 8, 8], nb=2),
    # The sides are multiples of 8.
    "RetinexFormer": lambda: RetinexFormer(n_feat=8, stage=1),
    # The sides are multiples of 32, and some weights have five axes.
    "FFTformer": lambda: FFTformer(dim=8, num_blocks=[1, 1, 1], num_refinement_blocks=1),
    # Keeps a mask in a buffer, which does not follow the weights to half precision.
    "SwinIR": lambda: SwinIR(img_size=32, embed_dim=12, depths=ONE_EACH, num_heads=[2, 2], window_size=8),
    "DnCNN": lambda: DnCNN(in_nc=3, out_nc=3, nc=4, nb=8, act_mode="R"),
    "KBNet": lambda: KBNet_s(width=8, middle_blk_num=1, enc_blk_nums=ONE_EACH, dec_blk_nums=ONE_EACH),
}
REFUSED: dict[str, Callable[[], nn.Module]] = {
    "enlarges": lambda: Compact(num_feat=4, num_conv=2, upscale=4),
    "grey": lambda: DnCNN(in_nc=1, out_nc=1, nc=4, nb=8, act_mode="R"),
    "mask": lambda: LaMa(),
}


def network(name: str, seed: int = 0) -> nn.Module:
    """One whose correction is not small: weights that start at zero, as a layer's scale, do not."""
    torch.manual_seed(seed)
    made = (MAKERS | REFUSED)[name]()
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return made.eval()


def save_network(path: Path, name: str, seed: int = 0) -> Path:
    torch.save(network(name, seed).state_dict(), path)
    return path
