"""A run that was stopped goes on as if it had not been, with what may change changed, and nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import StopAt, checkpoint, finish, records, same_bits, start, wait_until, write_config
from torch import nn

from distill import train as train_command
from distill.cache import build_cache
from distill.command import Interrupted, SignalGate
from distill.config import Config, ConfigError, load_config
from distill.data.triplets import ImageFile
from distill.networks.student import build_student
from distill.runtime import files
from distill.runtime.files import WriteError, locked
from distill.scoring import evaluation
from distill.scoring.half_precision import Precisions
from distill.train import train
from distill.training.checkpoint import save_checkpoint
from distill.training.plan import Plan
from distill.training.resume import read_saved, resume_run, save_run, say_if_count_changed
from distill.training.run_folder import CHECKPOINT
from distill.training.state import new_training_state
from restormer.weights import load_restormer


@pytest.mark.parametrize("looks", [1, 5, 9, 11])  # after step 2, in a validation, after it, after step 6
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_run_goes_on_bit_for_bit(tiny_tree: dict[str, Any], tmp_path: Path, looks: int, workers: int) -> None:
    tiny_tree["optimizer"] |= {"ema": 0.9, "schedule": "cosine", "warmup_steps": 2}
    tiny_tree["data"]["workers"] = workers
    straight = Config.model_validate(tiny_tree)
    train(straight)
    tiny_tree["run"] = tiny_tree["run"] | {"dir": str(tmp_path / "stopped")}
    stopped = Config.model_validate(tiny_tree)
    with pytest.raises(Interrupted):
        train(stopped, gate=StopAt(looks))
    assert 0 < checkpoint(stopped)["step"] < 8
    train(stopped)
    assert same_bits(checkpoint(straight), checkpoint(stopped))
    for key in ("step", "plan", "best", "validated_step", "teacher_failed"):
        assert checkpoint(straight)[key] == checkpoint(stopped)[key]
    assert records(straight.run.dir, "val") == records(stopped.run.dir, "val")


@pytest.mark.parametrize("on_missing", ["error", "compute"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_cached_run_goes_on_bit_for_bit(
    pairs_tree: dict[str, Any], tmp_path: Path, on_missing: str, workers: int
) -> None:
    """Whether the cache was there or is filled by the run, half of it before it was stopped."""
    pairs_tree["data"]["workers"] = workers
    results = []
    for name in ("straight", "stopped"):
        pairs_tree["run"] = pairs_tree["run"] | {"dir": str(tmp_path / name)}
        cache = str(tmp_path / f"cache of {name}")
        pairs_tree["teacher"] = pairs_tree["teacher"] | {"cache": cache, "on_missing": on_missing}
        config = Config.model_validate(pairs_tree)
        if on_missing == "error":
            build_cache(config)
        if name == "stopped":
            with pytest.raises(Interrupted):
                train(config, gate=StopAt(0))
            assert checkpoint(config)["step"] == 1
        train(config)
        results.append(checkpoint(config))
    assert same_bits(*results)


def test_lines_after_the_checkpoint_are_cut(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    with pytest.raises(Interrupted):
        train(config, gate=StopAt(4))
    log = Path(config.run.dir) / "metrics.jsonl"
    with log.open("a") as file:
        file.write('{"kind": "train", "step": 7, "loss": 9.0}\n{"kind": "tr')  # written after the checkpoint, and torn
    train(config)
    lines = records(config.run.dir, "train")
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert not any(line.get("loss") == 9.0 for line in lines)


def test_a_finished_run_prints_its_table_again(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    assert train(config).images == train(config).images
    assert checkpoint(config)["step"] == 8


def test_fresh_starts_over_and_leaves_foreign_files_alone(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    train(config)
    (Path(config.run.dir) / "notes.txt").write_text("mine")
    with pytest.raises(Interrupted):
        train(config, fresh=True, gate=StopAt(2))
    assert checkpoint(config)["step"] == 3
    assert not (Path(config.run.dir) / "student_model_v1.pth").exists()
    assert (Path(config.run.dir) / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("key", "name"), [("student", "init"), ("teacher", "weights")])
def test_fresh_does_not_remove_what_the_run_begins_with(tiny_config: Callable[..., Config], key: str, name: str) -> None:
    folder = Path(tiny_config().run.dir)
    train(tiny_config())
    if key == "teacher":
        torch.save(load_restormer("embedded").state_dict(), folder / "student_best.pth")
    with pytest.raises(ConfigError, match=rf"{key}\.{name}: .* is what --fresh would remove"):
        train(tiny_config(**{key: {name: str(folder / ".." / folder.name / "student_best.pth")}}), fresh=True)
    assert (folder / "student_best.pth").is_file()


def test_a_run_goes_on_without_the_file_it_began_with(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    train(tiny_config(run={"dir": str(tmp_path / "first")}))
    start_from = tmp_path / "start.pth"
    (tmp_path / "first" / "student_best.pth").rename(start_from)
    config = tiny_config(run={"dir": str(tmp_path / "second")}, student={"init": str(start_from)})
    with pytest.raises(Interrupted):
        train(config, gate=StopAt(2))
    start_from.unlink()
    train(config)
    assert checkpoint(config)["step"] == 8


@pytest.mark.parametrize("wrong", [{"teacher": {"weights": "none.pth"}}, {"data": {"sharp": "nowhere"}}])
def test_fresh_with_a_mistake_keeps_the_run_that_is_there(tiny_config: Callable[..., Config], wrong: dict[str, Any]) -> None:
    config = tiny_config()
    train(config)
    before = sorted(Path(config.run.dir).iterdir())
    with pytest.raises(FileNotFoundError):
        train(tiny_config(**wrong), fresh=True)
    assert sorted(Path(config.run.dir).iterdir()) == before


def test_a_second_signal_in_the_middle_of_a_step_saves_nothing(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What such a step has changed, and what not yet, is unknown."""
    config, gate = tiny_config(), SignalGate()
    gate.install()

    def interrupted_twice(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # the first only leaves a note
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(train_command, "training_step", interrupted_twice)
    with pytest.raises(Interrupted) as stop:
        train(config, gate=gate)
    assert not stop.value.between_steps
    assert not (Path(config.run.dir) / "student_checkpoint.pth").exists()


def test_one_run_at_a_time_writes_a_folder(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    with locked(Path(config.run.dir)), pytest.raises(WriteError, match="another process is writing there"):
        train(config)
    assert [path.name for path in Path(config.run.dir).iterdir()] == [".lock"]
    train(config)


def test_a_checkpoint_beyond_the_last_stage_is_refused(tiny_config: Callable[..., Config]) -> None:
    train(tiny_config())
    with pytest.raises(ConfigError, match=r"checkpoint of step 8, but stages now end at 4"):
        train(tiny_config(stages=[{"name": "v1", "epochs": 1}]))


def test_another_students_checkpoint_is_refused(tiny_config: Callable[..., Config]) -> None:
    train(tiny_config())
    with pytest.raises(ConfigError, match=r"student\.width: 4 is now 8.*--fresh"):
        train(tiny_config(student={"width": 8}))


def test_the_student_is_compiled_in_place_and_compiling_may_change_on_resume(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    with pytest.raises(Interrupted):
        train(tiny_config(), gate=StopAt(4))
    assert not compiled
    train(tiny_config(student={"compile": True}))
    assert [type(module).__name__ for module in compiled] == ["UNet"]


def changed(tree: dict[str, Any], **sections: dict[str, Any]) -> Config:
    return Config.model_validate({**tree, **{name: {**tree[name], **keys} for name, keys in sections.items()}})


def test_what_may_change_changes_and_is_said(tiny_tree: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Interrupted):
        train(changed(tiny_tree), gate=StopAt(2))
    config = changed(tiny_tree, optimizer={"lr": 5e-4, "ema": 0.9}, run={"log_steps": 1}, data={"workers": 1})
    train(config)
    assert checkpoint(config)["step"] == 8
    assert [line["lr"] for line in records(config.run.dir, "train")] == [1e-3] + 5 * [5e-4]
    for change in ("optimizer.lr: 0.001 is now 0.0005", "optimizer.ema: None is now 0.9", "run.log_steps: 2 is now 1"):
        assert change in caplog.text


def test_another_batch_size_goes_on_with_the_next_sample(
    tiny_tree: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 images an epoch, two epochs: three steps of 4, and the other 20 images in steps of 2; stopped and changed once more."""
    seen: list[str] = []
    prepare = train_command.make_images

    def watched(batch: Any, *rest: Any) -> Any:
        seen.extend(batch.names)
        return prepare(batch, *rest)

    monkeypatch.setattr(train_command, "make_images", watched)
    straight = changed(tiny_tree, run={"dir": tiny_tree["run"]["dir"] + "_straight"})
    train(straight)
    expected, seen = seen, []
    with pytest.raises(Interrupted):
        train(changed(tiny_tree), gate=StopAt(2))
    with pytest.raises(Interrupted):
        train(changed(tiny_tree, data={"batch": 2}), gate=StopAt(0))
    config = changed(tiny_tree, data={"batch": 2})
    train(config)
    assert seen == expected
    assert [line["step"] for line in records(config.run.dir, "val")] == [5, 13]  # where the epochs end
    assert "data.batch: 4 is now 2" in caplog.text
    assert "from step 3 on a step takes 2 samples, not 4" in caplog.text


@pytest.mark.parametrize("sections", [{"optimizer": {"lr": 5e-4}}, {"teacher": {"mode": "none"}}, {"augment": {"flip": False}}])
def test_a_finished_run_refuses_what_would_have_trained_another_student(
    tiny_tree: dict[str, Any], sections: dict[str, dict[str, Any]]
) -> None:
    if "teacher" in sections:
        tiny_tree["stages"][0]["kd"] = 0
    train(changed(tiny_tree))
    (section,) = sections
    with pytest.raises(ConfigError, match=rf"holds a finished run, and would train nothing with {section}\..*run\.dir"):
        train(changed(tiny_tree, **sections))
    longer = changed(tiny_tree, **sections)
    longer = longer.model_copy(update={"stages": [longer.stages[0].model_copy(update={"epochs": 3})]})
    train(longer)
    assert checkpoint(longer)["step"] == 12


def test_a_finished_run_is_evaluated_in_another_way(tiny_tree: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    train(changed(tiny_tree))
    with caplog.at_level("INFO"):
        assert len(train(changed(tiny_tree, eval={"images": 2}, teacher={"micro_batch": 1})).images) == 2
    assert "the run is finished" in caplog.text


@pytest.mark.parametrize("crop", [64, 32])
def test_the_best_student_gives_way_to_a_better_one_on_the_same_images_alone(tiny_tree: dict[str, Any], crop: int) -> None:
    """With crops of 64, as before, nothing is better than 99 dB; of other crops that score says nothing."""
    config = changed(tiny_tree)
    with pytest.raises(Interrupted):
        train(config, gate=StopAt(12))  # in the second epoch
    save_checkpoint(Path(config.run.dir), checkpoint(config) | {"best": ["psnr", 99.0]})
    best = Path(config.run.dir) / "student_best.pth"
    best.unlink()
    train(changed(tiny_tree, eval={"crop": crop}))
    assert best.exists() == (crop == 32)


def test_the_loss_scale_goes_on(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config, plan = tiny_config(), Plan.of(tiny_config(), 16)
    first, second = (
        new_training_state(build_student(config.student, config.run.seed), config.optimizer, torch.device("cpu"))
        for _ in range(2)
    )
    first.scaler, second.scaler = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (1024.0, 65536.0))
    first.step = 1
    save_run(tmp_path, first, plan, None, config, Precisions("cpu", "fp32", "off"), [])
    saved = read_saved(tmp_path)
    assert saved is not None
    assert resume_run(saved, tmp_path, second, 16, None, config) == plan
    assert second.scaler.get_scale() == 1024


def test_a_checkpoint_of_something_else_is_refused(tiny_config: Callable[..., Config]) -> None:
    folder = Path(tiny_config().run.dir)
    folder.mkdir()
    save_checkpoint(folder, {"format": "another"})
    with pytest.raises(ConfigError, match="not a checkpoint of this version"):
        train(tiny_config())


@pytest.mark.parametrize(("key", "value"), [("run", {"seed": 1}), ("student", {"width": 8}), ("student", {"residual": False})])
def test_what_makes_it_another_run_is_refused_by_name(tiny_tree: dict[str, Any], key: str, value: dict[str, Any]) -> None:
    with pytest.raises(Interrupted):
        train(changed(tiny_tree), gate=StopAt(0))
    with pytest.raises(ConfigError, match=rf"another run \({key}\.{next(iter(value))}: .*--fresh"):
        train(changed(tiny_tree, **{key: value}))


# Signals.


def test_a_second_sigterm_waits_as_the_first_does(tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler sends one to every process, and a launcher passes on its own."""
    config, gate = tiny_config(), SignalGate()
    gate.install()
    step = train_command.training_step

    def terminated_twice(*arguments: Any) -> Any:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        return step(*arguments)

    monkeypatch.setattr(train_command, "training_step", terminated_twice)
    with pytest.raises(Interrupted) as stop:
        train(config, gate=gate)
    assert stop.value.signum == signal.SIGTERM
    assert checkpoint(config)["step"] == 1


def test_a_signal_during_validation_ends_it_and_it_is_repeated(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, gate = tiny_config(), SignalGate()
    gate.install()
    scored: list[int] = []
    psnr = evaluation.psnr

    def terminated(*images: Any) -> float:
        scored.append(1)
        if len(scored) == 4:  # blurry, teacher, student of the first image; blurry of the second
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        return psnr(*images)

    monkeypatch.setattr(evaluation, "psnr", terminated)
    with pytest.raises(Interrupted):
        train(config, gate=gate)
    assert len(scored) == 6  # the second image, of six, is the last
    assert checkpoint(config)["step"] == 4
    assert records(config.run.dir, "val") == []
    train(config)
    assert [line["step"] for line in records(config.run.dir, "val")] == [4, 8]


def test_a_signal_during_saving_lets_it_finish_and_saves_once(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, gate = tiny_config(), SignalGate()
    gate.install()
    written: list[Path] = []
    write = files.write_bytes

    def terminated(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == CHECKPOINT:
            written.append(path)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        write(path, *arguments, **options)

    monkeypatch.setattr(files, "write_bytes", terminated)
    with pytest.raises(Interrupted):
        train(config, gate=gate)
    assert len(written) == 1
    assert checkpoint(config)["step"] == 4


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_ends_with_its_status_and_the_run_goes_on(
    tiny_tree: dict[str, Any], tmp_path: Path, signum: int
) -> None:
    """As from a shell: the signal goes to the whole process group, workers included."""
    file = write_config(tiny_tree, tmp_path / "tiny.yaml")
    process = start("train", file, "data.workers=1", "run.log_steps=1", "stages.0.epochs=500")
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count('"train"') >= 3, process)
    os.killpg(process.pid, signum)
    said = finish(process, status=128 + signum)
    assert "Traceback" not in said
    assert "the same command goes on from there" in said
    step = torch.load(tmp_path / "run" / "student_checkpoint.pth", weights_only=True)["step"]
    assert step >= 3
    config = load_config(file, ["run.log_steps=1", f"stages.0.epochs={step // 4 + 1}"])
    train(config)
    assert checkpoint(config)["step"] == (step // 4 + 1) * 4


@pytest.mark.parametrize("recorded", [True, False])
def test_a_folder_that_has_grown_is_said(caplog: pytest.LogCaptureFixture, recorded: bool) -> None:
    """Versions that recorded no number of images read no GIF."""
    images = [ImageFile(name, Path(f"{name}.PNG")) for name in "abc"]
    content = {"images": 3} if recorded else {}
    say_if_count_changed(content, images)
    assert caplog.messages == []
    say_if_count_changed(content, [*images, ImageFile("d", Path("d.gif"))])
    assert caplog.messages == ["the run goes on with 4 training images, not the 3 of its checkpoint"]
