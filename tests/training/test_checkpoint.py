"""A crash at any moment leaves a checkpoint that can be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from distill.runtime.files import WriteError
from distill.training.checkpoint import load_checkpoint, save_checkpoint
from distill.training.run_folder import CHECKPOINT, PREVIOUS
from restormer.weight_files import WeightsError


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


@pytest.mark.parametrize("failing", ["writing", "syncing"])
def test_a_full_disk_is_named_and_leaves_both_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, {"step": step})
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        if failing == "syncing":
            patched.setattr(os, "fsync", full)
        else:
            patched.setattr(Path, "open", lambda self, mode: open("/dev/full", mode))  # noqa: SIM115
        message = rf"^{tmp_path}/{CHECKPOINT}: cannot be written: No space left on device; \d+ bytes are needed in {tmp_path}$"
        with pytest.raises(WriteError, match=message):
            save_checkpoint(tmp_path, {"step": 3, "weights": torch.zeros(100_000)})
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert load_checkpoint(tmp_path) == {"step": 2}
    assert torch.load(tmp_path / PREVIOUS) == {"step": 1}
    save_checkpoint(tmp_path, {"step": 3})  # after space was made
    assert load_checkpoint(tmp_path) == {"step": 3}


def test_a_flipped_bit_anywhere_in_a_tensor_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """torch itself reads such a file without a word."""
    for step in (1, 2):
        save_checkpoint(tmp_path, {"step": step, "weights": torch.arange(1000.0)})
    newest = tmp_path / CHECKPOINT
    whole = newest.read_bytes()
    start = whole.index(torch.arange(1000.0).numpy().tobytes())
    for position in range(start, start + 4000, 397):
        newest.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert not torch.equal(torch.load(newest)["weights"], torch.arange(1000.0))
        content = load_checkpoint(tmp_path)
        assert content is not None
        assert content["step"] == 1
    assert "the checksum of" in caplog.text
