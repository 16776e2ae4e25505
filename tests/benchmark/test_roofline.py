"""What a network asks of a machine, against counts made by hand."""

from __future__ import annotations

import torch
from torch import nn

from distill.benchmark.roofline import Machine, cost
from restormer.reference import ReferenceRestormer


def test_a_convolution_is_counted_as_by_hand() -> None:
    """3 -> 5 channels, 3x3, on 2 images of 8x10: multiplications and additions; image, weight, bias and result moved once."""
    asked = cost(nn.Conv2d(3, 5, 3, padding=1), (2, 3, 8, 10), torch.float32)
    assert asked.flop == 2 * (2 * 8 * 10) * 5 * (3 * 9)
    assert asked.traffic_bytes == 4 * (2 * 3 * 80 + 5 * 3 * 9 + 5 + 2 * 5 * 80)


def test_half_precision_moves_half_the_bytes_and_views_move_none() -> None:
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).transpose(0, 1) * 2

    image = (2, 3, 16, 16)
    assert cost(Doubled(), image, torch.float32).traffic_bytes == 2 * 4 * 2 * 3 * 256
    assert cost(Doubled(), image, torch.float16).traffic_bytes == 2 * 2 * 2 * 3 * 256


def test_the_published_network_takes_the_known_number_of_operations() -> None:
    """Its convolutions 564 billion multiplications and additions for 512x512, so a sixteenth of it at 128x128; and q k and A v of
    each block, whose heads have 48 channels or, at the first level of the decoder, 96."""
    convolutions = 564e9 / 16
    blocks = {(48, 48): (4, 128), (96, 48): (12, 64), (192, 48): (12, 32), (384, 48): (8, 16), (96, 96): (8, 128)}
    attention = sum(count * 2 * side**2 * c * d for (c, d), (count, side) in blocks.items())
    flop = cost(ReferenceRestormer(), (1, 3, 128, 128), torch.float32).flop
    assert abs(flop / (2 * (convolutions + attention)) - 1) < 0.002


def test_a_machine_measures_each_precision_once() -> None:
    machine = Machine(torch.device("cpu"))
    rate = machine.matrix_rate(torch.float32)
    assert machine.matrix_rate(torch.float32) == rate
    assert machine.rates() == {"float32": rate}
    assert 1e8 < rate < 1e14
    assert 1e8 < machine.copy_bandwidth < 1e13
