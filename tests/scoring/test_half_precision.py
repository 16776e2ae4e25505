"""On a CPU: bf16 is taken where it pays and is precise, and a run goes on in what it had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import StopAt, checkpoint, same_bits

from distill.cache import build_cache, verify_cache
from distill.command import Interrupted
from distill.config import Config, load_config, parse_config
from distill.networks.student_files import read_student
from distill.scoring import half_precision
from distill.train import train
from distill.training.checkpoint import save_checkpoint


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`processor(gain)`: bf16 is `gain` times as fast; `None`: there are no instructions for it. Returns the list that
    each measurement adds to."""
    measured: list[str] = []

    def become(gain: float | None) -> list[str]:
        def timed(full: Callable[[], object], half: Callable[[], object]) -> float:
            measured.append("timed")
            assert gain is not None
            return gain

        monkeypatch.setattr(half_precision, "_gain", timed)
        monkeypatch.setattr(half_precision, "multiplies_bf16", lambda device: gain is not None)
        return measured

    return become


def chosen(config: Config) -> tuple[str, str]:
    """Of the checkpoint; of the run folder's configuration and the student file, which say the same."""
    run = Path(config.run.dir)
    resolved = load_config(run / "config.yaml")
    found = resolved.teacher.precision, resolved.optimizer.amp
    saved = checkpoint(config)["config"]
    assert found == (saved["teacher"]["precision"], saved["optimizer"]["amp"])
    about = read_student(run / "student_model_v1.pth")[1]
    assert resolved.model_dump_json() == about["config"]
    return found


@pytest.mark.parametrize(("gain", "expected"), [(1.2, ("bf16", "bf16")), (1.19, ("fp32", "off")), (None, ("auto", "auto"))])
def test_bf16_is_taken_where_it_pays(
    tiny_config: Callable[..., Config], processor: Callable[..., list[str]], gain: float | None, expected: tuple[str, str]
) -> None:
    measured, config = processor(gain), tiny_config()
    train(config)
    assert chosen(config) == expected
    assert len(measured) == (0 if gain is None else 2)


def test_bf16_is_not_taken_where_it_is_not_precise(
    tiny_config: Callable[..., Config], processor: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(9.0)
    monkeypatch.setattr(half_precision, "MAX_GRADIENT_ERROR", 1e-9)
    monkeypatch.setitem(half_precision.MAX_HALF_ERROR, "bf16", 1e-9)
    config = tiny_config()
    train(config)
    assert chosen(config) == ("fp32", "off")


def test_what_was_given_is_not_measured(tiny_config: Callable[..., Config], processor: Callable[..., list[str]]) -> None:
    measured = processor(9.0)
    config = tiny_config(teacher={"precision": "fp32"}, optimizer={"amp": "bf16"})
    train(config)
    assert (chosen(config), measured) == (("fp32", "bf16"), [])


def test_a_run_goes_on_in_what_it_had_and_ends_with_the_same_bits(
    tiny_config: Callable[..., Config], processor: Callable[..., list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    processor(9.0)
    straight = tiny_config()
    train(straight)
    stopped = tiny_config(run={"dir": str(tmp_path / "stopped")})
    with pytest.raises(Interrupted):
        train(stopped, gate=StopAt(3))
    measured = processor(None)
    train(stopped)
    assert same_bits(checkpoint(straight), checkpoint(stopped))
    assert chosen(stopped) == ("bf16", "bf16")
    assert "goes on in bf16, as it began; on this processor fp32 would be faster" in caplog.text
    assert measured == ["timed"] * 4  # of the two beginnings


def test_a_run_that_began_without_a_record_goes_on_in_fp32(
    tiny_config: Callable[..., Config], processor: Callable[..., list[str]]
) -> None:
    processor(None)
    config = tiny_config()
    with pytest.raises(Interrupted):
        train(config, gate=StopAt(3))
    content = checkpoint(config)
    assert content["config"]["optimizer"]["amp"] == "auto"
    measured = processor(9.0)
    save_checkpoint(Path(config.run.dir), content)
    train(config)
    assert (chosen(config), measured) == (("auto", "auto"), [])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_cached_mode_has_the_precision_of_its_cache(
    pairs_tree: dict[str, Any], processor: Callable[..., list[str]], precision: str
) -> None:
    processor(9.0)
    build_cache(parse_config(pairs_tree | {"teacher": pairs_tree["teacher"] | {"precision": precision}}))
    config = parse_config(pairs_tree)
    train(config)
    assert chosen(config) == (precision, "bf16")
    build_cache(config)  # goes on with the cache, and finds nothing to do
    verify_cache(config)


def test_a_cpu_without_the_instructions_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    from distill.runtime.device import multiplies_bf16

    text = "processor: 0\nflags\t\t: fpu sse2 {}\n"
    for flag, expected in (("avx512_bf16", True), ("amx_bf16", True), ("avx512f", False)):
        monkeypatch.setattr(Path, "read_text", lambda self, flag=flag: text.format(flag))
        assert multiplies_bf16(torch.device("cpu")) == expected
    assert not multiplies_bf16(torch.device("cuda"))
