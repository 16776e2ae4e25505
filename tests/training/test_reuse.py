"""One image of the teacher for several steps: which steps use it, how it is turned, and that an interruption changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import StopAt, checkpoint, records, same_bits
from torch import Tensor, nn

from distill.command import Interrupted
from distill.config import Config, ConfigError, parse_config
from distill.data.datasets import TrainingPatches
from distill.data.loader import training_loader
from distill.networks.teacher import Teacher, build_teacher
from distill.train import train
from distill.training import build
from distill.training.plan import Plan, Stretch
from distill.training.step import make_images

STAGES = [{"name": "a", "epochs": 2}, {"name": "b", "epochs": 1}]


def test_steps_of_a_group_have_one_position(tiny_config: Callable[..., Config]) -> None:
    plan = Plan.of(tiny_config(data={"batch": 8}, teacher={"reuse": 4}, stages=STAGES), 24)
    (stretch,) = plan.stretches
    assert [stretch.position_at(step) for step in range(9)] == [0, 0, 0, 0, 8, 8, 8, 8, 16]
    assert [stretch.repeat_at(step) for step in range(9)] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert [sum(load.batches for load in plan.loads_from(step)) for step in range(10)] == [3, 3, 3, 3, 2, 2, 2, 2, 1, 0]
    assert plan.total_steps == 9


@pytest.mark.parametrize(("step", "position"), [(4, 8), (5, 16)])
def test_another_reuse_begins_with_fresh_samples(step: int, position: int) -> None:
    """The group that step 5 is in the middle of ends there: none of its samples comes again."""
    plan = Stretch(32, 8, 3, reuse=4).changed(step, 32, 8, 3, reuse=2)
    assert [plan.position_at(step + n) for n in range(4)] == [position, position, position + 8, position + 8]
    assert plan.repeat_at(step) == 0


@pytest.fixture
def reusing(tiny_config: Callable[..., Config]) -> Callable[..., Config]:
    def make(**sections: dict[str, Any]) -> Config:
        sections["teacher"] = {"reuse": 4} | sections.get("teacher", {})
        return tiny_config(**sections)

    return make


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_teacher_is_asked_once_for_each_group(
    reusing: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    asked: list[int] = []

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, image: Tensor) -> Tensor:
            asked.append(len(image))
            return image

    monkeypatch.setattr(build, "build_teacher", lambda *arguments: Teacher(Counts()))
    config = reusing(optimizer={"accumulate": accumulate}, eval={"every_epochs": 2})
    train(config)
    in_training = asked[:-6]  # and once for each of six validation images
    assert in_training == [4 // accumulate] * (2 * accumulate)  # 8 steps are 2 groups


def test_every_use_is_another_turn_of_the_same_images(reusing: Callable[..., Config]) -> None:
    """By name, each sample's images are turned together, and the first use is what it would be without reuse."""
    config, plain = reusing(), reusing(teacher={"reuse": 1})
    teacher = build_teacher(config.teacher, torch.device("cpu"))
    batch, alone = (next(training_loader(TrainingPatches(c), 0, 1, pin=False)) for c in (config, plain))
    first, expected = (make_images(b, teacher, config.stages[0], config) for b in (batch, alone))
    uses = [first.turned_again(batch, repeat, config.augment) for repeat in range(4)]
    for name in ("sharp", "blurry", "target"):
        assert torch.equal(getattr(uses[0], name), getattr(expected, name))
    turns = [lambda x, k=k, flip=flip: torch.rot90(x.flip(-1) if flip else x, k, (-2, -1)) for k in range(4) for flip in (0, 1)]
    found = []
    for use in uses[1:]:
        for sample in range(4):
            before, after = ([getattr(images, name)[sample] for name in ("sharp", "blurry", "target")] for images in (first, use))
            same = [n for n, turn in enumerate(turns) if all(torch.equal(turn(x), y) for x, y in zip(before, after, strict=True))]
            assert len(same) == 1
            found += same
    assert len({*found}) > 3  # not always the same turn


@pytest.mark.parametrize("looks", [1, 2, 6])  # in the middle of the first group, and of the second
def test_a_run_stopped_between_two_uses_goes_on_bit_for_bit(tiny_tree: dict[str, Any], tmp_path: Path, looks: int) -> None:
    tiny_tree["teacher"]["reuse"] = 3
    tiny_tree["eval"]["every_epochs"] = 2
    straight = parse_config(tiny_tree)
    train(straight)
    stopped = parse_config(tiny_tree | {"run": tiny_tree["run"] | {"dir": str(tmp_path / "stopped")}})
    with pytest.raises(Interrupted):
        train(stopped, gate=StopAt(looks))
    assert 0 < checkpoint(stopped)["step"] < 8
    train(stopped)
    assert same_bits(checkpoint(straight), checkpoint(stopped))
    assert records(straight.run.dir, "val") == records(stopped.run.dir, "val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": {"mode": "none", "reuse": 2}, "stages": [{"name": "s", "epochs": 1, "kd": 0.0}]}, "teacher.mode: none"),
        ({"stages": [{"name": "s", "epochs": 1}, {"name": "t", "epochs": 1, "kd": 0.0}]}, "saves nothing in stages.1"),
    ],
)
def test_where_it_does_nothing_it_is_refused(tiny_tree: dict[str, Any], change: dict[str, Any], message: str) -> None:
    tiny_tree["teacher"]["reuse"] = 2
    with pytest.raises(ConfigError, match=f"teacher.reuse: 2 .*{message}"):
        parse_config(tiny_tree | change)


def test_with_a_cache_it_is_refused(pairs_tree: dict[str, Any]) -> None:
    pairs_tree["teacher"]["reuse"] = 2
    with pytest.raises(ConfigError, match=r"teacher.reuse: 2 does nothing with teacher.mode: cached"):
        parse_config(pairs_tree)
