"""PSNR and SSIM of blurry input, teacher and student: `python -m distill.evaluate --config configs/quickstart.yaml`.

Under torchrun every rank scores its share of the images.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from distill.command import SignalGate, add_config_arguments, new_parser, read_config, run_command
from distill.config import Config
from distill.networks.student_files import GENERAL_STUDENT, load_student, locate_network
from distill.networks.teacher import build_teacher
from distill.runtime.device import choose_device
from distill.runtime.progress import progress_bar
from distill.runtime.ranks import Ranks
from distill.scoring.evaluation import Evaluation
from distill.scoring.validation import Validation
from distill.training.run_folder import EVALUATION, evaluation_file, stage_file

logger = logging.getLogger(__name__)

EXAMPLE = """example:
  python -m distill.evaluate --config configs/quickstart.yaml --weights runs/quickstart/student_best.pth --csv scores.csv
"""


def evaluate(config: Config, weights: Path | str | None = None, csv: Path | None = None) -> Evaluation:
    """Scores a student file on the configuration's validation images, and writes a CSV file with one line per image.

    `weights` is a file, or a name as in `restore`. It defaults to the student that the last stage wrote. `csv` defaults to
    evaluation.csv in the run folder, or to evaluation_NAME.csv there if `weights` is NAME.pth. Raises FileNotFoundError,
    ImageError and WeightsError. Raises WriteError only after all scores are computed.
    """
    evaluation = _score(config, weights)
    if Ranks.of_environment().first:
        evaluation.write_csv(csv or _csv_of(config, weights))
    return evaluation


def _csv_of(config: Config, weights: Path | str | None) -> Path:
    return Path(config.run.dir) / (EVALUATION if weights is None else evaluation_file(Path(weights).stem))


def _score(config: Config, weights: Path | str | None) -> Evaluation:
    file = Path(config.run.dir) / stage_file(config.stages[-1].name) if weights is None else locate_network(str(weights))
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such student; train one first, or give --weights")
    ranks = Ranks.of_environment()
    device = choose_device(config.run.device, ranks)
    with ranks.connected(device):
        with ranks.first_of_node_first():
            teacher = build_teacher(config.teacher, device)
        student = load_student(file, each_channel=config.teacher.each_channel).to(device)
        validation = Validation(config, teacher, device, ranks, distance=True)
        turns = ranks.turns(len(validation.dataset))  # as many as the rank with the most images has
        with progress_bar(turns, "image", silent=not ranks.first, leave=False) as bar:
            evaluation = validation.evaluate(student, bar.update)
    if ranks.first:
        for bad in validation.skipped.values():
            logger.warning("skipped %s: %s", bad.path, bad.reason)
    return evaluation


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("evaluate", "Scores a student, its blurry input and its teacher.", EXAMPLE)
    add_config_arguments(parser)
    parser.add_argument(
        "--weights",
        metavar="W",
        help=f"a student: a file, or {GENERAL_STUDENT}; or a teacher (default: the student of the last stage)",
    )
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="one row per image (default, in the run folder: evaluation.csv, or evaluation_NAME.csv of --weights NAME.pth)",
    )
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    SignalGate().install()
    config = read_config(arguments)
    evaluation = _score(config, arguments.weights)
    if Ranks.of_environment().first:
        print(evaluation.table())  # before the CSV: an unwritable folder must not cost the scores
        evaluation.write_csv(arguments.csv or _csv_of(config, arguments.weights))


if __name__ == "__main__":
    run_command(main)
