"""The plan of a run. It gives each step its epoch, its stage, its patch and batch, its learning rate and its position in the
endless stream of samples (sampler.py). It also says whether a step loads its samples, or uses those of the step before again."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from distill.config import Config, OptimizerConfig, StageConfig


@dataclass(frozen=True)
class Stretch:
    """Steps in a row that are all of one size. Step s is the state after s updates."""

    patch: int
    """Side of the patches, in pixels."""
    batch: int
    """Samples per step, over all ranks."""
    steps_per_epoch: int
    """An epoch is this number of steps. It need not be one exact pass through the images."""
    reuse: int = 1
    """The number of steps in a row that use the same samples. Such a group begins at `step`, and every `reuse` steps after it."""
    step: int = 0
    """The step at which this stretch begins."""
    position: int = 0
    """The stream position of the first sample of the update from `step` to `step + 1`."""
    epoch: int = 0
    """The epoch of the update from `step` to `step + 1`."""
    epoch_began: int = 0
    """The step at which `epoch` would have begun if all its steps had been of this size. It may be below 0."""

    def epoch_at(self, step: int) -> int:
        return self.epoch + (step - self.epoch_began) // self.steps_per_epoch

    def begin_of(self, epoch: int) -> int:
        """The step at which this epoch begins."""
        return self.epoch_began + (epoch - self.epoch) * self.steps_per_epoch

    def position_at(self, step: int) -> int:
        return self.position + (step - self.step) // self.reuse * self.batch

    def repeat_at(self, step: int) -> int:
        return (step - self.step) % self.reuse

    def changed(self, step: int, patch: int, batch: int, steps_per_epoch: int, reuse: int = 1) -> Stretch:
        """The stretch from `step` on, of this size. No sample is left out or comes twice, but a group that `step` is in the
        middle of ends there. The unfinished share of the epoch stays the same, rounded to whole steps, at least one."""
        if (patch, batch, steps_per_epoch, reuse) == (self.patch, self.batch, self.steps_per_epoch, self.reuse):
            return self
        done = (step - self.epoch_began) % self.steps_per_epoch
        left = max(1, round((1 - done / self.steps_per_epoch) * steps_per_epoch))
        position = self.position_at(step) + (self.batch if self.repeat_at(step) else 0)
        began = step + left - steps_per_epoch
        return Stretch(patch, batch, steps_per_epoch, reuse, step, position, self.epoch_at(step), began)


@dataclass(frozen=True)
class Load:
    """Batches of one size that follow one another in the stream."""

    position: int
    batches: int
    batch: int
    patch: int


@dataclass(frozen=True)
class Plan:
    """The steps at which epochs and stages begin and end, from some step on.

    If the batch size or the number of images changes when a run is resumed, a new plan holds from that step on. Before that step,
    a step took another number of samples, or an epoch another number of steps.
    """

    stages: list[StageConfig]
    stretches: list[Stretch]
    """In their order. Stages of the same size that follow one another share one."""

    @classmethod
    def of(cls, config: Config, images_per_epoch: int, before: Stretch | None = None, step: int = 0) -> Plan:
        """The plan of a configuration. A resumed run gives the `step` from which it goes on, and as `before` the stretch of that
        step in the plan that it had when it was stopped."""
        stretches: list[Stretch] = []
        last = before
        for stage, end in zip(config.stages, accumulate(stage.epochs for stage in config.stages), strict=True):
            data, reuse = config.data_of(stage), config.teacher.reuse
            size = data.patch, data.batch, epoch_steps(images_per_epoch, data.batch)
            if last is None:
                last = Stretch(*size, reuse)
            elif end > last.epoch_at(step):
                last = last.changed(max(step, last.begin_of(end - stage.epochs)), *size, reuse)
            else:  # the stage ended before `step`
                continue
            if last not in stretches:
                stretches.append(last)
        assert last is not None, "a configuration has at least one stage"
        return cls(config.stages, stretches or [last])

    @property
    def total_steps(self) -> int:
        return self.stretches[-1].begin_of(sum(stage.epochs for stage in self.stages))

    def at(self, step: int) -> Stretch:
        """The stretch of the update from `step` to `step + 1`. Before the plan's first stretch, that stretch."""
        return self.stretches[max(0, bisect_right([stretch.step for stretch in self.stretches], step) - 1)]

    def epoch_at(self, step: int) -> int:
        """The epoch of the update from `step` to `step + 1`, which is also the number of epochs that have ended by `step`."""
        return self.at(step).epoch_at(step)

    def repeats_from(self, step: int) -> range:
        """How many times the samples of the update from `step` to `step + 1` have been used before it, and the same for each
        later update that uses them. At 0 they are loaded, and the teacher restores them."""
        stretch = self.at(step)
        repeat = stretch.repeat_at(step)
        return range(repeat, min(stretch.reuse, repeat + self._end_of(stretch) - step))

    def _end_of(self, stretch: Stretch) -> int:
        following = [other.step for other in self.stretches if other.step > stretch.step]
        return min(following, default=self.total_steps)

    def loads_from(self, step: int) -> list[Load]:
        """What is loaded for the updates from `step` to the end. If `step` is in the middle of a group, its samples are loaded
        again."""
        loads = []
        for stretch in self.stretches:
            begin, end = max(step, stretch.step), self._end_of(stretch)
            if begin < end:
                batches = math.ceil((end - begin + stretch.repeat_at(begin)) / stretch.reuse)
                loads.append(Load(stretch.position_at(begin), batches, stretch.batch, stretch.patch))
        return loads

    def stage_at(self, step: int) -> StageConfig:
        """The stage of the update from `step` to `step + 1`."""
        return [stage for stage in self.stages for _ in range(stage.epochs)][self.epoch_at(step)]

    def ends_epoch(self, step: int) -> bool:
        stretch = self.at(step)
        return (step - stretch.epoch_began) % stretch.steps_per_epoch == 0

    def ends_stage(self, step: int) -> bool:
        if not self.ends_epoch(step):
            return False
        return step == self.total_steps or self.stage_at(step) is not self.stage_at(step - 1)

    def validates(self, step: int, every_epochs: int) -> bool:
        return step > 0 and (self.ends_stage(step) or (self.ends_epoch(step) and self.epoch_at(step) % every_epochs == 0))


def epoch_steps(images: int, batch: int) -> int:
    """The number of steps that take about this many images, at least one."""
    return max(1, round(images / batch))


def learning_rate(config: OptimizerConfig, step: int, total_steps: int, lr: float | None = None) -> float:
    """The learning rate of the update from `step` to `step + 1`: a linear warm-up, then as `config.schedule` says. `lr` is that
    of the step's stage; None: `config.lr`. Warm restarts are those of Loshchilov and Hutter, ICLR 2017."""
    lr = config.lr if lr is None else lr
    if step < config.warmup_steps:
        return lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return lr
    if config.schedule == "multistep":
        return lr * config.gamma ** bisect_right(config.milestones, step)
    done, length = step - config.warmup_steps, max(1, total_steps - config.warmup_steps)
    if config.schedule == "cosine_restarts":
        assert config.restart_steps is not None
        length = config.restart_steps
        if config.restart_factor == 1:
            done %= length
        while done >= length:
            done, length = done - length, length * config.restart_factor
    return config.lr_min + (lr - config.lr_min) * 0.5 * (1 + math.cos(math.pi * (done / length)))
