"""From predictions to an update: mixed precision, parts of a batch, several ranks, and numbers that are not finite.

Nothing here waits for the device. An update that is not finite is rejected on the device: weights, moments and BatchNorm's
buffers keep their values, and only the step counter advances.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distill.config import OptimizerConfig
from distill.errors import UserError
from distill.runtime.ranks import Ranks
from distill.training.state import TrainingState


class DivergedError(UserError):
    """Too many updates in a row were not finite. More steps would not help."""


def gradient_averaged(state: TrainingState, last: bool) -> AbstractContextManager[None]:
    """The context for one part's forward and backward pass. Ranks average their gradients once per step, in the backward pass of
    the last part."""
    if isinstance(state.replica, DistributedDataParallel) and not last:
        return state.replica.no_sync()
    return nullcontext()


def predict(state: TrainingState, blurry: Tensor) -> Tensor:
    """The student's images, (B, 3, H, W), computed in mixed precision if the state has an `amp_dtype`."""
    with torch.autocast(blurry.device.type, state.amp_dtype, enabled=state.amp_dtype is not None):
        return state.replica(blurry)


def replace_failed(target: Tensor | None, prediction: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Replaces each teacher image that is not finite by the student's prediction. Returns the teacher's images, and the share
    that was replaced as `teacher_failed`.

    The distance of a prediction from itself is 0, and so is its gradient: the student learns nothing from such an image.
    """
    assert target is not None
    finite = target.isfinite().flatten(1).all(dim=1)
    replaced = torch.where(finite[:, None, None, None], target, prediction.detach().to(target.dtype))
    return replaced, {"teacher_failed": (~finite).float().mean()}


def mean_of_parts(measured: Sequence[dict[str, Tensor]], ranks: Ranks) -> dict[str, Tensor]:
    """Means of 0-dimensional tensors over the parts of a batch and over the ranks."""
    return ranks.all_reduce_mean({name: torch.stack([part[name] for part in measured]).mean() for name in measured[0]})


def apply_update(
    state: TrainingState, means: dict[str, Tensor], buffers: Sequence[Tensor], lr: float, config: OptimizerConfig
) -> dict[str, Tensor]:
    """Clips the gradient and applies the update, or rejects it if it is not finite. `buffers` are copies of the student's
    buffers, made before the forward pass.

    Returns `gradient_norm` and `finite`.
    """
    optimizer, student = state.optimizer, state.student
    if "teacher_failed" in means:
        state.teacher_failed = torch.maximum(state.teacher_failed, means["teacher_failed"])
    state.scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(student.parameters(), config.clip_norm or float("inf"))
    # The loss is checked too: L1's gradient is a sign, which is finite even if the target is infinite.
    finite = norm.isfinite() & means["loss"].isfinite()

    for group in optimizer.param_groups:
        group["lr"] = lr
    # If found_inf is 1, the fused step leaves weights and moments unchanged. GradScaler.step, which is not called here, sets the
    # same two attributes. The gradient is already unscaled, so grad_scale is None.
    optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
    optimizer.step()
    state.scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if norm.device.type != "cuda":  # on CUDA, SyncBatchNorm has averaged the buffers
        state.ranks.all_reduce_mean_(student.buffers())
    for buffer, before in zip(student.buffers(), buffers, strict=True):
        buffer.copy_(torch.where(finite, buffer, before))
    state.step += 1
    if state.ema is not None and config.ema is not None:
        # The decay rises to its full value. Otherwise the average of a short run would keep its random initial weights.
        decay = min(config.ema, state.step / (state.step + 10))
        _average(state.ema, student, (1 - decay) * finite)  # the weight is 0 if the update was rejected
    return {"gradient_norm": norm.detach(), "finite": finite.float()}


@torch.no_grad()
def _average(ema: nn.Module, student: nn.Module, weight: Tensor) -> None:
    """Moves each floating-point tensor of `ema` towards the student's by the 0-dimensional `weight`. Copies the integers,
    which count batches."""
    for old, new in zip(ema.state_dict().values(), student.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, weight.to(old.dtype))
        else:
            old.copy_(new)
