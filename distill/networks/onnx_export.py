"""Exports a student as an ONNX file that pads, corrects, crops and clamps by itself, and checks the file against torch."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.config.types import Precision
from distill.errors import UserError
from distill.networks.adapters import DTYPES, Adapted, OneChannel
from distill.networks.architecture import describe_network, inference_copy
from distill.networks.student_files import About
from unet.model import MIN_SIDE, UNet

INPUT, OUTPUT = "blurry", "restored"
# Not the newest opset that torch writes, so that older runtimes can read the file.
OPSET = 18
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# Largest allowed difference from torch. No other precision can be exported.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2}
BATCHES = (1, 3)
# (height, width): multiples of 16, no multiples of 16, one row more than the smallest image, and the size of a photograph.
SIDES = ((64, 64), (100, 75), (17, 16), (512, 512))
# Without the largest size, at which a Restormer would take minutes and several GB.
SMALL_SIDES = SIDES[:3]
# Of the architectures that spandrel builds, those whose ONNX files were compared with torch.
TRIED = ("DnCNN", "KBNet", "NAFNet")


class ExportError(UserError):
    """A network cannot be exported, or cannot be exported to this file. The message is one line."""


def require_onnx() -> None:
    """Raises ExportError if PACKAGES are not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(f'an ONNX file needs {", ".join(missing)}; pip install -e ".[export]"')


class Deployed(nn.Module):
    """The exported computation: (B, 3, H, W) float32 RGB in [0, 1], any H, W >= 16 -> the restored images, clamped to [0, 1].

    In half precision the network's input is rounded. The network's correction is added to the unrounded image.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network, self.dtype = inference_copy(network).to(dtype), dtype
        # A residual U-Net would add its correction to the rounded image. It gives the correction alone, and `forward` adds it.
        self.adds_image = isinstance(self.network, UNet) and self.network.residual
        if isinstance(self.network, UNet):
            self.network.residual = False
        self.eval()

    def forward(self, blurry: Tensor) -> Tensor:
        # A half-precision Restormer takes a float32 image and adds its correction to that image itself.
        out = self.network(blurry.to(self.dtype) if isinstance(self.network, UNet) else blurry).float()
        return (blurry + out if self.adds_image else out).clamp(0, 1)


def _refuse_untried(network: nn.Module, precision: Precision) -> None:
    """Raises ExportError for a network that this module was not tried with."""
    if isinstance(network, OneChannel):
        raise ExportError("a Restormer of one channel is not exported")
    if not isinstance(network, Adapted):
        return
    if network.arch not in TRIED:
        raise ExportError(f"{network.arch} is not exported; of the networks that spandrel builds, {', '.join(TRIED)} are")
    if precision != "fp32":
        raise ExportError(f"{network.arch} is exported in fp32 only, not in {precision}")


def metadata_of(network: nn.Module, about: About, precision: Precision) -> dict[str, str]:
    """The file's metadata: `about`, the architecture, and how to use the network."""
    arch, keywords = describe_network(network)
    usage = {
        "input_range": "[0, 1], RGB",
        "output_range": "[0, 1], RGB, clamped",
        "min_side": str(MIN_SIDE),
        "precision": precision,
    }
    return {key: str(value) for key, value in about.items()} | {"arch": arch, "architecture": json.dumps(keywords)} | usage


def onnx_bytes(network: nn.Module, precision: Precision, metadata: Mapping[str, str]) -> bytes:
    """The network as an ONNX file with this metadata, not yet checked. Raises ExportError."""
    require_onnx()
    _refuse_untried(network, precision)
    model = _convert(Deployed(network, DTYPES[precision]))
    _write_metadata(model, metadata)
    try:
        return model.SerializeToString()
    except ValueError as error:  # protobuf's limit is 2 GB
        raise ExportError(f"too large for one ONNX file: {error}") from None


def _convert(deployed: Deployed) -> Any:
    """An onnx.ModelProto. Raises ExportError."""
    batch, height, width = torch.export.Dim("batch", min=1), *(torch.export.Dim(n, min=MIN_SIDE) for n in ("height", "width"))
    example = torch.rand(2, 3, 50, 70)
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):  # these log every pass over the graph
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        # With gradients enabled: without them Restormer may take its fused path, which is made for torch on a CPU.
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation warnings from inside the exporter
            program = torch.onnx.export(
                deployed,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: batch, 2: height, 3: width},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"torch {torch.__version__} cannot export this network: {_first_line(error)}") from None
    assert program is not None
    return program.model_proto


def _write_metadata(model: Any, metadata: Mapping[str, str]) -> None:
    """Writes the metadata and a description. Removes the exporter's notes about this machine: source paths at every node."""
    import onnx

    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    model.producer_name = metadata["exported_by"]
    model.doc_string = f"{INPUT}: (B, 3, H, W) float32 RGB in [0, 1], H and W at least {MIN_SIDE}; {OUTPUT}: the same shape"
    onnx.helper.set_model_props(model, dict(metadata))


def check_onnx(data: bytes, network: nn.Module, precision: Precision) -> dict[str, float]:
    """Runs the file in onnxruntime on the CPU and returns its differences, as `check_form` does. Raises ExportError.

    onnxruntime computes fp16 in float32 on the CPU, so fp16 is also checked in torch, at the first of SIDES.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 (onnxruntime's exceptions share no base class)
        raise ExportError(f"onnxruntime does not load the exported network: {_first_line(error)}") from None

    def restore(image: Tensor) -> Tensor:
        try:
            return torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])
        except Exception as error:  # noqa: BLE001
            raise ExportError(f"onnxruntime does not run the exported network: {_first_line(error)}") from None

    if precision == "fp16":
        check_form(Deployed(network, torch.float16), network, precision, [(1, 3, *SIDES[0])])
    return check_form(restore, network, precision)


@torch.no_grad()
def check_form(
    form: Callable[[Tensor], Tensor], network: nn.Module, precision: Precision, shapes: Sequence[tuple[int, ...]] | None = None
) -> dict[str, float]:
    """The largest difference between the output of `form` and the network's clamped float32 output, by shape (`3x3x100x75`).

    `form` is another way to compute the network's images: an ONNX session, or `Deployed`.

    Raises ExportError if a difference is above TOLERANCE, a value is not finite, or the output has another shape or dtype.
    """
    sides = SIDES if isinstance(network, UNet) else SMALL_SIDES
    differences = {}
    for shape in shapes or [(batch, 3, *side) for side in sides for batch in BATCHES]:
        image = torch.randint(256, shape, generator=torch.Generator().manual_seed(0)) / 255
        expected, found = network(image).clamp(0, 1), form(image)
        name = "x".join(map(str, shape))
        if found.shape != expected.shape or found.dtype != torch.float32:
            raise ExportError(f"the {precision} form gives {found.dtype} {list(found.shape)} for an image of {name}")
        differences[name] = float((found - expected).abs().max())
        if not differences[name] <= TOLERANCE[precision]:  # also true for NaN
            difference = f"by {differences[name]:.2g} at {name}; {TOLERANCE[precision]:g} is allowed"
            raise ExportError(f"the {precision} form differs from the network {difference}")
    return differences


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(lines[0].split())[:200]
