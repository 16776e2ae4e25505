"""The command: what it prints, what it mends, what it refuses, and that it can be killed at any moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import error_line
from PIL import Image
from safetensors.torch import load_file, save_file
from trees import flip_byte

from distill import cache as cache_command
from distill import train as train_command
from distill.cache import build_cache
from distill.config import parse_config
from distill.runtime.files import locked
from distill.synthesis.dead_leaves import dead_leaves
from restormer.published import locate_weights

ROOT = Path(__file__).parents[2]
Call = Callable[..., int]


@pytest.fixture
def config_file(pairs_tree: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "pairs.yaml"
    path.write_text(yaml.safe_dump(pairs_tree))
    return path


@pytest.fixture
def cache(config_file: Path, call: Call) -> Path:
    assert call(cache_command.main, "--config", config_file) == 0
    return config_file.parent / "cache"


def test_it_fills_verifies_and_does_nothing_twice(
    config_file: Path, cache: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(list(cache.rglob("*.png"))) == 6
    times = {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")}
    assert call(cache_command.main, "--config", config_file) == 0
    assert "6 teacher images, 0.1 MB; 0 of them are new" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")}
    assert call(cache_command.main, "--config", config_file, "--verify") == 0
    assert "6 images verified" in capsys.readouterr().out


def test_what_cannot_be_read_is_not_counted_as_new(
    config_file: Path, call: Call, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole = (tmp_path / "blurry" / "1.png").read_bytes()
    (tmp_path / "blurry" / "1.png").write_bytes(b"")
    for new in (5, 0):
        assert call(cache_command.main, "--config", config_file) == 0
        assert f"cache: 5 teacher images, 0.1 MB; {new} of them are new" in capsys.readouterr().out
    assert call(cache_command.main, "--config", config_file, "--pack", tmp_path / "pack") == 0
    assert "pack: 5 teacher images, 0.2 MB; 5 of them are new" in capsys.readouterr().out
    (tmp_path / "blurry" / "1.png").write_bytes(whole)
    assert call(cache_command.main, "--config", config_file, "--repair") == 0
    assert "cache: 6 teacher images, 0.1 MB; 1 of them are new" in capsys.readouterr().out


def swap(first: Path, second: Path) -> None:
    first.rename(first.with_name("x"))
    second.rename(first)
    first.with_name("x").rename(second)


def break_cache(kind: str, cache: Path, folder: Path) -> list[str]:  # noqa: C901 (a flat list of cases)
    """Makes one kind of difference; returns the overrides that go with it."""
    blurry = folder / "blurry"
    match kind:
        case "swapped":
            swap(cache / "1.png", cache / "2.png")
        case "deleted":
            (cache / "3.png").unlink()
        case "damaged":
            (cache / "sub" / "5.png").write_bytes(b"\x89PNG")
        case "changed input":
            Image.open(blurry / "2.png").rotate(180).save(blurry / "2.png")
        case "added" | "removed":
            sharp = folder / "sharp"
            shutil.copytree(yaml.safe_load((folder / "pairs.yaml").read_text())["data"]["sharp"], sharp)
            for pixels in (sharp, blurry):
                if kind == "added":
                    shutil.copy(pixels / "0.png", pixels / "new.png")
                else:
                    (pixels / "4.png").unlink()
            return [f"data.sharp={sharp}"]
        case "other weights":
            state = load_file(locate_weights("embedded"))
            state["output.weight"] = state["output.weight"] * 1.001
            save_file(state, folder / "other.safetensors")
            return [f"teacher.weights={folder}/other.safetensors"]
        case "precision":
            return ["teacher.precision=bf16"]
        case "no cache":
            return [f"teacher.cache={folder}/nowhere"]
        case "no manifest, and one missing":
            for name in ("manifest.json", "manifest.jsonl", "0.png"):
                (cache / name).unlink()
        case "no header":
            (cache / "manifest.json").unlink()
        case "damaged header":
            (cache / "manifest.json").write_text("{}")
    return []


@pytest.mark.parametrize(
    ("kind", "words", "mend"),
    [
        ("swapped", "2 images have a damaged teacher image (1, 2)", ""),
        ("deleted", "1 images have no teacher image (3)", ""),
        ("damaged", "1 images have a damaged teacher image (sub/5)", ""),
        ("changed input", "1 images changed since their teacher image was computed (2)", ""),
        ("added", "1 images have no teacher image (new)", ""),
        ("removed", "1 images have a teacher image, but are no longer there (4)", "--repair"),
        ("other weights", "made with other weights", "--fresh"),
        ("precision", "made in precision fp32, but this run's teacher.precision is bf16", "--fresh"),
        ("no cache", "nowhere: there are no cached teacher images", ""),
        ("no header", "there is a manifest.jsonl and no manifest.json", "--fresh"),
        ("damaged header", "manifest.json: not the header of a teacher cache", "--fresh"),
        ("no manifest, and one missing", "1 images have no teacher image (0); without a manifest", None),
    ],
)
def test_training_names_what_is_wrong_before_the_first_step_and_the_command_that_mends_it(
    config_file: Path, cache: Path, call: Call, capfd: pytest.CaptureFixture[str], kind: str, words: str, mend: str | None
) -> None:
    overrides = break_cache(kind, cache, config_file.parent)
    options = ["--config", str(config_file), *(["--set", *overrides] if overrides else [])]
    assert call(train_command.main, *options) == 2
    line = error_line(capfd)
    assert words in line
    assert not (config_file.parent / "run" / "student_checkpoint.pth").exists()
    if mend is None:
        return
    command = line.partition("this mends it: python -m distill.cache ")[2].split()
    assert command == [*options, *mend.split()]
    if kind != "precision":  # half precision is very slow here
        assert call(cache_command.main, *command) == 0
        assert call(train_command.main, *options) == 0


def test_repair_finds_what_size_and_time_hide(
    config_file: Path, cache: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (cache / "2.png").read_bytes()
    flip_byte(cache / "2.png", keep_time=True)
    assert call(cache_command.main, "--config", config_file) == 0
    assert (cache / "2.png").read_bytes() != before
    capfd.readouterr()
    assert call(cache_command.main, "--config", config_file, "--verify") == 2
    assert "1 images have a damaged teacher image (2)" in error_line(capfd)
    assert call(cache_command.main, "--config", config_file, "--repair") == 0
    assert (cache / "2.png").read_bytes() == before
    assert call(cache_command.main, "--config", config_file, "--verify") == 0


def test_a_byte_that_changes_while_training_is_named_when_it_is_read(
    config_file: Path, cache: Path, call: Call, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    flip_byte(cache / "2.png", keep_time=True)
    assert call(train_command.main, "--config", config_file) == 0
    assert "2.png: damaged since it was cached; distill.cache --repair" in capfd.readouterr().err
    assert "could not be used and were skipped: 1" in caplog.text


def test_a_pack_trains_and_is_packed_again_where_its_images_changed(
    config_file: Path, cache: Path, call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pack, packed = tmp_path / "pack", ["--set", f"teacher.cache={tmp_path}/pack"]
    for _ in range(2):
        assert call(cache_command.main, "--config", config_file, "--pack", pack) == 0
        assert [path.name for path in pack.glob("*.safetensors")] == ["000000.safetensors"]
    assert call(cache_command.main, "--config", config_file, *packed, "--verify") == 0
    assert call(train_command.main, "--config", config_file, *packed) == 0
    capfd.readouterr()

    break_cache("changed input", cache, tmp_path)
    assert call(train_command.main, "--config", config_file, *packed) == 2
    line = error_line(capfd)
    assert "changed since their teacher image was computed (2); it was filled for 6 images of" in line
    assert "set teacher.cache to the PNG cache" in line
    assert call(cache_command.main, "--config", config_file, *packed) == 2
    assert "is packed" in error_line(capfd)
    assert call(cache_command.main, "--config", config_file, "--pack", pack) == 0
    assert call(train_command.main, "--config", config_file, *packed, "--fresh") == 0
    assert call(cache_command.main, "--config", config_file, "--pack", cache) == 2
    assert "give a folder of its own to --pack" in error_line(capfd)


def test_a_damaged_pack_is_found_and_packing_again_mends_it(
    config_file: Path, cache: Path, call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pack = tmp_path / "pack"
    assert call(cache_command.main, "--config", config_file, "--pack", pack) == 0
    flip_byte(pack / "000000.safetensors", keep_time=True)
    capfd.readouterr()
    verify = ["--config", config_file, "--set", f"teacher.cache={pack}", "--verify"]
    assert call(cache_command.main, *verify) == 2
    assert f"and run distill.cache --pack {pack} again" in error_line(capfd)
    assert call(cache_command.main, "--config", config_file, "--pack", pack) == 0
    assert call(cache_command.main, *verify) == 0


def test_a_pack_of_other_weights_is_refused_and_kept(
    config_file: Path, cache: Path, call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pack = tmp_path / "pack"
    assert call(cache_command.main, "--config", config_file, "--pack", pack) == 0
    before = (pack / "000000.safetensors").read_bytes()
    other = ["--config", config_file, "--set", *break_cache("other weights", cache, tmp_path)]
    capfd.readouterr()
    assert call(train_command.main, *other, f"teacher.cache={pack}") == 2
    assert "pack a cache of this teacher into another folder" in error_line(capfd)
    assert call(cache_command.main, *other, f"teacher.cache={pack}", "--fresh") == 2
    assert "is packed" in error_line(capfd)
    assert call(cache_command.main, *other, "--fresh") == 0
    capfd.readouterr()
    assert call(cache_command.main, *other, "--pack", pack) == 2
    line = error_line(capfd)
    assert "pack a cache of this teacher into another folder" in line
    assert "--fresh" not in line
    assert (pack / "000000.safetensors").read_bytes() == before


def test_what_fills_a_cache_holds_it_and_a_run_kept_out_loses_nothing(
    config_file: Path, call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill = ["--config", config_file, "--set", "teacher.on_missing=compute"]
    assert call(train_command.main, *fill) == 0
    before = sorted((tmp_path / "run").iterdir())
    with locked(tmp_path / "cache"):
        capfd.readouterr()
        assert call(train_command.main, *fill, "--fresh") == 2
        assert "another process is writing there" in error_line(capfd)
        assert sorted((tmp_path / "run").iterdir()) == before
        assert call(train_command.main, "--config", config_file) == 0  # reading needs no lock


@pytest.mark.parametrize("place", ["cache", "pack", "fill"])
def test_a_file_where_a_folder_should_be_is_said_in_one_line(
    config_file: Path, call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").touch()
    options = ["--config", config_file, "--set"]
    if place == "pack":
        assert call(cache_command.main, *options, "data.workers=0", "--pack", tmp_path / "file" / "x") == 2
    else:
        main = cache_command.main if place == "cache" else train_command.main
        assert call(main, *options, f"teacher.cache={tmp_path}/file", "teacher.on_missing=compute") == 2
    assert "cannot be written" in error_line(capfd)


def test_a_damaged_image_is_not_packed(
    config_file: Path, cache: Path, call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flip_byte(cache / "2.png", keep_time=True)
    pack = ["--config", config_file, "--pack", tmp_path / "pack", "--set", "data.workers=1"]
    assert call(cache_command.main, *pack) == 2
    line = error_line(capfd)
    assert "2.png: damaged since it was cached" in line
    assert line.endswith("--repair")
    assert "Traceback" not in line
    assert call(cache_command.main, "--config", config_file, "--repair") == 0
    assert call(cache_command.main, *pack) == 0


def test_a_pack_and_its_pngs_train_the_same_student(config_file: Path, cache: Path, call: Call, tmp_path: Path) -> None:
    assert call(cache_command.main, "--config", config_file, "--pack", tmp_path / "pack") == 0
    students = []
    for folder in (cache, tmp_path / "pack"):
        run = tmp_path / f"run of {folder.name}"
        assert call(train_command.main, "--config", config_file, "--set", f"teacher.cache={folder}", f"run.dir={run}") == 0
        students.append(torch.load(run / "student_checkpoint.pth", weights_only=True)["student"])
    assert all(torch.equal(students[0][key], students[1][key]) for key in students[0])


def test_the_approximation_is_measured(config_file: Path, cache: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert call(cache_command.main, "--config", config_file, "--approximation", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert call(cache_command.main, "--config", config_file, "--approximation", 0) == 2
    assert lines[0] == "PSNR to the online teacher image, 3 images"
    rows = {line[:16].strip(): [float(word) for word in line[16:].split()] for line in lines[2:]}
    assert list(rows) == ["none", "flip", "quarter turn", "crop 32x32"]
    assert rows["none"][0] > 55  # 8-bit rounding alone is 58.9 dB
    assert all(cached > blurry for cached, blurry in rows.values())
    assert max(rows["flip"][0], rows["crop 32x32"][0]) < rows["none"][0]


def test_what_cannot_be_cached_is_refused(config_file: Path, call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    online = ["--config", config_file, "--set", "teacher.mode=online"]
    assert call(cache_command.main, *online, "data.blurry=null") == 2
    assert "python -m distill.prepare makes a folder" in error_line(capfd)
    assert call(cache_command.main, "--config", config_file, "--set", "teacher.mode=none", "stages.0.kd=0") == 2
    assert "teacher.mode: none has no images to cache" in error_line(capfd)
    assert call(cache_command.main, *online) == 0  # the data may be cached before the mode is switched


def test_a_second_process_is_kept_out_and_a_dead_ones_lock_is_not(
    config_file: Path, call: Call, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = ["import sys, time", "from pathlib import Path", "from distill.runtime.files import locked"]
    code = "\n".join([*lines, "with locked(Path(sys.argv[1])):", "    print(1, flush=True)", "    time.sleep(60)"])
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cache")], cwd=ROOT, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    assert call(cache_command.main, "--config", config_file) == 2
    assert "another process is writing there" in error_line(capfd)
    other.kill()
    other.wait()
    assert call(cache_command.main, "--config", config_file) == 0


def test_killed_at_any_moment_it_goes_on_and_computes_nothing_twice(pairs_tree: dict[str, Any], tmp_path: Path) -> None:
    """A shorter form of twenty kills on photographs."""
    for kind in ("sharp", "blurry"):
        (tmp_path / "many" / kind).mkdir(parents=True)
        for number in range(40):
            pixels = dead_leaves(96, np.random.default_rng(number))
            Image.fromarray(pixels).save(tmp_path / "many" / kind / f"{number}.png")
        pairs_tree["data"][kind] = str(tmp_path / "many" / kind)
    pairs_tree["data"]["workers"] = 1
    pairs_tree["teacher"]["tile"] = 128
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(pairs_tree))
    command = [sys.executable, "-m", "distill.cache", "--config", str(tmp_path / "many.yaml")]
    lines, rng = tmp_path / "cache" / "manifest.jsonl", random.Random(0)
    for kill in range(4):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        before = lines.read_bytes().count(b"\n") if lines.exists() else 0
        while process.poll() is None and not (lines.exists() and lines.read_bytes().count(b"\n") > before + kill):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL  # it had not finished
    cache = build_cache(parse_config(pairs_tree))
    images = [path.stem for path in (tmp_path / "cache").glob("*.png")]
    assert sorted(images) == sorted(str(number) for number in range(40))
    assert not list((tmp_path / "cache").rglob(".*.tmp"))
    computed = Counter(json.loads(line)["stem"] for line in lines.read_text().splitlines() if line.endswith("}"))
    assert set(computed.values()) == {1}
    for entry in cache.manifest.entries.values():
        assert entry.output is not None
        assert entry.output.equals(cache.path_of(entry))
