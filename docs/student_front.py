"""Quality against milliseconds of the students that a study compared: a table, and a picture with the front of each form.

python docs/student_front.py configs/study_students.yaml kodak student_front.svg

Milliseconds are of 1x3x512x512 in float32 with all threads that torch has, in torch and in onnxruntime: medians of rounds in
which the students take turns. GFLOP counts a multiplication and an addition as two; MB is what operations that are not fused read
and write. Both bound the time on a GPU.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import matplotlib
import torch
from matplotlib import pyplot
from torch import Tensor

from distill.benchmark.roofline import Cost, cost
from distill.benchmark.workloads import runtime_forward
from distill.command import run_command
from distill.config import UNetConfig, load_config, load_study
from distill.networks.student import build_student
from unet.model import UNet, for_inference

SHAPE, ROUNDS = (1, 3, 512, 512), 9


class Measured(NamedTuple):
    name: str
    block: str
    parameters: int
    cost: Cost
    torch_ms: float
    onnxruntime_ms: float
    psnr: float
    ssim: float


def milliseconds(forwards: list[Callable[[], Tensor]]) -> list[float]:
    """The median of each, measured in turn."""
    times: list[list[float]] = [[] for _ in forwards]
    for forward in forwards:
        forward()  # the first call allocates
    for _ in range(ROUNDS):
        for forward, taken in zip(forwards, times, strict=True):
            start = perf_counter()
            forward()
            taken.append(1e3 * (perf_counter() - start))
    return [median(taken) for taken in times]


def measure(file: str, images: str) -> list[Measured]:
    study = load_study(file)
    variants = json.loads((Path(study.dir) / "study.json").read_text())["variants"]
    image = torch.rand(SHAPE)
    students, forwards = [], []
    for variant in variants:
        config = load_config(study.base, [*study.set, *variant["set"]]).student
        assert isinstance(config, UNetConfig)
        network = build_student(config, seed=0)
        assert isinstance(network, UNet)
        ours, pixels = for_inference(network), image.to(memory_format=torch.channels_last)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        students.append((variant, config.block, parameters, cost(for_inference(network), SHAPE, torch.float32)))
        forwards += [lambda ours=ours, pixels=pixels: ours(pixels), runtime_forward(network.eval(), "onnxruntime", "fp32", image)]
    with torch.inference_mode():
        times = milliseconds(forwards)
    measured = []
    for (variant, block, parameters, needs), in_torch, in_onnxruntime in zip(students, times[::2], times[1::2], strict=True):
        score = variant["outcomes"][images]["means"]["student"]
        measured.append(
            Measured(variant["name"], block, parameters, needs, in_torch, in_onnxruntime, score["psnr"], score["ssim"])
        )
    return sorted(measured, key=lambda each: each.torch_ms)


def draw(path: Path, students: list[Measured]) -> None:
    """A point for each student, and for each form a line through those that no faster one of the form surpasses."""
    matplotlib.rcParams["svg.hashsalt"] = "front"  # the same figures give the same file
    figure, ax = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for block, colour, label_y in (("double_conv", "#8a8a8a", -9), ("residual", "#1f6f8b", 4)):
        of_form = [each for each in students if each.block == block]
        front = [each for n, each in enumerate(of_form) if all(each.psnr > before.psnr for before in of_form[:n])]
        ax.plot([each.torch_ms for each in front], [each.psnr for each in front], color=colour, linewidth=1)
        ax.scatter([each.torch_ms for each in of_form], [each.psnr for each in of_form], color=colour, label=block, s=18)
        for each in of_form:
            ax.annotate(each.name, (each.torch_ms, each.psnr), xytext=(4, label_y), textcoords="offset points", fontsize=7)
    ax.set_xlabel("milliseconds for 512x512")
    ax.set_ylabel("PSNR in dB")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    ax.margins(x=0.2, y=0.12)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    students = measure(sys.argv[1], sys.argv[2])
    print("| student | parameters | GFLOP | MB | torch | onnxruntime | PSNR / SSIM |\n|---|---|---|---|---|---|---|")
    for each in students:
        print(
            f"| `{each.name}` | {each.parameters} | {each.cost.flop / 1e9:.1f} | {each.cost.traffic_bytes / 1e6:.0f}"
            f" | {each.torch_ms:.0f} ms | {each.onnxruntime_ms:.0f} ms | {each.psnr:.2f} / {each.ssim:.4f} |"
        )
    draw(Path(sys.argv[3]), students)


if __name__ == "__main__":
    run_command(main)
