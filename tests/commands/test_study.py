"""A study trains, scores and compares; stopped at any moment, it goes on; what goes wrong is named with variant and seed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import ROOT, TrainHere, same_bits, wait_until, write_config, write_pilot

from distill import study as study_command
from distill.config import Config, ConfigError, StudyConfig, load_study
from distill.runtime.files import WriteError, locked
from distill.studies import processes
from distill.studies.matching import Pilot, measure
from distill.studies.members import variant_configs
from distill.study import run_study


@pytest.fixture
def study_tree(tiny_tree: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Two variants of the tiny configuration, two seeds, matched by steps."""
    base = write_config(tiny_tree, tmp_path / "base.yaml")
    variants = [
        {"name": "alone", "set": ["teacher.mode=none", "stages.0.kd=0"]},
        {"name": "taught", "set": ["optimizer.lr=0.003"]},
    ]
    return {"dir": str(tmp_path / "study"), "base": str(base), "seeds": [0, 1], "match": "steps", "variants": variants}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trains in this process instead of in one for each run; lists the titles of what is trained."""
    trained: list[str] = []
    train = processes.Trainers.train

    def listed(trainers: processes.Trainers, title: str, config: Config) -> None:
        trained.append(title)
        train(trainers, title, config)

    monkeypatch.setattr(processes.Trainers, "train", listed)
    monkeypatch.setattr(processes, "Popen", TrainHere)
    return trained


@pytest.fixture
def no_pilots(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a given measure in place of the pilots' runs."""
    monkeypatch.setattr(study_command, "measure", lambda *arguments: Pilot({"v1": 1.0}))


def checkpoints(folder: str | Path) -> dict[str, Any]:
    """The weights and moments of every run of a study."""
    found = sorted(Path(folder).glob("*/seed_*/student_checkpoint.pth"))
    contents = {path.parent: torch.load(path, weights_only=True) for path in found if path.parts[-3] != "pilots"}
    return {f"{run.parent.name}/{run.name}": {k: c[k] for k in ("student", "optimizer")} for run, c in contents.items()}


def start(study: Path, *overrides: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "distill.study", "--config", str(study), *(["--set", *overrides] if overrides else [])]
    return subprocess.Popen(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def test_a_study_that_was_stopped_ends_as_one_that_was_not(study_tree: dict[str, Any], tmp_path: Path, quick: list[str]) -> None:
    """As from a shell: SIGINT in the middle of the second variant's run, which is then continued."""
    study_tree["set"] = ["stages.0.epochs=20", "eval.every_epochs=10", "teacher.mode=none", "stages.0.kd=0"]
    study_tree["variants"] = [{"name": "one"}, {"name": "other", "set": ["optimizer.lr=0.003"]}]
    study_tree["seeds"] = [0]
    straight, stopped = (study_tree | {"dir": str(tmp_path / name)} for name in ("straight", "stopped"))
    for name, config in variant_configs(StudyConfig.model_validate(stopped)).items():  # pilots that are measured already
        measure(name, config, tmp_path / "stopped" / "pilots", lambda title, pilot: write_pilot(pilot, 4.0))
    process = start(write_config(stopped, tmp_path / "stopped.yaml"))
    begun = tmp_path / "stopped" / "other" / "seed_0" / "metrics.jsonl"
    wait_until(lambda: begun.exists() and begun.read_text().count("\n") >= 3, process)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGINT, said
    assert "Traceback" not in said
    assert "stopping variant other, seed 0" in said
    assert "the same command goes on" in (tmp_path / "stopped" / "other" / "seed_0.log").read_text()
    assert json.loads((tmp_path / "stopped" / "study.json").read_text())["variants"][0]["seeds"] == [0]  # what is finished stays

    results = [run_study(StudyConfig.model_validate(tree)) for tree in (stopped, straight)]
    assert [title for title in quick if "pilot" not in title][:1] == ["variant other, seed 0"]
    one, other = checkpoints(tmp_path / "straight"), checkpoints(tmp_path / "stopped")
    assert one.keys() == other.keys() == {"one/seed_0", "other/seed_0"}
    assert same_bits(one, other)
    outcomes, others = ([variant.outcomes for variant in result.variants] for result in results)
    assert outcomes == others


def test_variants_that_differ_in_name_alone_differ_by_nothing(
    study_tree: dict[str, Any], quick: list[str], no_pilots: None
) -> None:
    study_tree["variants"] = [{"name": "one"}, {"name": "other"}]
    result = run_study(StudyConfig.model_validate(study_tree))
    found = result.variants[1].outcomes["validation"].differences
    for score in ("psnr", "ssim"):
        assert (found[score].mean, found[score].low, found[score].high) == (0, 0, 0)


def test_a_variant_that_does_not_learn_is_told_apart(study_tree: dict[str, Any], quick: list[str], no_pilots: None) -> None:
    study_tree["set"] = ["optimizer.lr=0.003", "stages.0.epochs=12", "eval.every_epochs=12", "teacher.mode=none", "stages.0.kd=0"]
    study_tree["seeds"] = [0, 1, 2, 3]
    study_tree["variants"] = [{"name": "learns"}, {"name": "does_not", "set": ["optimizer.lr=1.0e-9"]}]
    result = run_study(StudyConfig.model_validate(study_tree))
    outcome = result.variants[1].outcomes["validation"]
    assert outcome.differences["psnr"].high < 0
    assert outcome.verdict.startswith("6 images cannot stand for others. Worse by ")


def test_what_is_finished_stays_and_a_second_call_trains_nothing(study_tree: dict[str, Any], quick: list[str]) -> None:
    study = StudyConfig.model_validate(study_tree)
    first = run_study(study)
    assert len(quick) == 4 + 3  # and the pilots: of each variant, and of the one with a teacher without it
    quick.clear()
    assert run_study(study) == first
    assert quick == []
    run_study(StudyConfig.model_validate(study_tree | {"seeds": [0, 1, 2]}))
    assert quick == ["variant alone, seed 2", "variant taught, seed 2"]


def test_every_run_is_validated_and_scored_on_the_same_images(
    study_tree: dict[str, Any], quick: list[str], no_pilots: None
) -> None:
    """Their blur does not follow `run.seed`; a set's own `degrade` is what its images are blurred with."""
    harder = {"name": "harder", "set": ["degrade=[{kind: gaussian_blur, sigma: [3, 3]}]"]}
    result = run_study(StudyConfig.model_validate(study_tree | {"validation": [{"name": "same"}, harder]}))
    blurry = {name: [v.outcomes[name].means["blurry"] for v in result.variants] for name in ("same", "harder")}
    assert blurry["same"][0] == blurry["same"][1]
    assert blurry["harder"][0]["psnr"] < blurry["same"][0]["psnr"] - 1
    folder = Path(study_tree["dir"])
    tables = [(folder / "alone" / f"seed_{seed}_same.csv").read_text().splitlines() for seed in (0, 1)]
    assert [line.split(",")[1] for line in tables[0]] == [line.split(",")[1] for line in tables[1]]  # SSIM (Blurry)


def test_a_set_without_sharp_images_compares_students_by_the_teachers(
    study_tree: dict[str, Any], sharp_folder: Path, quick: list[str], no_pilots: None
) -> None:
    mine = {"name": "mine", "set": [f"data.val={{blurry: {sharp_folder}}}"]}
    result = run_study(StudyConfig.model_validate(study_tree | {"seeds": [0], "validation": [mine]}))
    outcome = result.variants[1].outcomes["mine"]
    assert outcome.to_teacher
    assert set(outcome.means) == {"blurry", "student"}
    assert "Better" not in outcome.verdict
    markdown = (Path(study_tree["dir"]) / "study.md").read_text()
    assert "PSNR in dB / SSIM to the teacher's images" in markdown
    assert f"### mine: {len(list(sharp_folder.iterdir()))} images" in markdown
    assert f"min, {result.variants[1].cost.steps} steps |" in markdown
    assert result.variants[1].cost.steps > 0
    assert "Mean difference in PSNR to the teacher&#x27;s images" in (Path(study_tree["dir"]) / "study.html").read_text()


def test_a_variant_begins_with_anothers_student(study_tree: dict[str, Any], quick: list[str], no_pilots: None) -> None:
    study_tree["variants"][1] |= {"after": "alone"}
    run_study(StudyConfig.model_validate(study_tree))
    folder = Path(study_tree["dir"])
    for seed in (0, 1):
        saved = torch.load(folder / "taught" / f"seed_{seed}" / "student_checkpoint.pth", weights_only=True)["config"]
        assert saved["student"]["init"] == str(folder / "alone" / f"seed_{seed}" / "student_model_v1.pth")


def test_a_run_that_fails_is_named_and_stops_no_other(
    study_tree: dict[str, Any],
    call: Callable[..., int],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    no_pilots: None,
) -> None:
    """In processes, two at a time."""
    study_tree["seeds"] = [0]
    study_tree["variants"] = [{"name": "good", "set": ["teacher.mode=none", "stages.0.kd=0"]}, {"name": "bad"}, {"name": "later"}]
    study_tree["variants"][1] |= {"set": ["optimizer.lr=1.0e+30", "optimizer.max_skipped=2", "stages.0.epochs=5"]}  # diverges
    study_tree["variants"][2] |= {"after": "bad"}
    status = call(study_command.main, "--config", write_config(study_tree, tmp_path / "study.yaml"), "--jobs", 2)
    captured = capfd.readouterr()
    assert status == 2
    assert re.search(r"variant bad, seed 0: step \d+: 3 updates in a row were not finite", captured.out)
    assert "variant later, seed 0: bad has failed" in captured.out
    assert "| good | 1 |" in captured.out
    assert "2 runs failed" in captured.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"variants": [{"name": "a", "set": ["optimizer.lrr=1"]}]},
            "variant a: .*optimizer.lrr: unknown key; did you mean optimizer.lr",
        ),
        ({"validation": [{"name": "v", "set": ["data.val=3"]}]}, "validation v: .*data.val"),
        ({"variants": [{"name": "a"}, {"name": "a"}]}, "variants: two have the same name: a"),
        ({"variants": [{"name": "a", "after": "b"}, {"name": "b"}]}, "a comes after b, which must stand above it"),
        (
            {"variants": [{"name": "a"}, {"name": "b", "after": "a"}], "only": ["b"]},
            "only: b comes after a, which must be listed too",
        ),
        ({"variants": [{"name": "a"}, {"name": "b"}], "only": ["c"]}, "only: no variant is called c; there are a, b"),
        ({"seeds": [1, 1]}, "seeds: one is given twice"),
        ({"set": ["run.seed=3"]}, "set: run.seed is given by the study itself; list all seeds as `seeds`"),
        ({"minutes": 2.0}, "minutes is given although match is steps"),
        ({"varaints": []}, "varaints: unknown key; did you mean variants"),
    ],
    ids=str,
)
def test_a_mistake_is_named_before_anything_is_trained(
    study_tree: dict[str, Any], tmp_path: Path, quick: list[str], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_study(load_study(write_config(study_tree | change, tmp_path / "study.yaml")))
    assert quick == []


def test_only_the_named_variants_are_trained_and_compared(
    study_tree: dict[str, Any], tmp_path: Path, quick: list[str], no_pilots: None
) -> None:
    result = run_study(load_study(write_config(study_tree, tmp_path / "study.yaml"), ["only=[taught]", "seeds=[0]"]))
    assert quick == ["variant taught, seed 0"]
    assert [variant.name for variant in result.variants] == ["taught"]


def test_a_run_begun_with_other_settings_is_not_continued(study_tree: dict[str, Any], quick: list[str], no_pilots: None) -> None:
    run_study(StudyConfig.model_validate(study_tree))
    begun = r"variant alone, seed 0: .* begun with: data.patch: 32 is now 48; change them back"
    with pytest.raises(ConfigError, match=begun):
        run_study(StudyConfig.model_validate(study_tree | {"set": ["data.patch=48"]}))
    assert run_study(StudyConfig.model_validate(study_tree | {"set": ["data.workers=1"]})).variants  # trains no other student


def test_a_pilot_that_fails_is_named_and_stops_no_other_variant(
    study_tree: dict[str, Any], quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its measure a variant cannot be matched by time, and nor can one that begins with its student."""
    study_tree["variants"] += [{"name": "later", "after": "taught"}]

    def pilot(name: str, *arguments: Any) -> Pilot:
        if name == "taught":
            raise processes.RunFailedError("variant taught, pilot: no memory left")
        return Pilot({"v1": 1.0})

    monkeypatch.setattr(study_command, "measure", pilot)
    result = run_study(StudyConfig.model_validate(study_tree | {"match": "time"}))
    assert quick == ["variant alone, seed 0", "variant alone, seed 1"]
    assert [len(variant.seeds) for variant in result.variants] == [2, 0, 0]
    assert result.failures == ["variant taught, pilot: no memory left"]


def test_a_run_that_a_killed_study_left_is_waited_for(
    study_tree: dict[str, Any],
    quick: list[str],
    no_pilots: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    study_tree |= {"seeds": [0], "variants": [{"name": "alone", "set": ["teacher.mode=none", "stages.0.kd=0"]}]}
    left = Path(study_tree["dir"]) / "alone" / "seed_0"
    lock = locked(left)
    lock.__enter__()
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: lock.__exit__(None, None, None))
    result = run_study(StudyConfig.model_validate(study_tree))
    assert f"variant alone, seed 0: another process still trains in {left}" in caplog.text
    assert result.variants[0].seeds == [0]


def test_a_full_disk_is_named_and_what_is_finished_stays(
    study_tree: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    call: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    quick: list[str],
    no_pilots: None,
) -> None:
    """The first variant's runs are done when it fills up."""
    study_tree["variants"] = [{"name": "alone", "set": ["teacher.mode=none", "stages.0.kd=0"]}, {"name": "other"}]
    study_tree["set"] = ["teacher.mode=none", "stages.0.kd=0", "eval.images=1", "stages.0.epochs=1"]
    real = processes.write_bytes

    def full(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "seed_1.yaml" and "other" in path.parts:
            raise WriteError(f"{path}: cannot be written: No space left on device")
        real(path, *arguments, **options)

    monkeypatch.setattr(processes, "write_bytes", full)
    assert call(study_command.main, "--config", write_config(study_tree, tmp_path / "study.yaml")) == 2
    captured = capfd.readouterr()
    assert "1 runs failed" in captured.err
    assert "variant other, seed 1: " in captured.out
    assert "No space left on device" in captured.out
    assert "| alone | 2 |" in captured.out
    assert "| other | 1 |" in captured.out
