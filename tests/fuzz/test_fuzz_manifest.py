"""Damaged and hostile teacher caches: triplets of images, or a CacheError or ImageError; nothing beside the cache is touched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import FUZZ, confined, edits, mutate, mutated_trees, outcome
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from distill.data.image_files import ImageError, encode_png
from distill.data.triplets import ImageFile, Triplet
from distill.networks.teacher import Identity
from distill.teacher_cache.differences import find_differences, refuse
from distill.teacher_cache.manifest import HEADER, LINES, CacheError, Entry, Header, Inputs, Stamp, header_bytes
from distill.teacher_cache.shards import checksum, write_shard
from distill.teacher_cache.store import TeacherCache, reset_cache

pytestmark = pytest.mark.slow
IDENTITY = Identity(weights="ab" * 32, architecture={"dim": 16, "heads": [1, 2, 4, 8], "bias": False}, precision="fp32")
SHARD = "000000.safetensors"
STEMS = ["a", "night/b"]

Files = dict[str, bytes]


def triplet_of(seed: int) -> Triplet:
    return Triplet(*np.random.default_rng(seed).integers(0, 256, (3, 18, 17, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with inputs, and beside it files that a stem could lead to."""
    outside = tmp_path_factory.mktemp("fuzz")
    world = outside / "world"
    for number, stem in enumerate(STEMS):
        triplet = triplet_of(number)
        for folder, pixels in (("sharp", triplet.sharp), ("blurry", triplet.blurry)):
            path = world / folder / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert pixels is not None
            path.write_bytes(encode_png(pixels))
    Image.new("RGB", (20, 20)).save(outside / "outside.png")
    return world


def images_in(world: Path) -> list[ImageFile]:
    return [ImageFile(stem, world / "sharp" / f"{stem}.png", world / "blurry" / f"{stem}.png") for stem in STEMS]


@pytest.fixture(scope="module")
def seeds(world: Path) -> list[Files]:
    """The files of a cache of PNGs, and of the same packed."""
    header = Header(storage="png", teacher=IDENTITY, tile=640, inputs=Inputs(folder="blurry", count=2, sha256="cd" * 32))
    pngs: Files = {HEADER: header_bytes(header), LINES: b""}
    packed: Files = {HEADER: header_bytes(header.model_copy(update={"storage": "safetensors"})), LINES: b""}
    for number, image in enumerate(images_in(world)):
        triplet = triplet_of(number)
        assert triplet.teacher is not None
        assert image.blurry is not None
        path = world / "cache" / f"{image.stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(triplet.teacher))
        entry = Entry(stem=image.stem, blurry=Stamp.of(image.blurry)[0], output=Stamp.of(path)[0])
        pngs |= {f"{image.stem}.png": path.read_bytes(), LINES: pngs[LINES] + entry.model_dump_json().encode() + b"\n"}
        stamp = Stamp(size=1, mtime_ns=1, crc32=checksum(triplet))
        entry = entry.model_copy(update={"sharp": Stamp.of(image.sharp)[0], "output": stamp, "shard": SHARD})
        packed[LINES] += entry.model_dump_json().encode() + b"\n"
    write_shard(world / "cache" / SHARD, {stem: triplet_of(number) for number, stem in enumerate(STEMS)})
    return [pngs, packed | {SHARD: (world / "cache" / SHARD).read_bytes()}]


ODD_STEMS = ["../outside", "a/../../outside", "/etc/passwd", "..\\outside", "a\0b", "\ud800", "a\nb", "x" * 5000, "x/" * 3000]
ODD_STEMS += ["", ".", "./a", "a/", "~/x", "night", "manifest", "\udcff", "a/./b", " ", "-rf", "a.png/b", "manifest.json/b"]
ODD_SHARDS = ["../000000.safetensors", "/tmp/000000.safetensors", "000001.safetensors", "\u0660" * 6 + ".safetensors"]
ODD_SHARDS += ["000000.safetensors\n", "000000.safetensors/../../x"]


@st.composite
def lines(draw: st.DrawFn, records: list[Any]) -> bytes:
    """Lines with odd values, some of them twice or torn."""
    chosen = draw(st.lists(st.sampled_from(["as it is", "tree", "stem", "shard", "torn"]), min_size=1, max_size=4))
    text = b""
    for kind in chosen:
        record = draw(mutated_trees(records)) if kind == "tree" else draw(st.sampled_from(records))
        if kind == "stem":
            record = record | {"stem": draw(st.sampled_from(ODD_STEMS))}
        elif kind == "shard":
            record = record | {"shard": draw(st.sampled_from(ODD_SHARDS))}
        line = json.dumps(record).encode()
        text += (line[: draw(st.integers(0, len(line)))] if kind == "torn" else line) + draw(
            st.sampled_from([b"\n", b"\n", b"\r", b""])
        )
    return text


def mutated_files(draw: st.DrawFn, files: Files) -> Files:
    """One file of the cache changed, or gone."""
    level = draw(st.sampled_from(["bytes", "header", "lines", "lines", "gone"]))
    name = draw(st.sampled_from(sorted(files)))
    if level == "bytes":
        return files | {name: mutate(files[name], draw(edits), files[LINES])}
    if level == "header":
        return files | {HEADER: json.dumps(draw(mutated_trees([json.loads(files[HEADER])]))).encode()}
    if level == "lines":
        return files | {LINES: draw(lines([json.loads(line) for line in files[LINES].splitlines()]))}
    return {other: content for other, content in files.items() if other != name}


def fill(folder: Path, files: Files) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def use(folder: Path, images: Sequence[ImageFile], recompute: bool, thorough: bool) -> None:
    """Everything that is done with a cache before a teacher is needed, each step whether the one before it succeeded or not."""
    opened = outcome(lambda: TeacherCache(folder, recompute), CacheError, ImageError)
    if opened is None:
        return
    outcome(lambda: opened.check_identity(IDENTITY), CacheError)
    found = outcome(lambda: find_differences(opened, images, thorough), CacheError, ImageError)
    assert found is not None
    outcome(lambda: refuse(opened, found, thorough), CacheError)
    for image in images:
        if opened.bare is not None and image.stem not in opened.bare:
            continue
        triplet = outcome(lambda image=image: opened.read(image), ImageError)
        for pixels in vars(triplet).values() if triplet is not None else ():
            assert pixels is None or (pixels.dtype == np.uint8 and pixels.shape == (18, 17, 3))
    if opened.bare is None:
        opened.remove(found.removed)
        opened.remove_unused_shards()


@given(data=st.data(), packed=st.booleans(), recompute=st.booleans(), thorough=st.booleans())
@FUZZ
def test_a_mutated_cache_is_read_or_refused(
    data: st.DataObject, packed: bool, recompute: bool, thorough: bool, world: Path, seeds: list[Files], bounded_memory: None
) -> None:
    images, cache = images_in(world), world / "cache"
    files = seeds[packed]
    inputs = {path: path.read_bytes() for path in world.parent.rglob("*.png") if cache not in path.parents}
    fill(cache, data.draw(st.composite(mutated_files)(files)))
    with confined(world):
        use(cache, images, recompute, thorough)
        reset_cache(cache, images, Header.model_validate(json.loads(files[HEADER])))
    assert {path: path.read_bytes() for path in inputs} == inputs


def test_the_seeds_are_accepted(world: Path, seeds: list[Files]) -> None:
    """Else the mutations would be of what is refused anyway."""
    images = images_in(world)
    for files in seeds:
        fill(world / "cache", files)
        cache = TeacherCache(world / "cache")
        cache.check_identity(IDENTITY)
        for thorough in (False, True):
            assert find_differences(cache, images, thorough).complaint() is None
        for number, image in enumerate(images):
            read, expected = vars(cache.read(image)), vars(triplet_of(number))
            assert all(np.array_equal(read[kind], expected[kind]) for kind in expected)
