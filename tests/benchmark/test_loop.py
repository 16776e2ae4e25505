"""The figures of a training loop, and that its parts are those of the loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.benchmark import loop
from distill.benchmark.loop import LoopFigures, measure_loop
from distill.config import Config, parse_config
from distill.data.sources import cached_images


def figures(online: list[float], cached: list[float]) -> LoopFigures:
    parts = {"degrade_augment": [1.0, 2.0, 1.0], "teacher": [6.0, 6.0, 7.0], "student_step": [3.0, 2.0, 2.0]}
    return LoopFigures(batch=4, online=online, cached=cached, fill_ms_per_image=8.0, **parts)


def test_overhead_is_compared_round_by_round() -> None:
    assert figures([11.0, 20.0, 12.0], [4.0] * 3).overhead() == pytest.approx(1.2)  # 1.1, 2.0, 1.2


def test_a_cache_pays_after_as_many_epochs_as_its_images_cost_gains() -> None:
    assert figures([12.0] * 3, [4.0] * 3).break_even_epochs() == pytest.approx(8 / ((12 - 4) / 4))
    assert figures([4.0] * 3, [4.0] * 3).break_even_epochs() == float("inf")


@pytest.mark.parametrize("mode", ["online", "cached"])
def test_a_configuration_of_any_mode_is_measured_online_and_cached(pairs_tree: dict[str, Any], mode: str) -> None:
    pairs_tree["bench"] |= {"rounds": 2, "steps": 4}
    pairs_tree["optimizer"] |= {"accumulate": 2}
    pairs_tree["teacher"] |= {"mode": mode}
    config = parse_config(pairs_tree)
    measured = measure_loop(config, "cpu")
    for name in ("loader", "degrade_augment", "teacher", "student_step", "online", "cached_loader", "cached"):
        assert len(getattr(measured, name)) == 2, name
        assert min(getattr(measured, name)) > 0, name
    assert measured.fill_ms_per_image > 0


def test_pairs_of_several_sources_are_written_whatever_a_batch_has(
    tiny_config: Callable[..., Config], sharp_folder: Path, tmp_path: Path
) -> None:
    """With a batch of one sample, every second batch has no sharp image."""
    sources = [{"blurry": str(sharp_folder)}, {"sharp": str(sharp_folder)}]
    config = tiny_config(data={"sharp": None, "sources": sources, "batch": 1})
    pairs = loop._cached_config(config, tmp_path, torch.device("cpu"))
    images = cached_images(pairs.data)
    assert len(images) == loop.CACHED_IMAGES
    assert all(image.sharp is not None for image in images)


def test_a_step_is_a_step_where_several_use_one_image_of_the_teacher(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(teacher={"mode": "online", "weights": "embedded", "reuse": 3}, bench={"steps": 4})
    calls: list[str] = []

    def counted(name: str) -> None:
        original = getattr(loop, name)
        monkeypatch.setattr(loop, name, lambda *given: calls.append(name) or original(*given))

    def timed(work: Callable[[], object], device: torch.device) -> float:
        work()
        return 120.0

    counted("make_images")
    counted("training_step")
    monkeypatch.setattr(loop, "_timed", timed)
    cpu = torch.device("cpu")
    measured = loop._Loop(config, cpu, loop.build_teacher(config.teacher, cpu))
    with closing(measured.loader):
        assert measured.step_ms() == 120 / 4 / 3
    assert calls[:4] == ["make_images"] + ["training_step"] * 3
    assert calls.count("training_step") == 3 * calls.count("make_images")
