"""The state of training: all that a step changes, and how it starts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distill.config import OptimizerConfig, RestormerConfig, UNetConfig
from distill.runtime.ranks import Ranks
from restormer.weight_files import WeightsError, read_torch_file
from unet.weights import UNetWeightsError, original_adam_state


@dataclass
class TrainingState:
    """All that a step changes; with the resolved configuration, all that a checkpoint holds."""

    step: int
    student: nn.Module
    replica: nn.Module
    """The student as a step calls it: among several ranks, inside what averages its gradient over them."""
    ranks: Ranks
    ema: nn.Module | None
    """The student with moving averages for weights, BatchNorm buffers included."""
    optimizer: torch.optim.Adam
    scaler: torch.amp.GradScaler
    amp_dtype: torch.dtype | None
    teacher_failed: Tensor
    """On the device: above 0 once an image of the teacher's was not finite. It holds the share that failed, averaged over ranks,
    since zeros average to exactly 0 and ones may average to 0.9999999."""
    best_psnr: float = float("-inf")
    validated_step: int = 0
    """The step that was validated last: a run that was stopped in the middle of a validation begins with it."""

    @property
    def kept(self) -> nn.Module:
        """What is validated and written as the model: the averaged weights where there are any."""
        return self.ema if self.ema is not None else self.student


def new_training_state(
    student: nn.Module, config: OptimizerConfig, device: torch.device, ranks: Ranks | None = None
) -> TrainingState:
    """Step 0 on the device; the student in channels_last, its average a copy. All ranks get the first one's weights."""
    ranks = ranks or Ranks()
    student = student.to(device).to(memory_format=torch.channels_last)
    if ranks.count > 1 and device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    amp_dtype = _amp_dtype(config, device)
    return TrainingState(
        step=0,
        student=student,
        # Buffers are the same on all ranks after every step, by SyncBatchNorm or by `Ranks.average`.
        replica=DistributedDataParallel(student, broadcast_buffers=False) if ranks.count > 1 else student,
        ranks=ranks,
        ema=copy.deepcopy(student).requires_grad_(False).eval() if config.ema is not None else None,
        # Fused: one kernel, and it can skip an update on the device's own decision.
        optimizer=torch.optim.Adam(student.parameters(), lr=config.lr, fused=True),
        scaler=torch.amp.GradScaler(device.type, enabled=amp_dtype == torch.float16),
        amp_dtype=amp_dtype,
        teacher_failed=torch.zeros((), device=device),
    )


def _amp_dtype(config: OptimizerConfig, device: torch.device) -> torch.dtype | None:
    if config.amp == "off" or device.type != "cuda":
        return None
    if config.amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if config.amp == "bf16" else torch.float16


def continue_optimizer(optimizer: torch.optim.Adam, model: nn.Module, student: UNetConfig | RestormerConfig) -> str | None:
    """Gives Adam the moments of `student.init` where that is the original project's resume file, and says so; None where it is
    not. Raises WeightsError."""
    if student.init is None or isinstance(student, RestormerConfig) or Path(student.init).suffix == ".safetensors":
        return None
    content = read_torch_file(Path(student.init))
    try:
        moments = original_adam_state(content)
    except UNetWeightsError as error:
        raise WeightsError(f"{student.init}: {error}") from None
    if not moments:
        return None
    state = optimizer.state_dict()
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if name in moments:
            # In the parameter's own memory format: the fused step walks through both side by side.
            like = {key: torch.empty_like(parameter).copy_(moments[name][key]) for key in ("exp_avg", "exp_avg_sq")}
            state["state"][number] = {"step": torch.tensor(moments[name]["step"]), **like}
    optimizer.load_state_dict(state)
    return f"{student.init}: going on after its epoch {content.get('epoch', '?')}, with Adam's moments"
