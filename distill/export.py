"""Writes a trained network to one file for use elsewhere: `python -m distill.export --weights W --out student.onnx`.

The suffix chooses the format: `.onnx` for any runtime, `.safetensors` for torch and this project.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import safetensors.torch
from torch import Tensor, nn

from distill.command import SignalGate, new_parser, run_command
from distill.networks.adapters import DTYPES, Adapted, OneChannel
from distill.networks.onnx_export import Deployed, ExportError, check_form, check_onnx, metadata_of, onnx_bytes, require_onnx
from distill.networks.student_files import GENERAL_STUDENT, locate_network, read_student, student_safetensors
from distill.runtime.files import write_bytes
from distill.training.about import about_file, project, without_folders
from restormer.weights import restormer_from_state_dict
from unet.model import UNet
from unet.weights import unet_from_state_dict

logger = logging.getLogger(__name__)

SUFFIXES = (".onnx", ".safetensors")
EXAMPLE = """example:
  python -m distill.export --weights runs/quickstart/student_model_v1.pth --out student.onnx

ONNX: input `blurry` and output `restored` (clamped) are float32 (B, 3, H, W), also with --precision fp16. RGB in [0, 1];
any batch; H and W of at least 16. docs/onnx_example.py restores an image with it, without torch.

The file holds the training configuration, with the last part of each path in it, and what is known of the teacher's licence.
"""


def export(
    weights: Path | str, out: Path | str, precision: Literal["fp32", "fp16"] = "fp32", residual: bool = False
) -> dict[str, float]:
    """Writes a student or a Restormer to `out`. Returns its largest difference from the network in torch, by image shape.

    The shapes are strings such as `3x3x100x75`. If the difference is too large, nothing is written. `weights` is as in `restore`.
    `residual` says that a plain state dict is of a U-Net that adds its input to its output.

    Raises ExportError, WeightsError, FileNotFoundError, ConfigError (the run configuration beside the weights) and WriteError.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise ExportError(f"{out}: the suffix says what to write: {' or '.join(SUFFIXES)}")
    if out.suffix == ".onnx":
        require_onnx()
    path = locate_network(str(weights))
    if out.exists() and out.samefile(path):
        raise ExportError(f"{out}: --out would replace the weights themselves; give another name")
    network, said = read_student(path, residual)
    about = without_folders(about_file(path, network, said)) | {"exported_by": project()}
    if out.suffix == ".onnx":
        data = onnx_bytes(network, precision, metadata_of(network, about, precision))
        differences = check_onnx(data, network, precision)
    elif isinstance(network, Adapted | OneChannel):
        raise ExportError(f"{out}: a .safetensors file holds a U-Net or a Restormer of three channels, and no other network")
    else:
        data = student_safetensors(network, about, DTYPES[precision])
        # The weights in the file may be half precision. The arithmetic of this check is float32.
        differences = check_form(Deployed(_read_back(data, network)), network, precision)
    write_bytes(out, data, durable=True)
    logger.info("%s: %.1f MB, %s; largest difference from torch %.1e", out, len(data) / 1e6, precision, max(differences.values()))
    for name in sorted(key for key in about if key.endswith("_licence")):
        logger.info("%s: %s", name.replace("_", " "), about[name])
    return differences


def _read_back(data: bytes, network: nn.Module) -> nn.Module:
    """The network in a .safetensors file, of the same kind as `network`."""
    state: Mapping[str, Tensor] = safetensors.torch.load(data)
    if isinstance(network, UNet):
        return unet_from_state_dict(state, network.residual).eval()
    return restormer_from_state_dict(state).eval()


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("export", "Writes a trained network as an ONNX or a safetensors file, checked against torch.", EXAMPLE)
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help=f"a student: a file, or {GENERAL_STUDENT}; or a teacher: a file, or a name as in teacher.weights",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=f"what to write: {' or '.join(SUFFIXES)}")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="of weights and arithmetic (default fp32)")
    parser.add_argument("--residual", action="store_true", help="a U-Net's plain state dict was trained with residual: true")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    SignalGate().install()
    export(arguments.weights, arguments.out, arguments.precision, arguments.residual)


if __name__ == "__main__":
    run_command(main)
