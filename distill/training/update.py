"""From predictions to an update: mixed precision, parts of a batch, several ranks, and what is done where numbers go wrong.

None of it waits for the device. An update that is not finite is rejected there: weights, moments and BatchNorm's buffers keep
their values, and only the step counts on.
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
    """One update after another was not finite: more steps would not mend it."""


def gradient_averaged(state: TrainingState, last: bool) -> AbstractContextManager[None]:
    """Holds a part's forward and backward pass. Ranks average their gradients once a step, in the last part's backward pass."""
    if isinstance(state.replica, DistributedDataParallel) and not last:
        return state.replica.no_sync()
    return nullcontext()


def predict(state: TrainingState, blurry: Tensor) -> Tensor:
    """The student's images, (B, 3, H, W), in its mixed precision where it has one."""
    with torch.autocast(blurry.device.type, state.amp_dtype, enabled=state.amp_dtype is not None):
        return state.replica(blurry)


def replace_failed(target: Tensor | None, prediction: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The teacher's images, with the prediction in place of each that is not finite, and `teacher_failed`, the share of those.

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
    """Clips the gradient and applies it, or rejects it. `buffers` are the student's from before the forward pass.

    Returns `gradient_norm` and `finite`.
    """
    optimizer, student = state.optimizer, state.student
    if "teacher_failed" in means:
        state.teacher_failed = torch.maximum(state.teacher_failed, means["teacher_failed"])
    state.scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(student.parameters(), config.clip_norm or float("inf"))
    # The loss is checked too: L1's gradient is a sign, which is finite even where the target is infinite.
    finite = norm.isfinite() & means["loss"].isfinite()

    for group in optimizer.param_groups:
        group["lr"] = lr
    # The fused step leaves weights and moments alone where found_inf is 1. GradScaler uses the same two attributes.
    optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
    optimizer.step()
    state.scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if norm.device.type != "cuda":  # on CUDA SyncBatchNorm has averaged them
        state.ranks.all_reduce_mean_(student.buffers())
    for buffer, before in zip(student.buffers(), buffers, strict=True):
        buffer.copy_(torch.where(finite, buffer, before))
    state.step += 1
    if state.ema is not None and config.ema is not None:
        # The decay rises to its full value: a short run's average would otherwise keep the random weights of its start.
        decay = min(config.ema, state.step / (state.step + 10))
        _average(state.ema, student, (1 - decay) * finite)
    return {"gradient_norm": norm.detach(), "finite": finite.float()}


@torch.no_grad()
def _average(ema: nn.Module, student: nn.Module, weight: Tensor) -> None:
    """Moves every floating tensor of `ema` towards the student's by the 0-dimensional `weight`, and copies the counters."""
    for old, new in zip(ema.state_dict().values(), student.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, weight.to(old.dtype))
        else:
            old.copy_(new)
