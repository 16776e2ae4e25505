"""Lines are read whole or not at all, the last one about an image counts, and no name in them leads out of the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.networks.teacher import Identity
from distill.teacher_cache.manifest import HEADER, LINES, CacheError, Entry, Header, Inputs, Manifest, Stamp

IDENTITY = Identity(weights="ab" * 32, architecture={"dim": 16, "bias": False}, precision="fp32")
HEAD = Header(storage="png", teacher=IDENTITY, tile=640, inputs=Inputs(folder="b", count=2, sha256="cd" * 32))


def entry(stem: str, crc: int = 1) -> Entry:
    return Entry(stem=stem, blurry=Stamp(size=1, mtime_ns=2, crc32=crc), output=Stamp(size=4, mtime_ns=5, crc32=6))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a header."""
    assert Manifest(tmp_path).header is None
    Manifest(tmp_path).write_header(HEAD)
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    manifest = Manifest(folder)
    entries = [
        entry("a"),
        entry("night/street"),
        entry("not utf-8 \udcff"),
        Entry(stem="bad", blurry=entry("x").blurry, unreadable="?"),
    ]
    manifest.append(entries[:2])
    manifest.append(entries[2:])
    again = Manifest(folder)
    assert again.header == HEAD
    assert list(again.entries.values()) == entries


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.6, 0.9])
def test_a_torn_last_line_is_no_line_and_spoils_none(folder: Path, kept: float) -> None:
    manifest = Manifest(folder)
    manifest.append([entry("a")])
    whole = (folder / LINES).read_bytes()
    manifest.append([entry("b")])
    torn = (folder / LINES).read_bytes()[: len(whole) + int(kept * len(whole))]
    (folder / LINES).write_bytes(torn)
    again = Manifest(folder)
    assert list(again.entries) == ["a"]
    again.append([entry("c")])
    assert list(Manifest(folder).entries) == ["a", "c"]


def test_the_last_line_about_an_image_counts(folder: Path) -> None:
    Manifest(folder).append([entry("a", crc=1)])
    Manifest(folder).append([entry("a", crc=2)])
    assert Manifest(folder).entries["a"].blurry.crc32 == 2


def test_refreshing_reads_what_another_process_appended(folder: Path) -> None:
    writer, reader = Manifest(folder), Manifest(folder)
    writer.append([entry("a")])
    reader.refresh()
    assert list(reader.entries) == ["a"]
    with (folder / LINES).open("ab") as file:
        file.write(b'{"stem": "b", "blur')  # in the middle of another write
    reader.refresh()
    assert list(reader.entries) == ["a"]
    with (folder / LINES).open("ab") as file:
        file.write(b'ry": {"size": 1, "mtime_ns": 2, "crc32": 3}}\n')
    reader.refresh()
    assert list(reader.entries) == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        {"stem": "../outside"},
        {"stem": "a/../../outside"},
        {"stem": "/etc/passwd"},
        {"stem": ""},
        {"stem": "a\0b"},
        {"stem": 7},
        {"stem": "no such character \ud800"},
        {"stem": "x" * 300},
        {"stem": "x/" * 2000 + "x"},
        {"shard": "../000001.safetensors"},
        {"shard": "/tmp/000001.safetensors"},
        {"shard": "000001.safetensors\n"},
        {"blurry": None},
        {"surprise": 1},
    ],
)
def test_a_hostile_line_is_no_line(folder: Path, change: dict[str, Any]) -> None:
    line = json.dumps(entry("a").model_dump(exclude_none=True) | change)
    (folder / LINES).write_text(line + "\n" + "[" * 100_000 + "\n" + "null\n")
    assert Manifest(folder).entries == {}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "another", "storage": "png"}', "\udcff"])
def test_what_is_no_header_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / HEADER).write_text(text, errors="surrogateescape")
    with pytest.raises(CacheError, match=r"manifest\.json: not the header") as caught:
        Manifest(tmp_path)
    assert caught.value.mend == "--fresh"
    assert "\n" not in str(caught.value)


def test_lines_without_a_header_are_of_nobody_knows_whom(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    manifest.write_header(HEAD)
    manifest.append([entry("a")])
    (tmp_path / HEADER).unlink()
    with pytest.raises(CacheError, match=r"manifest\.jsonl and no manifest\.json") as caught:
        Manifest(tmp_path)
    assert caught.value.mend == "--fresh"


def test_a_header_that_names_no_weights_or_an_odd_network_is_no_header(folder: Path) -> None:
    for change in ({"weights": "a\nb"}, {"architecture": {"dim": {"a": [[]]}}}, {"architecture": {"dim": None}}):
        tree = HEAD.model_dump()
        tree["teacher"] |= change
        (folder / HEADER).write_text(json.dumps(tree))
        with pytest.raises(CacheError, match="not the header"):
            Manifest(folder)


@pytest.mark.parametrize(
    "architecture",
    [{"dim": 10**4000}, {"a\nb": 1}, {"x" * 5000: 1}, {"LayerNorm_type": "a\nb"}, {f"k{n}": n for n in range(999)}],
)
def test_a_difference_is_told_in_one_line_whatever_the_header_says(architecture: dict[str, Any]) -> None:
    difference = IDENTITY.difference(IDENTITY.model_copy(update={"architecture": architecture}))
    assert difference is not None
    assert "\n" not in difference
    assert len(difference) < 500


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "fp16"}, "precision fp32, but this run's teacher.precision is fp16"),
        ({"architecture": {"dim": 48, "bias": False}}, "another network than teacher.weights: dim 16, not 48"),
        ({"weights": "ef" * 32}, "other weights (sha256 abababababab...) than teacher.weights (efefefefefef...)"),
        ({}, None),
    ],
)
def test_another_teacher_is_told_apart_in_words(change: dict[str, Any], words: str | None) -> None:
    difference = IDENTITY.difference(IDENTITY.model_copy(update=change))
    assert difference is None if words is None else words in str(difference)
