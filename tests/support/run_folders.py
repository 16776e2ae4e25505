"""Run folders made by hand, in a second, for tests of what is read from them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from distill.config import Config, dump_config, parse_config
from distill.networks.student import build_student
from distill.networks.student_files import save_student
from distill.scoring.evaluation import ROWS, Evaluation, Fidelity, Score
from distill.synthesis.dead_leaves import dead_leaves

BEGAN = 1_790_000_000.0
SECONDS_PER_STEP = 0.5
STEPS, LOG_STEPS, EPOCH = 40, 2, 10


def validation_images(folder: Path, names: Sequence[str]) -> Path:
    """Sharp synthetic images of 96x88 pixels."""
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        Image.fromarray(dead_leaves(96, np.random.default_rng(index))[:88]).save(folder / f"{name}.png")
    return folder


def make_run(folder: Path, sharp: Path, **sections: Any) -> Config:
    """A complete run: config.yaml, metrics.jsonl, evaluation.csv and a student that changes its input."""
    data = {"sharp": str(sharp), "val": {"sharp": str(sharp)}}
    degrade = [{"kind": "gaussian_blur", "sigma": [0.8, 2.4]}]
    config = _write_config(folder, data, {"degrade": degrade} | sections)
    write_records(folder, training_records(config.teacher.mode != "none"))
    write_evaluation(folder, {name: (25.0, 29.0, 25.5 + index - 1) for index, name in enumerate(_names(sharp))})
    return config


def make_run_without_sharp(folder: Path, blurry: Path, **sections: Any) -> Config:
    """The same of a run of which nobody has sharp images."""
    config = _write_config(folder, {"sharp": None, "blurry": str(blurry), "val": {"blurry": str(blurry)}}, sections)
    write_records(folder, records_without_sharp())
    write_fidelity(folder, {name: 0.9 - index / 10 for index, name in enumerate(_names(blurry))})
    return config


def make_mixed_run(folder: Path, sharp: Path, blurry: Path, **sections: Any) -> Config:
    """The same of a run that has sharp images of some of its images."""
    sources = [{"sharp": str(sharp)}, {"blurry": str(blurry)}]
    data = {"sources": [sources[0], sources[1] | {"parts": 3}], "val": {"sources": sources}}
    degrade = [{"kind": "gaussian_blur", "sigma": [0.8, 2.4]}]
    config = _write_config(folder, data, {"degrade": degrade} | sections)
    alone = {record["step"]: record for record in records_without_sharp() if record["kind"] == "val"}
    write_records(folder, [record | (alone[record["step"]] if record["kind"] == "val" else {}) for record in training_records()])
    with_sharp = {f"0/{name}": (25.0, 29.0, 25.5 + index - 1) for index, name in enumerate(_names(sharp))}
    write_fidelity(folder, {f"1/{name}": 0.9 - index / 10 for index, name in enumerate(_names(blurry))}, with_sharp)
    return config


def _write_config(folder: Path, data: dict[str, Any], sections: dict[str, Any]) -> Config:
    """Writes config.yaml and the student."""
    tree: dict[str, Any] = {
        "run": {"dir": str(folder), "device": "cpu"},
        "data": {"patch": 32, "batch": 4, "workers": 0, **data},
        "teacher": {"mode": "online", "weights": "embedded"},
        "student": {"arch": "unet", "width": 4, "depth": 2, "norm": "none"},
        "stages": [{"name": "v1", "epochs": 4}],
        "eval": {"crop": 80},
    }
    config = parse_config(tree | sections)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config))
    student = build_student(config.student, config.run.seed)
    torch.manual_seed(1)
    torch.nn.init.normal_(student.final.weight, std=0.02)  # type: ignore[union-attr, arg-type]
    save_student(folder / "student_model_v1.pth", student, config.student)
    return config


def _names(images: Path) -> list[str]:
    return [path.stem for path in sorted(images.glob("*.png"))]


def training_records(teacher: bool = True) -> list[dict[str, Any]]:
    """Of STEPS steps, each of SECONDS_PER_STEP, with a validation at every EPOCH."""
    records: list[dict[str, Any]] = [{"kind": "start", "step": 0, "time": BEGAN, "total_steps": STEPS, "device": "a CPU"}]
    for step in range(LOG_STEPS, STEPS + 1, LOG_STEPS):
        l1, time = 0.03 + 0.03 * math.exp(-step / 10), BEGAN + step * SECONDS_PER_STEP
        terms = {"l1": l1, "loss": 2 * l1} | ({"kd": l1} if teacher else {})
        rate = {"images_per_s": 4 / SECONDS_PER_STEP, "rejected_updates": 0}
        records.append({"kind": "train", "step": step, "time": time, "stage": "v1", "epoch": step // EPOCH, **terms, **rate})
        if step % EPOCH == 0:
            scores = {"blurry_psnr": 25.0, "blurry_ssim": 0.8, "student_psnr": 25.5 + step / 80, "student_ssim": 0.85}
            scores |= {"teacher_psnr": 29.0, "teacher_ssim": 0.95} if teacher else {}
            records.append({"kind": "val", "step": step, **scores})
    return records


def records_without_sharp() -> list[dict[str, Any]]:
    """The same of a run of which nobody has sharp images: no l1, and validations that compare with the teacher."""
    records = [{key: value for key, value in record.items() if key != "l1"} for record in training_records()]
    for place, record in enumerate(records):
        if record["kind"] == "val":
            step = record["step"]
            scores = {"blurry_to_teacher_psnr": 28.0, "blurry_to_teacher_ssim": 0.9, "student_to_teacher_ssim": 0.95}
            scores |= {"student_to_teacher_psnr": 28.0 + step / 10, "reproduced": step / (STEPS + EPOCH)}
            records[place] = {"kind": "val", "step": step, **scores}
    return records


def write_records(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def write_evaluation(folder: Path, psnr: dict[str, tuple[float, float, float]]) -> None:
    """PSNR of blurry input, teacher and student by image name."""
    rows = ("Blurry", "Teacher", "Student")
    lines = [",".join(["Image", *(f"SSIM ({row})" for row in rows), *(f"PSNR ({row})" for row in rows)])]
    for name, values in psnr.items():
        quoted = '"' + name.replace('"', '""') + '"'
        lines.append(",".join([quoted, "0.8", "0.95", "0.85", *(f"{value:.2f}" for value in values)]))
    (folder / "evaluation.csv").write_text("\n".join(lines) + "\n")


def write_fidelity(
    folder: Path, share: dict[str, float | None], psnr: dict[str, tuple[float, float, float]] | None = None
) -> None:
    """The share of the teacher's correction that is reproduced, by name of an image without a sharp one; None if the teacher
    changes nothing. `psnr` of the images that have a sharp one is as in `write_evaluation`."""
    images = {
        name: {row: Score(value, 0.9) for row, value in zip(ROWS, values, strict=True)} for name, values in (psnr or {}).items()
    }
    fidelity = {
        name: Fidelity(Score(28.0, 0.9), Score(32.0, 0.95), 0.0 if value is None else 1.0, 0.0 if value is None else 1 - value)
        for name, value in share.items()
    }
    Evaluation(images, fidelity=fidelity).write_csv(folder / "evaluation.csv")
