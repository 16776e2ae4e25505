"""PSNR and SSIM of blurry input, teacher and student: `python -m distill.evaluate --config configs/quickstart.yaml`.

Under torchrun every rank scores its share of the images.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from distill.command import SignalGate, add_config_arguments, new_parser, read_config, run_command
from distill.config import Config
from distill.engine.device import choose_device
from distill.engine.distributed import Ranks
from distill.engine.progress import progress_bar
from distill.engine.student import load_student
from distill.engine.teacher import build_teacher
from distill.engine.validate import Evaluation, Validation

logger = logging.getLogger(__name__)

EXAMPLE = """example:
  python -m distill.evaluate --config configs/quickstart.yaml --weights runs/quickstart/student_best.pth --csv scores.csv
"""


def evaluate(config: Config, weights: Path | None = None, csv: Path | None = None) -> Evaluation:
    """Scores a student file on the configuration's validation images, and writes one CSV row per image.

    `weights` is by default the model that the last stage wrote; `csv`, the run folder's evaluation.csv. Raises
    FileNotFoundError, ImageError and WeightsError.
    """
    folder = Path(config.run.dir)
    weights = weights or folder / f"student_model_{config.stages[-1].name}.pth"
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: no such student; train one first, or give --weights")
    ranks = Ranks.of_environment()
    device = choose_device(config.run.device, ranks)
    with ranks.connected(device):
        with ranks.first_of_node_first():
            teacher = build_teacher(config.teacher, device)
        student = load_student(weights).to(device)
        validation = Validation(config, teacher, device, ranks, distance=True)
        turns = ranks.turns(len(validation.dataset))
        with progress_bar(turns, "image", silent=not ranks.first, leave=False) as bar:

            def advance() -> None:
                bar.update()

            evaluation = validation.evaluate(student, advance)
    if ranks.first:
        for bad in validation.skipped.values():
            logger.warning("skipped %s: %s", bad.path, bad.reason)
        evaluation.write_csv(csv or folder / "evaluation.csv")
    return evaluation


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("evaluate", "Scores a student against input and teacher.", EXAMPLE)
    add_config_arguments(parser)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a student (default: of the run's last stage)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="one row per image (default: evaluation.csv in the run folder)")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    SignalGate().install()
    evaluation = evaluate(read_config(arguments), arguments.weights, arguments.csv)
    if Ranks.of_environment().first:
        print(evaluation.table())


if __name__ == "__main__":
    run_command(main)
