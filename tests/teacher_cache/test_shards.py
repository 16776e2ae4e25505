"""A pack is an ordinary safetensors file, gives back what was put in, and is not believed when it is damaged."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from distill.data.image_files import ImageError
from distill.data.triplets import Triplet
from distill.teacher_cache.shards import checksum, read_triplet, shard_name, shard_number, write_shard


def triplet(seed: int, height: int = 20, width: int = 30) -> Triplet:
    rng = np.random.default_rng(seed)
    return Triplet(*(rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(3)))


def same(first: Triplet, second: Triplet) -> bool:
    return all(np.array_equal(getattr(first, kind), getattr(second, kind)) for kind in ("sharp", "blurry", "teacher"))


def test_triplets_of_any_size_come_back(tmp_path: Path) -> None:
    triplets = {"a": triplet(0), "sub/b": triplet(1, 17, 90), "not utf-8 \udcff": triplet(2)}
    write_shard(tmp_path / "000000.safetensors", triplets)
    for stem, expected in triplets.items():
        assert same(read_triplet(tmp_path / "000000.safetensors", stem), expected)
    assert np.array_equal(load_file(tmp_path / "000000.safetensors")["sub/b/teacher"], triplets["sub/b"].teacher)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["000000.safetensors"]


def test_a_shard_that_was_written_again_is_opened_again(tmp_path: Path) -> None:
    for seed in range(3):
        write_shard(tmp_path / "s.safetensors", {"a": triplet(seed)})
        os.utime(tmp_path / "s.safetensors", ns=(0, 0))  # as where a file system's clock is coarse
        assert same(read_triplet(tmp_path / "s.safetensors", "a"), triplet(seed))


@pytest.mark.parametrize("damage", ["missing", "truncated", "header", "no such image"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "000000.safetensors"
    write_shard(path, {"b" if damage == "no such image" else "a": triplet(0)})
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[:500])
    elif damage == "header":
        data[:8] = b"\xff" * 8
        path.write_bytes(data)
    elif damage == "missing":
        path.unlink()
    with pytest.raises(ImageError, match=r"000000\.safetensors: a cannot be read") as caught:
        read_triplet(path, "a")
    assert "\n" not in str(caught.value)


def test_the_checksum_sees_every_pixel() -> None:
    first = triplet(0)
    for kind in ("sharp", "blurry", "teacher"):
        changed = Triplet(**{name: pixels.copy() for name, pixels in vars(first).items()})
        getattr(changed, kind)[-1, -1, -1] ^= 1
        assert checksum(changed) != checksum(first)


def test_names_and_numbers_of_shards() -> None:
    assert shard_number(shard_name(1234)) == 1234


def rewrite_header(path: Path, field: str, value: object) -> None:
    """Changes what a shard says of the image a/blurry; all pixels stay."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header["a/blurry"][field] = value
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize(
    ("field", "value"),
    [("shape", [1800]), ("shape", [30, 20, 3]), ("shape", [20, 90, 1]), ("dtype", "I8"), ("dtype", "F8_E4M3")],
)
def test_pixels_of_another_shape_or_type_are_no_image(tmp_path: Path, field: str, value: object) -> None:
    """Their checksum would be right: it is of the bytes alone."""
    path = tmp_path / "000000.safetensors"
    write_shard(path, {"a": triplet(0)})
    rewrite_header(path, field, value)
    with pytest.raises(ImageError, match=r"000000\.safetensors: .*(no images of one size|cannot be read)"):
        read_triplet(path, "a")
