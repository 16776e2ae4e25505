"""Damaged and hostile weights files: a network that restores an image, or a WeightsError; and nothing from the file is run."""

from __future__ import annotations

import io
import json
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import FUZZ, Edit, confined, edits, mutate, outcome
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from distill.networks.student_files import FORMAT, load_student
from distill.training.checkpoint import load_checkpoint
from distill.training.run_folder import CHECKPOINT
from restormer.model import Restormer
from restormer.weight_files import WeightsError, read_weights
from restormer.weights import load_restormer
from unet.model import UNet

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TARGET = "written by the attack"


class Attack:
    """Writes a file in the current folder when it is unpickled as Python would."""

    def __reduce__(self) -> Any:
        return (os.system, (f"touch '{TARGET}'",))


def saved(content: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def seeds() -> dict[str, bytes]:
    torch.manual_seed(0)
    keywords = {"dim": 2, "num_blocks": [1] * 4, "num_refinement_blocks": 1, "heads": [1] * 4}
    restormer, model = Restormer(**keywords).state_dict(), UNet(width=1, depth=2)
    unet, adam = model.state_dict(), torch.optim.Adam(model.parameters())
    model(torch.rand(2, 3, 16, 16)).mean().backward()
    adam.step()
    student = {"format": FORMAT, "arch": "unet", "architecture": {"width": 1, "depth": 2, "residual": True, "norm": "batch"}}
    contents: dict[str, Any] = {
        "unet": unet,
        "student": student | {"state_dict": unet},
        "restormer student": student | {"arch": "restormer", "state_dict": restormer},
        "resume": {"epoch": 3, "model": unet, "optimizer": adam.state_dict()},
        "restormer": {"params": restormer},
        "half": {f"module.{key}": value.half() for key, value in unet.items() if value.is_floating_point()},
        "shared": dict.fromkeys(unet, next(iter(unet.values()))),
        "expanded": unet | {"enc1.block.0.weight": torch.zeros(1).expand(10**9, 3, 3, 3)},
        "sparse": unet | {"enc1.block.0.weight": torch.eye(3).to_sparse()},
        "attack": unet | {"enc1.block.0.weight": Attack()},
    }
    found = {f"{name}.pth": saved(content) for name, content in contents.items()}
    found |= {f"{name} old.pth": saved(contents[name], zipped=False) for name in ("unet", "student", "resume", "attack")}
    return found | {"unet.safetensors": save(unet), "restormer.safetensors": save(restormer)}


SEEDS = seeds()
# Pushed in the place of an argument, or called with it.
PUSHED = [b"J" + struct.pack("<i", value) for value in (0, -1, 1, 2**31 - 1, -(2**31))]
PUSHED += [b"\x8a\x09" + value.to_bytes(9, "little", signed=True) for value in (2**62, -(2**62), 2**63, 10**12)]
PUSHED += [b"X\x0a\x00\x00\x00../../../x", b"G" + struct.pack(">d", float("nan")), b")", b"}", b"N", b"\x88", b"]"]
PUSHED += [
    f"c{module}\n{name}\n".encode()
    for module, name in [
        ("os", "system"),
        ("builtins", "eval"),
        ("collections", "OrderedDict"),
        ("torch", "FloatStorage"),
        ("torch", "ComplexDoubleStorage"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("torch._utils", "_rebuild_qtensor"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        ("torch", "device"),
        ("torch", "qint8"),
    ]
]
NAMES = ["../../outside", "/tmp/outside", "a/data.pkl", "byteorder", "data/0", "data/" + "9" * 500, "version"]


def mutate_program(program: bytes, changes: list[Edit]) -> bytes:
    """Changes whole instructions of a pickle: removed, repeated, moved, or something else pushed instead."""
    starts = [position for _, _, position in pickletools.genops(program)]
    steps = [program[start:end] for start, end in zip(starts, [*starts[1:], starts[-1] + 1], strict=True)]
    for kind, place, amount, _ in changes:
        at = place * len(steps) // 2**16
        if kind in ("delete", "cut"):
            steps[at : at + 1 + amount % 3] = []
        elif kind == "repeat":
            steps[at:at] = steps[at : at + 1 + amount % 8]
        elif kind == "splice":
            steps.insert(amount * len(steps) // 256, steps[at])
        elif kind == "insert":
            steps.insert(at, PUSHED[amount % len(PUSHED)])
        else:
            steps[at] = PUSHED[amount % len(PUSHED)]
        steps = steps or [b"."]
    return b"".join(steps)


def mutate_archive(data: bytes, level: str, place: int, changes: list[Edit]) -> bytes:
    """Changes one record of a zip archive, or its name, or how it is stored, and leaves all checksums right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    program = next(name for name in records if name.endswith("data.pkl"))
    chosen = sorted(records)[place % len(records)]
    if level == "program":
        records[program] = mutate_program(records[program], changes)
    elif level == "pickle":
        records[program] = mutate(records[program], changes, records[chosen])
    elif level == "record":
        records[chosen] = mutate(records[chosen], changes, records[program])
    elif level == "name":
        records[NAMES[place % len(NAMES)]] = records.pop(chosen)
    elif level == "compression":
        records[chosen] = bytes(50_000_000) if chosen != program else records[chosen]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if level == "compression" else zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(name, content, compresslevel=1)
    return file.getvalue()


def mutate_header(data: bytes, level: str, place: int, changes: list[Edit]) -> bytes:
    """Changes what a safetensors file says of its tensors; the header's length is right again, or it is all that is wrong."""
    (length,) = struct.unpack_from("<Q", data)
    header, rest = data[8 : 8 + length], data[8 + length :]
    if level == "name":
        return struct.pack("<Q", (0, 1, length - 1, length + 1, 2**31, 2**40, 2**63, 2**64 - 1)[place % 8]) + data[8:]
    if level == "program":
        tree = json.loads(header)
        name = sorted(tree)[place % len(tree)]
        field = ("dtype", "shape", "data_offsets")[place % 3]
        values = {
            "dtype": ["F8_E4M3", "F4", "C64", "BOOL", "U64", "F6_E2M3", "I8", "none", 7, None],
            "shape": [[2**62, 4], [0], [], [-1], [1.5], "3", [2**64], [1] * 100, [10**9, 0]],
            "data_offsets": [[0, 0], [0, 2**60], [5, 4], [-1, 3], [0], None, [2**64, 2**64], [1, 2]],
        }[field]
        tree[name][field] = values[changes[0][2] % len(values)]
        header = json.dumps(tree).encode()
    else:
        header = mutate(header, changes)
    return struct.pack("<Q", len(header)) + header + rest


@st.composite
def weights_files(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(sorted(SEEDS)))
    data, changes, place = SEEDS[name], draw(edits), draw(st.integers(0, 255))
    level = draw(st.sampled_from(["file", "program", "program", "program", "pickle", "record", "name", "compression"]))
    suffix = Path(name).suffix
    if level == "file":
        return suffix, mutate(data, changes, SEEDS["attack.pth"])
    if suffix == ".safetensors":
        return suffix, mutate_header(data, level, place, changes)
    if name.endswith(" old.pth"):
        return suffix, mutate(data[:4000], changes) + data[4000:]
    return suffix, mutate_archive(data, level, place, changes)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    return load_checkpoint(path.rename(path.with_name(CHECKPOINT)).parent)


READERS: dict[str, Callable[[Path], Any]] = {
    "student": load_student,
    "residual student": partial(load_student, residual=True),
    "restormer": lambda path: load_restormer(str(path)),
    "state dict": read_weights,
    "checkpoint": read_checkpoint,
}


@given(file=weights_files(), reader=st.sampled_from(sorted(READERS)))
@FUZZ
def test_a_mutated_weights_file_is_read_or_refused(
    file: tuple[str, bytes], reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounded_memory: None
) -> None:
    monkeypatch.chdir(tmp_path)
    suffix, data = file
    path = tmp_path / "folder" / f"w{suffix}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with confined(path.parent):
        found = outcome(lambda: READERS[reader](path), WeightsError)
    if isinstance(found, torch.nn.Module):
        with torch.no_grad():
            assert found(torch.rand(1, 3, 16, 16)).shape == (1, 3, 16, 16)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_the_seeds_are_read(name: str, tmp_path: Path) -> None:
    """Else the mutations would be of what is refused anyway."""
    path = tmp_path / f"w{Path(name).suffix}"
    path.write_bytes(SEEDS[name])
    refused = outcome(lambda: load_student(path), WeightsError) is None
    assert refused == (name.partition(".")[0] in ("half", "shared", "expanded", "sparse", "attack", "attack old"))
