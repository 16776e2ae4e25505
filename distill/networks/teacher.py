"""The teacher: a frozen network, by default in half precision on CUDA. A teacher cache records the teacher's identity.

`scoring/teacher_check.py` checks whether a student should learn from it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from distill.config import ConfigError, TeacherConfig
from distill.config.types import Precision
from distill.errors import shown
from distill.networks.adapters import DTYPES, Adapted, OneChannel, in_channels_last, supported
from distill.networks.architecture import describe_network, inference_copy
from distill.networks.student_files import load_student
from distill.runtime.device import multiplies_bf16
from restormer.published import locate_weights
from unet.model import UNet

logger = logging.getLogger(__name__)
# Why an image that the teacher restored cannot be used.
NOT_FINITE = "the teacher's image of it is not finite; only teacher.precision: fp32 can mend this"


class Teacher(nn.Module):
    """A frozen restoration network: always in eval mode, without gradients, never saved in a checkpoint."""

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.float32, micro_batch: int | None = None) -> None:
        """If the network cannot compute in `dtype`, the teacher takes a precision in which it can, and logs a warning."""
        super().__init__()
        self.dtype, self.micro_batch = _dtype_for(network, dtype), micro_batch
        self.network = in_channels_last(network.eval().requires_grad_(False).to(self.dtype))
        self.training = False
        self._replayed: tuple[tuple[int, ...], Callable[[Tensor], Tensor]] | None = None

    @property
    def precision(self) -> Precision:
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def train(self, mode: bool = True) -> Teacher:
        """Does nothing: a student's `.train()` must not reach its teacher."""
        return self

    # no_grad, not inference_mode: the student's loss may save the teacher's image for its backward pass, and autograd cannot save
    # a tensor that was made in inference_mode.
    @torch.no_grad()
    def forward(self, blurry: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> the restored images, float32, clamped to [0, 1]. A value that is not finite becomes NaN."""
        parts = blurry.float().split(self.micro_batch or len(blurry))
        # Each part is clamped into new memory, because a CUDA graph overwrites its output at the next call.
        return torch.cat([_clamp(self.restore(part)) for part in parts])

    def restore(self, blurry: Tensor) -> Tensor:
        """(B, 3, H, W) -> the restored images, not clamped, in one forward pass. The next call may overwrite them."""
        if self._replayed is not None and blurry.shape == self._replayed[0]:
            return self._replayed[1](blurry)
        return self.network(blurry)

    def use_precision(self, precision: Precision) -> None:
        """Rounds the weights to this precision, and computes in it from now on. fp32 does not bring back what a lower precision
        rounded off. A precision that the network cannot compute in is replaced as in the constructor."""
        self.dtype, self._replayed = _dtype_for(self.network, DTYPES[precision]), None
        self.network.to(self.dtype)

    def replay(self, shape: tuple[int, ...], form: Callable[[Tensor], Tensor] | None) -> None:
        """Runs `form` instead of the network from now on, for inputs of this shape, (B, 3, H, W). None: runs the network."""
        self._replayed = None if form is None else (shape, form)


def _dtype_for(network: nn.Module, asked: torch.dtype) -> torch.dtype:
    """`asked`, or the dtype that stands in for it: bf16 on a GPU that has it, else float32."""
    if supported(network, asked):
        return asked
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    taken = torch.bfloat16 if has_bf16 and supported(network, torch.bfloat16) else torch.float32
    names = {dtype: name for name, dtype in DTYPES.items()}
    logger.warning("%s does not compute in %s; it computes in %s", getattr(network, "arch", "it"), names[asked], names[taken])
    return taken


def _clamp(image: Tensor) -> Tensor:
    """Clamps to [0, 1], but turns infinity into NaN: an overflow must not look like white."""
    return torch.where(image.isinf(), torch.nan, image.clamp(0, 1))


class Identity(BaseModel):
    """The identity of a teacher: all fields must be equal for two runs to get the same images from their teachers."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """sha256 of the weights' names, shapes, dtypes and values, in the precision in which the teacher uses them."""
    architecture: dict[str, bool | int | float | str | list[int]]
    """The network's constructor keywords. For a network that is no Restormer, `arch`, the architecture's name."""
    precision: Precision

    def difference(self, other: Identity) -> str | None:
        """Says in words how this teacher, which made a cache, differs from the run's teacher `other`; None if they are equal."""
        if self.precision != other.precision:
            return f"made in precision {self.precision}, but this run's teacher.precision is {other.precision}"
        kinds = [identity.architecture.get("arch", "Restormer") for identity in (self, other)]
        if kinds[0] != kinds[1]:
            return f"made by another network than teacher.weights: {shown(kinds[0])}, not {shown(kinds[1])}"
        if self.architecture != other.architecture:
            mine, its = (identity.architecture for identity in (self, other))
            keys = [key for key in sorted(mine.keys() | its.keys()) if mine.get(key) != its.get(key)]
            changes = [f"{shown(key)} {shown(mine.get(key))}, not {shown(its.get(key))}" for key in keys[:3]]
            return f"made by another network than teacher.weights: {', '.join(changes)}"
        if self.weights != other.weights:
            return f"made with other weights (sha256 {self.weights[:12]}...) than teacher.weights ({other.weights[:12]}...)"
        return None


def identify(teacher: Teacher) -> Identity:
    """The identity that a cache of this teacher's images records."""
    digest = hashlib.sha256()
    for name, value in sorted(teacher.network.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        # As bytes, because numpy has no bfloat16.
        digest.update(value.cpu().flatten().view(torch.uint8).numpy().data)
    arch, keywords = describe_network(teacher.network)
    if arch != "restormer":  # caches of earlier versions are of Restormers, and have no `arch`
        keywords = {"arch": arch} | {key: value for key, value in keywords.items() if value is not None}
    return Identity(weights=digest.hexdigest(), architecture=keywords, precision=teacher.precision)


def teacher_precision(asked: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """The precision that was asked for; `auto` is fp16 on CUDA and fp32 elsewhere. On some CPUs training replaces `auto` before
    it gets here (`scoring/half_precision.py`)."""
    if asked == "auto":
        return "fp16" if device.type == "cuda" else "fp32"
    return asked


def load_teacher_network(config: TeacherConfig) -> nn.Module:
    """The network of the configuration, in float32, on the CPU. Raises ConfigError, WeightsError and FileNotFoundError."""
    network = load_student(locate_weights(config.weights, config.sha256), each_channel=config.each_channel)
    if config.each_channel and not isinstance(network, OneChannel):
        raise ConfigError(f"teacher.each_channel: the network of {config.weights} has three channels already")
    # A U-Net by itself would compute all of its image in half precision.
    return Adapted(inference_copy(network), "unet") if isinstance(network, UNet) else network


def build_teacher(config: TeacherConfig, device: torch.device) -> Teacher | None:
    """The teacher of the configuration; None for mode `none`. Raises ConfigError, WeightsError and FileNotFoundError."""
    if config.mode == "none":
        return None
    precision = teacher_precision(config.precision, device)
    if precision != "fp32" and device.type == "cpu" and not (precision == "bf16" and multiplies_bf16(device)):
        logger.warning("teacher.precision: %s is many times slower than fp32 on this CPU", precision)
    return Teacher(load_teacher_network(config), DTYPES[precision], config.micro_batch).to(device)
