"""The state of training: everything that a step changes, and its initial value."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distill.config import GENERAL, OptimizerConfig, RestormerConfig, UNetConfig
from distill.runtime.ranks import Ranks
from restormer.weight_files import WeightsError, read_torch_file
from unet.weights import UNetWeightsError, original_adam_state

NONE_YET = ("psnr", float("-inf"))


@dataclass
class TrainingState:
    """Everything that a step changes. A checkpoint holds it, the plan and the resolved configuration."""

    step: int
    student: nn.Module
    replica: nn.Module
    """The module that a step calls. If there is one rank, it is the student. If there are several, it is the student wrapped in
    DistributedDataParallel, which averages gradients over the ranks."""
    ranks: Ranks
    ema: nn.Module | None
    """A copy of the student whose weights and BatchNorm buffers are moving averages."""
    optimizer: torch.optim.Adam
    scaler: torch.amp.GradScaler
    amp_dtype: torch.dtype | None
    teacher_failed: Tensor
    """0-dimensional, on the device: the share of a batch's teacher images that were not finite, averaged over the ranks, and the
    largest of any step so far. It is above 0 once a teacher image was not finite. Failures are averaged, not successes, because
    zeros average to exactly 0, and ones may average to 0.9999999."""
    best: tuple[str, float] = NONE_YET
    """The measure by which students are ranked, and the best student's value (`Evaluation.ranking`)."""
    validated_step: int = 0
    """The last step that was validated. A run that was stopped during a validation starts with that validation when resumed."""

    @property
    def kept(self) -> nn.Module:
        """The network that is validated and written to student files: the moving average if there is one, else the student."""
        return self.ema if self.ema is not None else self.student


def new_training_state(
    student: nn.Module, config: OptimizerConfig, device: torch.device, ranks: Ranks | None = None
) -> TrainingState:
    """The state at step 0, on the device. The student is in channels_last, and its moving average starts as a copy of it. All
    ranks get the first rank's weights."""
    ranks = ranks or Ranks()
    student = student.to(device).to(memory_format=torch.channels_last)
    if ranks.count > 1 and device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    amp_dtype = _amp_dtype(config, device)
    return TrainingState(
        step=0,
        student=student,
        # DistributedDataParallel gives all ranks the first rank's weights, so it stands before `ema`, which copies them.
        # Buffers need no broadcast: SyncBatchNorm, or `Ranks.all_reduce_mean_`, makes them equal on all ranks in every step.
        replica=DistributedDataParallel(student, broadcast_buffers=False) if ranks.count > 1 else student,
        ranks=ranks,
        ema=copy.deepcopy(student).requires_grad_(False).eval() if config.ema is not None else None,
        # Fused: it is one kernel, and it can reject an update on the device, without waiting for the host.
        optimizer=torch.optim.Adam(student.parameters(), lr=config.lr, fused=True),
        scaler=torch.amp.GradScaler(device.type, enabled=amp_dtype == torch.float16),
        amp_dtype=amp_dtype,
        teacher_failed=torch.zeros((), device=device),
    )


def _amp_dtype(config: OptimizerConfig, device: torch.device) -> torch.dtype | None:
    if device.type == "cpu":
        return torch.bfloat16 if config.amp == "bf16" else None
    if config.amp == "off" or device.type != "cuda":
        return None
    if config.amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if config.amp == "bf16" else torch.float16


def continue_optimizer(optimizer: torch.optim.Adam, model: nn.Module, student: UNetConfig | RestormerConfig) -> str | None:
    """Loads Adam's moments from `student.init` if it is a resume file of the original project. Returns a sentence for the log, or
    None if the file holds no moments. Raises WeightsError."""
    if student.init in (None, GENERAL) or isinstance(student, RestormerConfig) or Path(student.init).suffix == ".safetensors":
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
            # In the parameter's memory format: the fused kernel reads parameter and moments in memory order.
            like = {key: torch.empty_like(parameter).copy_(moments[name][key]) for key in ("exp_avg", "exp_avg_sq")}
            state["state"][number] = {"step": torch.tensor(moments[name]["step"]), **like}
    optimizer.load_state_dict(state)
    return f"{student.init}: going on after its epoch {content.get('epoch', '?')}, with Adam's moments"
