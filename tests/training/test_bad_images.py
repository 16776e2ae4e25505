"""A run over a thousand images of which thirty are bad uses every good one and names every bad one."""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import png_header, png_of
from PIL import Image

from distill.config import Config
from distill.data.batch import Batch
from distill.train import train
from distill.training import build as run_building

IMAGES, EACH = 1000, 3
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def encode(kind: str, pixels: np.ndarray = PIXELS) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def enormous_png() -> bytes:
    """A whole header of 50 000 x 50 000 pixels, and a thousand bytes of them."""
    return png_of(png_header(50_000, 50_000, 8, 2), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))


def damage(data: bytes) -> bytes:
    """One bit of the pixels is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


BAD: dict[str, tuple[str, bytes]] = {
    "empty": (".png", b""),
    "truncated PNG": (".png", encode("PNG")[:-1000]),
    "truncated JPEG": (".jpg", encode("JPEG")[:-500]),
    "text": (".png", b"These are notes, saved under the wrong name.\n"),
    "web page": (".jpg", b"<!DOCTYPE html><html><body>Sign in to download</body></html>"),
    "damaged PNG": (".png", damage(encode("PNG"))),
    "enormous": (".png", enormous_png()),
    "below 16 pixels": (".png", encode("PNG", PIXELS[:15])),
    "floating point": (".tiff", encode("TIFF", PIXELS[:, :, 0].astype(np.float32))),
    "random bytes": (".webp", PIXELS.tobytes()),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The bad ones lie between the good ones."""
    folder = tmp_path / "photos"
    folder.mkdir()
    bad = [(f"bad {kind} {number}{suffix}", data) for kind, (suffix, data) in BAD.items() for number in range(EACH)]
    good = [encode("PNG", np.roll(PIXELS, shift, axis=0)) for shift in range(40)]
    for number in range(IMAGES - len(bad)):
        (folder / f"{number:04d}.png").write_bytes(good[number % len(good)])
    for number, (name, data) in enumerate(bad):
        (folder / f"{33 * number:04d} {name}").write_bytes(data)
    assert len(list(folder.iterdir())) == IMAGES
    return folder


def test_an_epoch_uses_every_good_image_and_names_every_bad_one(
    folder: Path, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    used: list[str] = []
    load = run_building.training_loader

    def watched(*arguments: Any, **options: Any) -> Iterator[Batch]:
        for batch in load(*arguments, **options):
            used.extend(batch.names)
            yield batch

    monkeypatch.setattr(run_building, "training_loader", watched)
    caplog.set_level(logging.WARNING)
    config = tiny_config(
        data={"sharp": str(folder), "patch": 16, "batch": 20, "images_per_epoch": None},
        teacher={"mode": "none"},
        student={"width": 2},
        stages=[{"name": "v1", "epochs": 1, "l1": 1.0, "kd": 0.0}],
    )
    train(config)

    good = {path.stem for path in folder.iterdir() if "bad" not in path.name}
    assert {Path(name).name for name in used} == good
    assert len(used) == IMAGES  # the good neighbours of the bad ones took their places
    assert f"could not be used and were skipped: {len(BAD) * EACH}" in caplog.text
    named = {record.getMessage().strip().partition(": ")[0] for record in caplog.records if record.getMessage().startswith("  ")}
    assert named == {str(path) for path in folder.iterdir() if "bad" in path.name}


def test_training_says_once_what_is_rounded_and_what_is_passed_over(
    tmp_path: Path, tiny_config: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(encode("PNG", (PIXELS[:, :, 0].astype(np.uint16) * 257)))
    (tmp_path / "4.cr2").touch()
    (tmp_path / "5.png").symlink_to("nowhere.png")
    train(
        tiny_config(
            data={"sharp": str(tmp_path), "patch": 16, "batch": 4, "images_per_epoch": None},
            teacher={"mode": "none"},
            student={"width": 2},
            stages=[{"name": "v1", "epochs": 1, "l1": 1.0, "kd": 0.0}],
        )
    )
    assert caplog.text.count("has 16 bits a channel: such images are rounded to 8 bits") == 1
    assert caplog.text.count(f"{tmp_path}: 1 .cr2 file not read: ") == 1
    assert caplog.text.count(f"{tmp_path}/5.png: a link that leads to no file") == 1
