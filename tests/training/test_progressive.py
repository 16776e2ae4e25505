"""A run whose stages have patches, batches and learning rates of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from running import StopAt, checkpoint, records, same_bits
from torch import Tensor, nn

from distill import train as train_command
from distill.command import Interrupted
from distill.config import Config, ConfigError, parse_config
from distill.networks.teacher import Teacher
from distill.runtime.ranks import Ranks
from distill.train import train
from distill.training import build
from distill.training.build import check_shares
from distill.training.checkpoint import save_checkpoint
from distill.training.plan import Plan

# 3 steps of 4 patches of 32 pixels, then 6 of 2 patches of 48.
STAGES = [
    {"name": "small", "epochs": 1, "lr": 2e-3},
    {"name": "large", "epochs": 1, "patch": 48, "batch": 2},
]


@pytest.fixture
def progressive(tiny_tree: dict[str, Any]) -> dict[str, Any]:
    tiny_tree["stages"] = STAGES
    tiny_tree["data"]["images_per_epoch"] = 12
    tiny_tree["optimizer"] |= {"schedule": "cosine", "ema": 0.9}
    tiny_tree["eval"] |= {"images": 1, "every_epochs": 9}
    return tiny_tree


def stopped_and_resumed(tree: dict[str, Any], folder: Path, looks: int) -> Config:
    config = parse_config(tree | {"run": tree["run"] | {"dir": str(folder)}})
    with pytest.raises(Interrupted):
        train(config, gate=StopAt(looks))
    train(config)
    return config


@pytest.mark.parametrize("reuse", [1, 2])
def test_it_goes_on_bit_for_bit(progressive: dict[str, Any], tmp_path: Path, reuse: int) -> None:
    """With reuse 2, the first stage is one and a half groups of two steps, and steps 1 and 4 are in the middle of one."""
    progressive["teacher"]["reuse"] = reuse
    straight = parse_config(progressive)
    train(straight)
    assert checkpoint(straight)["step"] == 9
    for looks in (0, 2, 3, 4):  # after step 1, in the validation at step 3, after it, after step 4
        stopped = stopped_and_resumed(progressive, tmp_path / str(looks), looks)
        assert same_bits(checkpoint(straight), checkpoint(stopped)), looks
        for key in ("plan", "total_steps", "best"):
            assert checkpoint(straight)[key] == checkpoint(stopped)[key]
        assert records(straight.run.dir, "val") == records(stopped.run.dir, "val")


def test_a_cached_run_cuts_its_teacher_images_to_the_stages_patches(
    pairs_tree: dict[str, Any], progressive: dict[str, Any], tmp_path: Path
) -> None:
    """Both stages fill the cache, the first with 4 of 6 images. The second run finds them all there."""
    assert progressive is pairs_tree
    progressive["teacher"]["on_missing"] = "compute"
    progressive["data"]["images_per_epoch"] = 4
    stopped = stopped_and_resumed(progressive, tmp_path / "stopped", 0)
    straight = parse_config(progressive)
    assert len(list(Path(straight.teacher.cache).rglob("*.png"))) == 6
    train(straight)
    assert same_bits(checkpoint(straight), checkpoint(stopped))


def test_teacher_student_and_log_see_the_stages_sizes(progressive: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    prepared: list[tuple[int, ...]] = []

    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, image: Tensor) -> Tensor:
            asked.append(tuple(image.shape))
            return image

    def speed_up(teacher: Teacher, config: Config, ranks: Ranks) -> None:
        prepared.append((config.data.batch, config.data.patch))

    monkeypatch.setattr(build, "build_teacher", lambda *arguments: Teacher(Notes()))
    monkeypatch.setattr(build, "speed_up_for_training", speed_up)
    progressive["optimizer"] |= {"accumulate": 2}
    progressive["run"]["log_steps"] = 1
    config = parse_config(progressive)
    train(config)
    assert prepared == [(4, 32), (2, 48)]
    in_training = [shape for shape in asked if shape[-1] != 64]  # 64: validation
    assert in_training == [(2, 3, 32, 32)] * 6 + [(1, 3, 48, 48)] * 12
    lines = records(config.run.dir, "train")
    assert [line["stage"] for line in lines] == ["small"] * 3 + ["large"] * 6
    assert lines[0]["lr"] == 2e-3
    assert [line["lr"] for line in lines] == pytest.approx(  # one cosine over both stages
        [(2e-3 if step < 3 else 1e-3) * 0.5 * (1 + math.cos(math.pi * step / 9)) for step in range(9)]
    )


def test_the_teacher_is_made_fast_when_a_stage_first_asks_it(
    progressive: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    progressive["stages"] = [STAGES[0] | {"name": str(number), "kd": kd} for number, kd in enumerate((0.0, 0.0, 1.0, 1.0))]
    config = parse_config(progressive)
    run, plan, prepared = MagicMock(config=config), Plan.of(config, 12), []
    run.state.step = 0
    monkeypatch.setattr(build, "speed_up_for_training", lambda *_: prepared.append(run.state.step))
    monkeypatch.setattr(train_command, "make_images", MagicMock())
    build.speed_up_teacher(run, plan)
    for _ in train_command._images_of_steps(run, plan, [MagicMock()] * 12, MagicMock()):
        run.state.step += 1
    assert prepared == [6]


@pytest.mark.parametrize("old", [True, False], ids=["an earlier version's checkpoint", "today's"])
def test_more_epochs_make_a_cosine_jump_and_that_is_said(
    tiny_tree: dict[str, Any], caplog: pytest.LogCaptureFixture, old: bool
) -> None:
    """The last of 8 steps has 1e-3 * (1 + cos(7/8 pi)) / 2; the ninth of 12 has 1e-3 * (1 + cos(8/12 pi)) / 2."""
    tiny_tree["optimizer"] |= {"schedule": "cosine"}
    config = parse_config(tiny_tree)
    train(config)
    if old:
        saved = checkpoint(config)
        del saved["total_steps"], saved["plan"]["patch"]
        save_checkpoint(Path(config.run.dir), saved)
    tiny_tree["stages"] = [tiny_tree["stages"][0] | {"epochs": 3}]
    train(parse_config(tiny_tree))
    assert "from step 8 on the learning rate is 0.00025; in the step before it was 3.81e-05" in caplog.text
    assert checkpoint(config)["step"] == 12


def test_of_a_rate_that_goes_on_nothing_is_said(tiny_tree: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    tiny_tree["optimizer"] |= {"schedule": "cosine"}
    with pytest.raises(Interrupted):
        train(parse_config(tiny_tree), gate=StopAt(3))
    train(parse_config(tiny_tree | {"data": tiny_tree["data"] | {"keep_mb": 1.0}}))
    assert "keep_mb: 128.0 is now 1.0" in caplog.text  # it was resumed
    assert "learning rate" not in caplog.text


def test_each_batch_is_shared_out_evenly(progressive: dict[str, Any]) -> None:
    progressive["stages"] = [STAGES[0], STAGES[1] | {"batch": 3}]
    config = parse_config(progressive)
    check_shares(config, Ranks())
    with pytest.raises(ConfigError, match=r"stages\.1\.batch: 3 samples cannot be divided evenly among 2 processes"):
        check_shares(config, Ranks(rank=0, count=2))
