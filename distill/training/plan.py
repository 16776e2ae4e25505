"""Where a run goes: which step belongs to which epoch and stage, and to which place in the endless stream of samples."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from distill.config import OptimizerConfig, StageConfig


@dataclass(frozen=True)
class Plan:
    """Where epochs and stages begin and end, in steps. Step s is the state after s updates.

    A batch or a number of images that changes when a run is resumed gives a new plan from that step on: the steps before it were
    of another size.
    """

    stages: list[StageConfig]
    steps_per_epoch: int
    batch: int
    """Samples of a step, over all ranks."""
    step: int = 0
    """Where this plan took effect, and the sample with which it did."""
    position: int = 0
    epoch: int = 0
    """The epoch of that step, and the step at which it would have begun by this plan's measure; that may be below 0."""
    epoch_began: int = 0

    @property
    def total_steps(self) -> int:
        return self.epoch_began + (sum(stage.epochs for stage in self.stages) - self.epoch) * self.steps_per_epoch

    def epoch_at(self, step: int) -> int:
        return self.epoch + (step - self.epoch_began) // self.steps_per_epoch

    def position_at(self, step: int) -> int:
        """The first sample of the update that leads from `step` to `step + 1`."""
        return self.position + (step - self.step) * self.batch

    def stage_at(self, step: int) -> StageConfig:
        """The stage of the update that leads from `step` to `step + 1`."""
        return [stage for stage in self.stages for _ in range(stage.epochs)][self.epoch_at(step)]

    def ends_epoch(self, step: int) -> bool:
        return (step - self.epoch_began) % self.steps_per_epoch == 0

    def ends_stage(self, step: int) -> bool:
        if not self.ends_epoch(step):
            return False
        return step == self.total_steps or self.stage_at(step) is not self.stage_at(step - 1)

    def validates(self, step: int, every_epochs: int) -> bool:
        return step > 0 and (self.ends_stage(step) or (self.ends_epoch(step) and self.epoch_at(step) % every_epochs == 0))

    def changed(self, step: int, steps_per_epoch: int, batch: int) -> Plan:
        """From `step` on with steps of another size: no sample is left out or comes twice, and what is left of the epoch is left,
        rounded to steps."""
        if (steps_per_epoch, batch) == (self.steps_per_epoch, self.batch):
            return self
        epoch, done = self.epoch_at(step), (step - self.epoch_began) % self.steps_per_epoch
        left = max(1, round((1 - done / self.steps_per_epoch) * steps_per_epoch))
        began = step if done == 0 else step + left - steps_per_epoch
        return Plan(self.stages, steps_per_epoch, batch, step, self.position_at(step), epoch, began)

    def as_dict(self) -> dict[str, Any]:
        """All but the stages, which a configuration says anew."""
        return {name: value for name, value in asdict(self).items() if name != "stages"}


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """The rate of the update from `step` to `step + 1`: a linear warm-up, then constant, or half a cosine down to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
