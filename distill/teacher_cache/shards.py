"""Packed triplets: blurry, sharp and teacher pixels together in safetensors shards. Reading a sample costs one copy out of a
memory map instead of decoding three PNGs.

A shard is an ordinary safetensors file that holds many triplets: for each image the tensors `STEM/sharp`, `STEM/blurry` and
`STEM/teacher`, each (H, W, 3) uint8; without the first for an image that has no sharp one. STEM is the image's path below its
folder, without suffix.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from distill.data.image_files import ImageError
from distill.data.triplets import Triplet
from distill.errors import one_line
from distill.runtime.files import write_bytes

# A shard is written when its pixels reach this size. A million triplets of 512x512 pixels then take 18 000 shards, and one shard
# is easily collected in memory.
SHARD_BYTES = 128 * 2**20
SHARDS = "[0-9]" * 6 + ".safetensors"


def shard_name(number: int) -> str:
    return f"{number:06d}.safetensors"


def shard_number(name: str) -> int:
    return int(Path(name).stem)


def write_shard(path: Path, triplets: Mapping[str, Triplet]) -> None:
    """Writes complete triplets, {stem: triplet}. The file appears whole or not at all. Raises WriteError."""
    tensors = {
        f"{_name(stem)}/{kind}": pixels
        for stem, triplet in triplets.items()
        for kind, pixels in vars(triplet).items()
        if pixels is not None
    }
    write_bytes(path, save(tensors))


def read_triplet(path: Path, stem: str, has_sharp: bool = True) -> Triplet:
    """Raises ImageError if the shard is missing or damaged, or does not hold this image."""
    try:
        status = path.stat()
        shard = _open(path, status.st_mtime_ns, status.st_ino)
        kinds = ("sharp", "blurry", "teacher") if has_sharp else ("blurry", "teacher")
        tensors = {kind: shard.get_tensor(f"{_name(stem)}/{kind}") for kind in kinds}
    except Exception as error:  # noqa: BLE001 (for a dtype that numpy lacks, the error's type varies)
        raise ImageError(f"{stem} cannot be read from this shard: {one_line(error)}", path) from None
    shapes = {tensor.shape for tensor in tensors.values()}
    if len(shapes) > 1 or any(tensor.dtype != np.uint8 or tensor.shape[2:] != (3,) for tensor in tensors.values()):
        raise ImageError(f"what this shard holds of {stem} are no images of one size", path)
    return Triplet(tensors.get("sharp"), tensors["blurry"], tensors["teacher"])


def checksum(triplet: Triplet) -> int:
    """crc32 of the sharp, if there is one, blurry and teacher pixels, in this order."""
    crc = 0
    for pixels in (triplet.sharp, triplet.blurry, triplet.teacher):
        crc = crc if pixels is None else zlib.crc32(pixels.data, crc)
    return crc


@lru_cache(maxsize=64)
def _open(path: Path, mtime_ns: int, inode: int) -> Any:
    # Shards stay open: reading a shard's header for every sample would cost more than reading the sample.
    # lru_cache's key has the time and the inode, so that a rewritten shard is opened again. The time alone would not do: file
    # clocks are coarse, and two writes can get the same time. The inode differs for certain, because the old file is still open
    # here, and no new file gets the inode of an open file.
    return safe_open(path, framework="numpy")


def _name(stem: str) -> str:
    # A tensor's name must be valid UTF-8. A file name need not be.
    return stem.encode(errors="backslashreplace").decode()
