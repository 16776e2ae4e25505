"""A file appears whole or not at all, and what prevents it is said in one line that names the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from distill.runtime.files import WriteError, append_bytes, locked, write_bytes


def test_a_file_is_replaced_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for data in (b"first", b"second"):
        write_bytes(tmp_path / "sub" / "a.png", data)
        assert (tmp_path / "sub" / "a.png").read_bytes() == data
    append_bytes(tmp_path / "sub" / "a.png", b", third")
    assert (tmp_path / "sub" / "a.png").read_bytes() == b"second, third"
    assert len(list((tmp_path / "sub").iterdir())) == 1


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/a\.png: cannot be written: "):
        write_bytes(tmp_path / "file" / "a.png", b"data")
    for write in (write_bytes, append_bytes):
        with pytest.raises(WriteError, match="folder: cannot be written: Is a directory"):
            write(tmp_path / "folder", b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named() -> None:
    with pytest.raises(WriteError, match="/dev/full: cannot be written: No space left on device"):
        append_bytes(Path("/dev/full"), b"data")


def test_a_lock_sweeps_up_and_is_given_back(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".a.png.17.tmp").touch()
    for name in ("mine.tmp", ".mine.tmp"):
        (tmp_path / "sub" / name).touch()
    for _ in range(2):
        with locked(tmp_path), pytest.raises(WriteError, match="another process is writing there"), locked(tmp_path):
            raise AssertionError("entered twice")
    assert sorted(path.name for path in (tmp_path / "sub").iterdir()) == [".mine.tmp", "mine.tmp"]


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    try:
        path.touch()
    except OSError:
        pytest.skip("names are shorter on this file system")
    write_bytes(path, b"data")
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == {path: b"data"}


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a.png", b"data")
    assert len(list(tmp_path.iterdir())) == 1
    with locked(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_within_that_has_a_lock_of_its_own_is_not_swept(tmp_path: Path) -> None:
    inner = tmp_path / "sub" / "inner"
    with locked(inner):
        (inner / ".a.png.17.tmp").touch()
        with locked(tmp_path):
            pass
        assert (inner / ".a.png.17.tmp").exists()


def test_a_folder_within_that_cannot_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `chmod 0` does it, but for root."""
    for name in ("lost+found", "sub"):
        (tmp_path / name).mkdir()
    (tmp_path / "sub" / ".a.png.17.tmp").touch()

    def refusing(read: Any) -> Any:
        def refuse(path: Any = ".") -> Any:
            if "lost+found" in os.fspath(path):
                raise PermissionError(13, "Permission denied", path)
            return read(path)

        return refuse

    for reads in ("listdir", "scandir"):
        monkeypatch.setattr(os, reads, refusing(getattr(os, reads)))
    with locked(tmp_path):
        assert not (tmp_path / "sub" / ".a.png.17.tmp").exists()
