"""What alpha hides changes no visible pixel, and comes back as it was."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pictures import levels
from scipy.ndimage import uniform_filter
from torch import nn

from distill import restore as command
from distill.config import UNetConfig
from distill.networks.student_files import save_student
from distill.pictures import transparency
from distill.pictures.formats import Picture
from distill.pictures.reading import read_picture
from distill.pictures.transparency import filled
from distill.pictures.writing import encode_picture
from unet.model import UNet


def disc(height: int, width: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.where(np.hypot(y - height / 2, x - width / 2) < radius, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_hidden_pixel_gets_the_nearest_visible_colour(dtype: type) -> None:
    pixels, alpha = levels((60, 80, 3), dtype), (levels((60, 80)) < 20).astype(dtype)
    result = filled(pixels, alpha)
    visible = np.argwhere(alpha > 0)
    for y, x in [(0, 0), (59, 79), (30, 40), (11, 70)]:
        distances = np.hypot(*(visible - (y, x)).T)
        nearest = [pixels[tuple(place)].tolist() for place in visible[distances == distances.min()]]
        assert result[y, x].tolist() in nearest
    np.testing.assert_array_equal(result[alpha > 0], pixels[alpha > 0])


def test_squares_with_margins_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, alpha = levels((100, 130, 1)), (levels((100, 130)) < 40).astype(np.uint8)
    whole = filled(pixels, alpha)
    monkeypatch.setattr(transparency, "_SIDE", 32)
    monkeypatch.setattr(transparency, "_MARGIN", 24)
    same = filled(pixels, alpha) == whole
    assert same.mean() > 0.97  # of two visible pixels at the same distance either may be taken
    assert not np.array_equal(whole, pixels)


def test_what_hides_nothing_and_what_hides_all_stays() -> None:
    pixels = levels((20, 30, 3))
    assert filled(pixels, None) is pixels
    assert filled(pixels, np.ones((20, 30), np.uint8)) is pixels
    np.testing.assert_array_equal(filled(pixels, np.zeros((20, 30), np.uint8)), pixels)


def test_filling_takes_little_memory_beside_the_picture() -> None:
    pixels, alpha = np.zeros((3000, 3000, 3), np.uint8), np.zeros((3000, 3000), np.uint8)
    alpha[::100, ::100] = 255
    tracemalloc.start()
    try:
        filled(pixels, alpha)
        assert tracemalloc.get_traced_memory()[1] < pixels.nbytes + 40e6  # the nearest of all pixels at once would be 72e6
    finally:
        tracemalloc.stop()


class Blur(nn.Module):
    """In place of a student: the mean of 9x9 pixels."""

    def restore(self, pixels: np.ndarray, advance: object = None) -> np.ndarray:
        return uniform_filter(pixels.astype(np.float32), (9, 9, 0)).round().astype(pixels.dtype)


def test_the_black_around_a_disc_leaves_no_halo_and_stays_black(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = disc(90, 100, 35)
    photograph = np.full((90, 100, 3), 97, np.uint8)
    photograph[alpha == 0] = 0
    (tmp_path / "x.png").write_bytes(encode_picture(Picture(photograph, alpha), ".png"))
    save_student(tmp_path / "student.pth", UNet(width=2, depth=2), UNetConfig(arch="unet", width=2, depth=2))
    monkeypatch.setattr(command, "Restorer", lambda *_: Blur())
    command.restore([str(tmp_path / "x.png")], str(tmp_path / "student.pth"), tmp_path / "out")
    result = read_picture(tmp_path / "out" / "x.png", None)
    np.testing.assert_array_equal(result.pixels, photograph)
    np.testing.assert_array_equal(result.alpha, alpha)
