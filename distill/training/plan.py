"""The plan of a run. It gives each step its epoch, its stage, its position in the endless stream of samples (sampler.py), and
whether it loads these samples and asks the teacher about them, or uses those of the step before again."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from distill.config import OptimizerConfig, StageConfig


@dataclass(frozen=True)
class Plan:
    """The steps at which epochs and stages begin and end. Step s is the state after s updates.

    If the batch size or the number of images changes when a run is resumed, a new plan holds from that step on. Before that step,
    a step took another number of samples, or an epoch another number of steps.
    """

    stages: list[StageConfig]
    steps_per_epoch: int
    """An epoch is this number of steps. It need not be one exact pass through the images."""
    batch: int
    """Samples per step, over all ranks."""
    reuse: int = 1
    """The number of steps in a row that use the same samples. Such a group begins at `step`, and every `reuse` steps after it."""
    step: int = 0
    """The step from which this plan holds."""
    position: int = 0
    """The stream position of the first sample of the update from `step` to `step + 1`."""
    epoch: int = 0
    """The epoch of the update from `step` to `step + 1`."""
    epoch_began: int = 0
    """The step at which `epoch` would have begun if all its steps had been made with this plan. It may be below 0."""

    @property
    def total_steps(self) -> int:
        return self.epoch_began + (sum(stage.epochs for stage in self.stages) - self.epoch) * self.steps_per_epoch

    def epoch_at(self, step: int) -> int:
        """The epoch of the update from `step` to `step + 1`, which is also the number of epochs that have ended by `step`."""
        return self.epoch + (step - self.epoch_began) // self.steps_per_epoch

    def position_at(self, step: int) -> int:
        """The stream position of the first sample of the update from `step` to `step + 1`."""
        return self.position + (step - self.step) // self.reuse * self.batch

    def repeat_at(self, step: int) -> int:
        """How many times the samples of the update from `step` to `step + 1` have been used before. If 0, they are loaded, and
        the teacher is asked."""
        return (step - self.step) % self.reuse

    def loads_from(self, step: int) -> int:
        """How many batches are loaded for the updates from `step` to the end. If `step` is in the middle of a group, its samples
        are loaded again."""
        left = self.total_steps - step
        return math.ceil((left + self.repeat_at(step)) / self.reuse) if left > 0 else 0

    def stage_at(self, step: int) -> StageConfig:
        """The stage of the update from `step` to `step + 1`."""
        return [stage for stage in self.stages for _ in range(stage.epochs)][self.epoch_at(step)]

    def ends_epoch(self, step: int) -> bool:
        return (step - self.epoch_began) % self.steps_per_epoch == 0

    def ends_stage(self, step: int) -> bool:
        if not self.ends_epoch(step):
            return False
        return step == self.total_steps or self.stage_at(step) is not self.stage_at(step - 1)

    def validates(self, step: int, every_epochs: int) -> bool:
        return step > 0 and (self.ends_stage(step) or (self.ends_epoch(step) and self.epoch_at(step) % every_epochs == 0))

    def changed(self, step: int, steps_per_epoch: int, batch: int, reuse: int = 1) -> Plan:
        """The plan from `step` on, with this number of steps per epoch, this batch size and this reuse. No sample is left out or
        comes twice, but a group that `step` is in the middle of ends there. The unfinished share of the epoch stays the same,
        rounded to whole steps, at least one."""
        if (steps_per_epoch, batch, reuse) == (self.steps_per_epoch, self.batch, self.reuse):
            return self
        epoch, done = self.epoch_at(step), (step - self.epoch_began) % self.steps_per_epoch
        left = max(1, round((1 - done / self.steps_per_epoch) * steps_per_epoch))
        began = step + left - steps_per_epoch
        position = self.position_at(step) + (self.batch if self.repeat_at(step) else 0)
        return Plan(self.stages, steps_per_epoch, batch, reuse, step, position, epoch, began)

    def as_dict(self) -> dict[str, Any]:
        """All fields except the stages, which are read from the configuration again."""
        return {name: value for name, value in asdict(self).items() if name != "stages"}


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """The learning rate of the update from `step` to `step + 1`: a linear warm-up, then constant or half a cosine down to 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
