"""Several processes as one run, started by torchrun over gloo: the same result as one process, the same end for all of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import checkpoint, finish, records, same_bits, start, tensors, wait_until, write_config

from distill.cache import build_cache
from distill.config import Config, ConfigError, load_config
from distill.data.datasets import TrainingPatches
from distill.data.image_files import read_image
from distill.data.loader import training_loader
from distill.evaluate import evaluate
from distill.runtime.ranks import RankGoneError, Ranks
from distill.teacher_cache.manifest import LINES, PARTS, Manifest, merge_parts
from distill.training.build import check_shares


@pytest.fixture
def config_file(tiny_tree: dict[str, Any], tmp_path: Path) -> Path:
    """Twenty steps of a student without BatchNorm, whose statistics on a CPU are of each rank's own images."""
    tiny_tree["run"]["log_steps"] = 1
    tiny_tree["data"] |= {"images_per_epoch": 40, "workers": 1}
    tiny_tree["student"] |= {"width": 8, "depth": 3, "norm": "none"}
    tiny_tree["optimizer"]["ema"] = 0.9
    return write_config(tiny_tree, tmp_path / "tiny.yaml")


def overrides(folder: Path, *more: str) -> list[str]:
    return [f"run.dir={folder}", *more]


def largest_difference(first: Config, second: Config, part: str) -> float:
    one, other = (tensors(checkpoint(config)[part]) for config in (first, second))
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_are_one_process_with_the_same_global_batch(
    tiny_tree: dict[str, Any], config_file: Path, tmp_path: Path, sharp_folder: Path, accumulate: int
) -> None:
    """With `accumulate`, of sources of which one has no sharp images: a part is one sample, with a sharp image or without. And
    with two steps for each image of the teacher."""
    if accumulate == 2:
        tiny_tree["teacher"]["reuse"] = 2
        sources = [{"sharp": str(sharp_folder)}, {"blurry": str(sharp_folder), "parts": 2}]
        tiny_tree["data"] |= {"sharp": None, "sources": sources}
        write_config(tiny_tree, config_file)
    parts, lr = f"optimizer.accumulate={accumulate}", "optimizer.lr=1.0e-4"
    alone = load_config(config_file, overrides(tmp_path / "one", lr))
    together = load_config(config_file, overrides(tmp_path / "two", lr, parts))
    # In a process of its own, whose bits are the same every time: trained in the tests' process, weights were off by up to 2.5e-3
    # in one run of seven. L1's gradient is a sign, which the last bit can turn, and Adam makes a step of it.
    finish(start("train", config_file, *overrides(tmp_path / "one", lr)))
    table = finish(start("train", config_file, *overrides(tmp_path / "two", lr, parts), ranks=2)).splitlines()[-4:]
    assert table[0] == "6 validation images"  # printed by one of them
    for one, two in zip(records(alone.run.dir, "train"), records(together.run.dir, "train"), strict=True):
        assert {name: two[name] for name in ("l1", "kd", "loss")} == pytest.approx(
            {name: one[name] for name in ("l1", "kd", "loss")}, rel=0, abs=1e-5
        )
        # Adam would not notice a gradient of another length.
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
    assert checkpoint(together)["step"] == checkpoint(alone)["step"] == 20
    # The student has learned something in these steps, or the next lines would be empty words.
    assert max(float(value.abs().max()) for key, value in checkpoint(alone)["student"].items() if key == "final.weight") > 1e-3
    assert largest_difference(alone, together, "student") < 1e-4
    assert largest_difference(alone, together, "ema") < 1e-4
    scores = [(Path(config.run.dir) / "evaluation.csv").read_text().splitlines() for config in (alone, together)]
    for line, other in zip(*scores, strict=True):
        (name, *values), (other_name, *other_values) = line.split(","), other.split(",")
        assert name == other_name
        if name != "Image":
            assert [float(value) for value in other_values] == pytest.approx([float(value) for value in values], abs=0.02)
    for name in ("step_0000010.png", "step_0000020.png"):
        assert (Path(together.run.dir) / "samples" / name).exists()


def test_batchnorms_statistics_are_the_mean_of_the_ranks(config_file: Path, tmp_path: Path) -> None:
    """So that all ranks validate one network: their scores are those of the checkpoint, scored by one process."""
    more = overrides(tmp_path / "two", "student.norm=batch", "optimizer.ema=null")
    said = finish(start("train", config_file, *more, ranks=2))

    config = load_config(config_file, more)
    table = evaluate(config, tmp_path / "two" / "student_model_v1.pth").table().splitlines()
    assert table[:4] == said.splitlines()[-4:]


def test_a_rank_that_dies_ends_the_others_and_torchrun_goes_on_from_the_checkpoint(config_file: Path, tmp_path: Path) -> None:
    more = ("stages.0.epochs=4", "run.save_minutes=0.001")
    folder = tmp_path / "two"
    process = start("train", config_file, *overrides(folder, *more), ranks=2, options=("--max-restarts", "2"))
    metrics = folder / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count('"train"') >= 12, process)
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    said = finish(process)
    assert "going on from step" in said
    config = load_config(config_file, overrides(folder, *more))
    assert checkpoint(config)["step"] == 40
    assert [line["step"] for line in records(folder, "train")] == list(range(1, 41))
    finish(start("train", config_file, *overrides(tmp_path / "straight", *more), ranks=2))
    straight = load_config(config_file, overrides(tmp_path / "straight", *more))
    assert same_bits(checkpoint(straight)["student"], checkpoint(config)["student"])


def rank_of(launcher: int, rank: int) -> int:
    """The process of a rank below a launcher."""
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if parent == launcher and f"RANK={rank}".encode() in variables:
            return pid
    raise AssertionError(f"no rank {rank} below {launcher}")


def test_a_signal_to_one_rank_stops_all_at_the_same_step(config_file: Path, tmp_path: Path) -> None:
    more = overrides(tmp_path / "two", "stages.0.epochs=500")
    process = start("train", config_file, *more, ranks=2)
    metrics = tmp_path / "two" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count('"train"') >= 12, process)
    os.kill(rank_of(process.pid, 1), signal.SIGTERM)
    said = finish(process, status=1)  # torchrun's own
    assert "train (rank 0): stopped by SIGTERM" in said
    assert "train (rank 1): stopped by SIGTERM" in said
    kept = checkpoint(load_config(config_file, more))["step"]
    assert f"saved step {kept} of" in said
    assert records(tmp_path / "two", "train")[-1]["step"] == kept


def test_ranks_share_every_batch(tiny_config: Callable[..., Config]) -> None:
    dataset = TrainingPatches(tiny_config())
    whole = list(training_loader(dataset, 8, 3, pin=False))
    shares = [list(training_loader(dataset, 8, 3, pin=False, rank=rank, ranks=2)) for rank in (0, 1)]
    for number, batch in enumerate(whole):
        parts = [shares[rank][number] for rank in (0, 1)]
        assert batch.names == parts[0].names + parts[1].names
        assert torch.equal(batch.sharp, torch.cat([part.sharp for part in parts]))
        assert len(batch.draws) > 3
        for key, values in batch.draws.items():
            assert torch.equal(values, torch.cat([part.draws[key] for part in parts])), key


@pytest.mark.parametrize(
    "ask",
    [
        lambda ranks: ranks.barrier(),
        lambda ranks: ranks.all_gather("x"),
        lambda ranks: ranks.broadcast(lambda: "x"),
        lambda ranks: ranks.all_reduce_mean({"loss": torch.ones(())}),
        lambda ranks: ranks.all_reduce_mean_([torch.ones(2)]),
    ],
)
def test_a_lost_rank_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, ask: Callable[[Ranks], object]) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Connection closed by peer\nframe #0")

    for name in ("all_reduce", "all_gather_object", "broadcast_object_list"):
        monkeypatch.setattr(torch.distributed, name, fails)
    with pytest.raises(RankGoneError, match=r"^another process of this run ended.*saves nothing \(Connection closed by peer\)$"):
        ask(Ranks(0, 2))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"data": {"batch": 4}}, "data.batch: 4 samples cannot be divided evenly among 3 processes"),
        ({"data": {"batch": 6}, "optimizer": {"accumulate": 6}}, "among 3 processes in 6 parts"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(tiny_config: Callable[..., Config], sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_shares(tiny_config(**sections), Ranks(0, 3))


def test_a_cache_is_not_filled_by_several_training_processes(pairs_tree: dict[str, Any]) -> None:
    pairs_tree["teacher"]["on_missing"] = "compute"
    with pytest.raises(ConfigError, match="fill it first"):
        check_shares(Config.model_validate(pairs_tree), Ranks(0, 2))


def test_two_ranks_fill_the_cache_that_one_process_fills(pairs_tree: dict[str, Any], tmp_path: Path) -> None:
    config_file = write_config(pairs_tree, tmp_path / "pairs.yaml")
    folders = [tmp_path / "one", tmp_path / "two"]
    alone = build_cache(load_config(config_file, [f"teacher.cache={folders[0]}"]))
    said = finish(start("cache", config_file, f"teacher.cache={folders[1]}", ranks=2))
    assert f"{folders[1]}: 6 teacher images" in said
    together = Manifest(folders[1])
    assert together.header == alone.manifest.header
    assert together.entries.keys() == alone.manifest.entries.keys()
    assert sorted(path.name for path in folders[1].iterdir()) == sorted(path.name for path in folders[0].iterdir())
    # The ranks' smaller batches may sum in another order, and a value near a half be rounded to the other 8-bit level.
    pixels = [np.concatenate([read_image(path).ravel() for path in sorted(folder.rglob("*.png"))]) for folder in folders]
    differences = np.abs(pixels[0].astype(int) - pixels[1])
    assert differences.max() <= 1
    assert differences.mean() < 1e-4


def test_lines_of_a_killed_rank_are_taken_over(pairs_tree: dict[str, Any]) -> None:
    config = Config.model_validate(pairs_tree)
    build_cache(config)
    folder = Path(config.teacher.cache)
    lines = (folder / LINES).read_text().splitlines(keepends=True)
    (folder / LINES).write_text("".join(lines[:3]))
    (folder / PARTS.replace("*", "1")).write_text("".join(lines[3:]) + '{"stem": "torn')
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert len(build_cache(config).manifest.entries) == len(lines)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")} == times  # nothing was computed again
    assert list(folder.glob(PARTS)) == []
    merge_parts(folder)
    assert (folder / LINES).read_text() == "".join(lines)
