"""A crash at any moment leaves a checkpoint that can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.engine import checkpoint
from distill.engine.checkpoint import CHECKPOINT, PREVIOUS, load_checkpoint, save_atomically, save_checkpoint
from restormer.weights import WeightsError


def test_the_newest_is_loaded_and_one_older_kept(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, {"step": step})
    assert load_checkpoint(tmp_path) == {"step": 3}
    assert torch.load(tmp_path / PREVIOUS) == {"step": 2}


@pytest.mark.parametrize("damage", ["truncate", "empty", "absent"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_taken(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, {"step": step, "weights": torch.zeros(1000)})
    newest = tmp_path / CHECKPOINT
    match damage:
        case "truncate":
            newest.write_bytes(newest.read_bytes()[:500])
        case "empty":
            newest.write_bytes(b"")
        case "absent":
            newest.unlink()  # a crash between the two renames
    content = load_checkpoint(tmp_path)
    assert content is not None
    assert content["step"] == 1
    assert (CHECKPOINT in caplog.text) == (damage != "absent")


def test_nothing_readable_is_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    for name in (CHECKPOINT, PREVIOUS):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(WeightsError, match="--fresh"):
        load_checkpoint(tmp_path)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_atomically(tmp_path / "a.pth", {"step": 1})

    def fails(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", fails)
    with pytest.raises(OSError, match="no space"):
        save_atomically(tmp_path / "a.pth", {"step": 2})
    assert torch.load(tmp_path / "a.pth") == {"step": 1}
