"""On a CPU: bf16 is taken where it pays and is precise, and a run goes on in what it had."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from running import StopAt, checkpoint, records, same_bits
from torch import Tensor

from distill.cache import build_cache, verify_cache
from distill.command import Interrupted
from distill.config import Config, ConfigError, StudyConfig, dump_config, load_config, parse_config
from distill.networks import teacher
from distill.networks.student_files import read_student
from distill.networks.teacher import Teacher
from distill.runtime.ranks import Ranks
from distill.scoring import half_precision
from distill.scoring.teacher_check import check_teacher
from distill.scoring.validation import Validation
from distill.studies.members import Member, in_one_precision, members
from distill.studies.processes import check_unchanged
from distill.train import train
from distill.training.build import CHECK_IMAGES
from distill.training.checkpoint import save_checkpoint
from restormer.weights import load_restormer


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
        for module in (half_precision, teacher):
            monkeypatch.setattr(module, "multiplies_bf16", lambda device: gain is not None)
        return measured

    return become


def chosen(config: Config) -> tuple[str, str]:
    """Of the checkpoint; the student file and the log say the same, and the configuration stays what it was."""
    run, saved = Path(config.run.dir), checkpoint(config)
    assert load_config(run / "config.yaml") == config
    assert saved["config"] == config.model_dump(mode="json")
    of_teacher, student = saved["precisions"]["teacher"], saved["precisions"]["student"]
    said = f"student in {'bf16' if student == 'bf16' else 'fp32'}, teacher in {of_teacher}"
    assert read_student(run / "student_model_v1.pth")[1]["computed_in"] == said
    assert records(run, "start")[-1]["device"].endswith(f"; {said}")
    return of_teacher, student


@pytest.mark.parametrize(("gain", "expected"), [(1.2, ("bf16", "bf16")), (1.19, ("fp32", "off")), (None, ("fp32", "off"))])
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


def test_bf16_is_not_taken_for_a_teacher_that_the_check_would_refuse(
    tiny_config: Callable[..., Config], processor: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(9.0)
    config = tiny_config(teacher={"check": "error"})
    train(config)
    assert chosen(config)[0] == "bf16"
    error = check_teacher(Teacher(load_restormer("embedded"), torch.bfloat16), some_pairs(config)).half_error
    assert error is not None
    monkeypatch.setitem(half_precision.MAX_HALF_ERROR, "bf16", 0.99 * error)
    train(config, fresh=True)
    assert chosen(config)[0] == "fp32"


def some_pairs(config: Config) -> list[tuple[Tensor, Tensor | None]]:
    validation = Validation(config, None, torch.device("cpu"), Ranks())
    return [(blurry, sharp) for _, blurry, sharp in islice(validation.pairs(True), CHECK_IMAGES)]


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
    assert "the student is trained in bf16 (optimizer.amp); on this processor fp32 would be faster" in caplog.text
    assert "teacher.precision: bf16 is many times slower than fp32 on this CPU" in caplog.text
    assert measured == ["timed"] * 4  # of the two beginnings


def test_a_run_that_began_without_a_record_goes_on_in_fp32(
    tiny_config: Callable[..., Config], processor: Callable[..., list[str]]
) -> None:
    processor(None)
    config = tiny_config()
    with pytest.raises(Interrupted):
        train(config, gate=StopAt(3))
    content = checkpoint(config)
    del content["precisions"]
    measured = processor(9.0)
    save_checkpoint(Path(config.run.dir), content)
    train(tiny_config(optimizer={"amp": "bf16"}))  # which had no effect then
    assert (checkpoint(config)["precisions"], measured) == ({"device": "cpu", "teacher": "fp32", "student": "off"}, [])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_cached_mode_has_the_precision_of_its_cache(
    pairs_tree: dict[str, Any], processor: Callable[..., list[str]], precision: str
) -> None:
    """Whatever the run had before: here the other."""
    processor(9.0)
    online, other = pairs_tree["teacher"] | {"mode": "online"}, {"bf16": "fp32", "fp32": "bf16"}[precision]
    with pytest.raises(Interrupted):
        train(parse_config(pairs_tree | {"teacher": online | {"precision": other}}), gate=StopAt(3))
    build_cache(parse_config(pairs_tree | {"teacher": pairs_tree["teacher"] | {"precision": precision}}))
    config = parse_config(pairs_tree)
    train(config)
    assert chosen(config)[0] == precision
    build_cache(config)  # goes on with the cache, and finds nothing to do
    verify_cache(config)


def test_a_finished_run_is_evaluated_again_by_another_processor(
    tiny_config: Callable[..., Config], processor: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    processor(9.0)
    config = tiny_config()
    train(config)
    processor(None)
    with caplog.at_level("INFO"):
        train(config)
    assert "is evaluated again" in caplog.text
    assert "has changed" not in caplog.text


def test_a_study_computes_in_one_precision_and_goes_on(
    tiny_config: Callable[..., Config], processor: Callable[..., list[str]]
) -> None:
    measured, config = processor(9.0), tiny_config()
    (member,) = members(one_variant(config), {"only": in_one_precision(config)})
    assert (member.config.teacher.precision, member.config.optimizer.amp) == ("fp32", "off")
    train(member.config)
    assert measured == []
    check_unchanged([member])
    Path(member.folder, "config.yaml").write_text(dump_config(config_of(member, "auto")))  # as earlier versions wrote it
    check_unchanged([member])
    Path(member.folder, "config.yaml").write_text(dump_config(config_of(member, "bf16")))
    with pytest.raises(ConfigError, match=r"optimizer\.amp: bf16 is now off"):
        check_unchanged([member])


def one_variant(config: Config) -> StudyConfig:
    tree = {"base": "a.yaml", "dir": config.run.dir, "seeds": [0], "match": "steps", "variants": [{"name": "only"}]}
    return StudyConfig.model_validate(tree)


def config_of(member: Member, amp: str) -> Config:
    return member.config.model_copy(update={"optimizer": member.config.optimizer.model_copy(update={"amp": amp})})


def test_a_patch_that_is_larger_than_the_image_is_measured_too(
    tiny_config: Callable[..., Config], processor: Callable[..., list[str]]
) -> None:
    processor(9.0)
    config = tiny_config(data={"patch": 64}, eval={"crop": 24})
    train(config)
    assert chosen(config) == ("bf16", "bf16")


def test_a_cpu_without_the_instructions_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    from distill.runtime.device import multiplies_bf16

    text = "processor: 0\nflags\t\t: fpu sse2 {}\n"
    for flag, expected in (("avx512_bf16", True), ("amx_bf16", True), ("avx512f", False)):
        monkeypatch.setattr(Path, "read_text", lambda self, flag=flag: text.format(flag))
        assert multiplies_bf16(torch.device("cpu")) == expected
    assert not multiplies_bf16(torch.device("cuda"))
