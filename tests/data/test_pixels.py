"""Decoded images are padded and cropped as documented."""

from __future__ import annotations

import numpy as np

from distill.data.pixels import centre_crop, pad_to


def test_padding_reflects_at_the_right_and_bottom() -> None:
    image = np.arange(16 * 20 * 3, dtype=np.uint8).reshape(16, 20, 3)
    padded = pad_to(image, 50)
    assert padded.shape == (50, 50, 3)
    assert np.array_equal(padded[:16, :20], image)
    assert np.array_equal(padded[16, :20], image[14])
    assert np.array_equal(padded[:16, 20], image[:, 18])
    assert pad_to(image, 16) is image


def test_a_centre_crop_is_central() -> None:
    image = np.arange(30 * 40 * 3).reshape(30, 40, 3).astype(np.uint8)
    assert np.array_equal(centre_crop(image, 20), image[5:25, 10:30])
    assert np.array_equal(centre_crop(image, 35), image[:, 2:37])
    assert centre_crop(image, None) is image
