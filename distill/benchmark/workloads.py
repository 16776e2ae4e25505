"""The forward passes that `distill.bench` times: teacher and student, in every form that it compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import kornia
import torch
from skimage import data as photographs
from torch import Tensor, nn

from distill.config import RestormerConfig, TeacherConfig, TeacherForm, UNetConfig
from distill.config.types import Precision
from distill.networks.adapters import DTYPES, OneChannel
from distill.networks.architecture import build_network, inference_copy
from distill.networks.fast_teacher import speed_up
from distill.networks.onnx_export import INPUT, onnx_bytes
from distill.networks.teacher import Teacher, load_teacher_network
from distill.runtime.device import set_up_process
from distill.synthesis.eight_bit import quantize, to_float
from restormer.model import Restormer
from restormer.reference import ReferenceRestormer
from restormer.weights import infer_architecture

# Suffix of a form's name. In such a form the C library keeps freed pages of memory, as in our commands.
KEEPING_PAGES = "_keeping_pages"
BLUR_SIGMA = 1.6
# Forms that are other runtimes, for the CPU.
RUNTIMES = ("onnxruntime", "openvino")


def photograph(shape: Sequence[int]) -> Tensor:
    """[images, height, width] -> a blurred photograph (B, 3, H, W) in [0, 1], mirrored and repeated to fill that size."""
    image = to_float(torch.from_numpy(photographs.astronaut()).permute(2, 0, 1)[None])
    image = quantize(kornia.filters.gaussian_blur2d(image, 11, (BLUR_SIGMA, BLUR_SIGMA)))
    row = torch.cat([image, image.flip(-1)], dim=-1)
    mirrored = torch.cat([row, row.flip(-2)], dim=-2)
    images, height, width = shape
    times = [1, 1, -(-height // mirrored.shape[-2]), -(-width // mirrored.shape[-1])]
    return mirrored.repeat(times)[..., :height, :width].repeat(images, 1, 1, 1).contiguous(memory_format=torch.channels_last)


def teacher_network(settings: TeacherConfig, published: bool) -> nn.Module:
    """The teacher's network; with `published`, the published architecture with random weights."""
    if not published:
        network = load_teacher_network(settings)
        if isinstance(network, OneChannel):
            network.each_channel = True  # the photograph has colours
        return network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Restormer()


def reference_network(network: nn.Module) -> nn.Module:
    """The paper's form of an RGB Restormer, with the same weights. Any other network is returned as it is."""
    if not is_rgb_restormer(network):
        return network.eval().requires_grad_(False)
    state = network.state_dict()
    keywords = infer_architecture(state)
    # ReferenceRestormer has no such keywords: it always restores RGB to RGB.
    for fixed in ("inp_channels", "out_channels", "dual_pixel_task"):
        keywords.pop(fixed)
    reference = ReferenceRestormer(**keywords).eval().requires_grad_(False)
    reference.load_state_dict(state)
    return reference


def is_rgb_restormer(network: nn.Module) -> bool:
    """Whether the network has the paper's form and Triton kernels to be compared with."""
    return isinstance(network, Restormer) and network.channels == 3


def teacher_forward(
    settings: TeacherConfig,
    published: bool,
    form: TeacherForm,
    precision: Precision,
    shape: Sequence[int],
    device: torch.device,
) -> Callable[[], Tensor]:
    """Builds the teacher in one form, with an input of `shape` on the device. Returns a function that runs the teacher on that
    input and returns (B, 3, H, W), not clamped. `published` is as in `teacher_network`."""
    _set_up(form.startswith("ours") or form.endswith(KEEPING_PAGES), device)
    network = teacher_network(settings, published)
    if form in RUNTIMES:
        return runtime_forward(network, form, precision, photograph(shape))
    image, dtype = photograph(shape).to(device), DTYPES[precision]
    if form.startswith("reference"):
        reference: nn.Module = reference_network(network).to(device, dtype)
        image = image.to(dtype) if is_rgb_restormer(network) else image  # others take float32
        if "compiled" in form:
            reference = torch.compile(reference)  # type: ignore[assignment]
        return _without_gradient(reference, image.contiguous())
    if form == "ours_kernels":
        assert isinstance(network, Restormer), "forward.py leaves this form out for other networks"
        network = network.padded_copy()
        network.use_kernels()
    teacher = Teacher(network, dtype).to(device)
    if form == "ours":
        speed_up(teacher, tuple(image.shape), compile_blocks=settings.compile)
    return _without_gradient(teacher.restore, image)


def runtime_forward(network: nn.Module, runtime: str, precision: Precision, image: Tensor) -> Callable[[], Tensor]:
    """Exports the network to ONNX and builds it for the CPU in `onnxruntime` or `openvino`, with as many threads as torch has.
    The function that it returns gives images that are clamped. Raises ImportError if the runtime is missing, and ValueError for a
    precision that it does not compute in."""
    data, pixels, threads = (
        onnx_bytes(network, "fp32", {"exported_by": runtime}),
        image.contiguous().numpy(),
        torch.get_num_threads(),
    )
    if runtime == "onnxruntime":
        import onnxruntime

        if precision != "fp32":
            raise ValueError(f"onnxruntime has no {precision} on a CPU")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return lambda: torch.from_numpy(session.run(None, {INPUT: pixels})[0])
    import openvino

    hint = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[precision]
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(core.read_model(data), "CPU", settings)
    return lambda: torch.from_numpy(compiled(pixels)[0])


def student_network(student: UNetConfig | RestormerConfig, width: int | None) -> nn.Module:
    """The student's network. `width` replaces a U-Net's own width."""
    if width is not None:
        assert isinstance(student, UNetConfig)
        student = student.model_copy(update={"width": width})
    return build_network(student)


def student_forward(
    student: UNetConfig | RestormerConfig,
    width: int | None,
    plain: bool,
    keep_pages: bool,
    shape: Sequence[int],
    device: torch.device,
    runtime: str | None = None,
) -> Callable[[], Tensor]:
    """Builds the student for inference, with an input of `shape` on the device. Returns a function that runs the student on
    that input. If `plain`, the student is as it is trained, and in NCHW; else it is in the form that we use. `width` replaces a
    U-Net's own width. `runtime` runs its exported ONNX file instead."""
    _set_up(keep_pages, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = student_network(student, width)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # random: folding the initial mean 0 and variance 1 changes nothing
                module.running_mean.normal_()  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        # A residual U-Net's last layer starts at zero, and the network would return its input in every form.
        nn.init.normal_(network.get_submodule("final" if student.arch == "unet" else "output").weight, std=0.1)  # type: ignore[arg-type]
    network = network.to(device).eval().requires_grad_(False)
    image = photograph(shape).to(device)
    if runtime is not None:
        return runtime_forward(network, runtime, "fp32", image)
    return _without_gradient(network, image.contiguous()) if plain else _without_gradient(inference_copy(network), image)


def _set_up(keep_pages: bool, device: torch.device) -> None:
    """Sets up the process as our commands do. On a CPU without `keep_pages`, leaves the allocator at its defaults."""
    if keep_pages or device.type != "cpu":
        set_up_process(device)


def _without_gradient(network: Callable[[Tensor], Tensor], image: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return network(image)

    return call
