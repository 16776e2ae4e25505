"""The schema of the YAML file that describes a run. A typo in the file stops the run before anything is built.

The schema gives every key its default and its meaning. Loading checks names, types and contradictions. Whether a path exists is
checked later, by the command that uses it. Needs neither torch nor a GPU.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from distill.config.degradations import Degradations
from distill.config.images import DEAD_LEAVES, AugmentConfig, DataConfig, ImageSource
from distill.config.networks import StudentConfig, TeacherConfig, UNetConfig
from distill.config.training import BenchConfig, EvalConfig, OptimizerConfig, RunConfig, StageConfig, VggConfig
from distill.config.types import Section


class Config(Section):
    run: RunConfig = RunConfig()
    """The run folder, seed, device, and how often a run saves and logs."""
    data: DataConfig = DataConfig()
    """The images, and the size of patches, batches and epochs."""
    degrade: Degradations = []
    """What makes a blurry image from a sharp one: a preset's name, or a list of degradations, applied in order. Each has a
    `kind`, the keys of that kind, and a `probability`."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes, the same for a blurry image and its sharp one."""
    teacher: TeacherConfig = TeacherConfig()
    """The network to learn from."""
    student: StudentConfig = UNetConfig()
    """The network that is trained."""
    stages: Annotated[list[StageConfig], Field(min_length=1)]
    """Stages run one after the other with the same optimiser."""
    vgg: VggConfig = VggConfig()
    """The perceptual loss, an L1 distance of VGG16 features, for stages whose `vgg` weight is above 0."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How a batch becomes an update of the weights."""
    eval: EvalConfig = EvalConfig()
    """How students are validated."""
    bench: BenchConfig = BenchConfig()

    @property
    def learns_from_teacher(self) -> bool:
        """Whether the loss of any stage compares the student's image with the teacher's."""
        return self.teacher.mode != "none" and any(stage.needs_target(self.vgg) for stage in self.stages)

    @model_validator(mode="after")
    def _check_contradictions(self) -> Config:
        needs_degrade = [key for key, source in self.image_sources() if source.blurry is None]
        if needs_degrade and not self.degrade:
            raise ValueError(f"{needs_degrade[0]}.blurry is null and degrade is empty: give one, or nothing makes a blurry image")
        if self.degrade and not needs_degrade:
            raise ValueError(
                "degrade is given although all images have their blurry files; remove one: degrade=[] or a blurry folder"
            )
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError("stages: two have the same name, and would write the same file")
        self._check_something_to_learn()
        for index, stage in enumerate(self.stages):
            if self.teacher.mode == "none" and stage.kd > 0:
                raise ValueError(f"stages.{index}.kd: {stage.kd:g} needs a teacher, but teacher.mode is none; set one of them")
            if self.teacher.mode == "none" and stage.vgg > 0 and self.vgg.against == "teacher":
                raise ValueError("vgg.against: teacher needs a teacher, but teacher.mode is none; set one of them")
        if self.teacher.mode == "cached":
            self._check_cacheable()
        endless = any(source.sharp == DEAD_LEAVES for source in self.data.entries)
        if endless and self.data.images_per_epoch is None:
            raise ValueError("data.images_per_epoch: dead_leaves has no end; say how many images make an epoch")
        return self

    @model_validator(mode="after")
    def _check_steps(self) -> Config:
        accumulate, lr_min = self.optimizer.accumulate, self.optimizer.lr_min
        for key, sized in self.sizes():
            if sized.batch % accumulate:
                raise ValueError(f"optimizer.accumulate: {accumulate} does not divide {key}: {sized.batch}")
        for index, stage in enumerate(self.stages):
            if (lr := stage.lr or self.optimizer.lr) < lr_min:
                key = "optimizer.lr" if stage.lr is None else f"stages.{index}.lr"
                raise ValueError(f"optimizer.lr_min: {lr_min:g} is above {key}: {lr:g}, and the learning rate would rise to it")
        return self

    @model_validator(mode="after")
    def _check_reuse(self) -> Config:
        reuse = f"teacher.reuse: {self.teacher.reuse}"
        if self.teacher.reuse > 1 and self.teacher.mode != "online":
            raise ValueError(f"{reuse} does nothing with teacher.mode: {self.teacher.mode}; set teacher.reuse: 1")
        for index, stage in enumerate(self.stages):
            if self.teacher.reuse > 1 and not stage.needs_target(self.vgg):
                raise ValueError(f"{reuse} saves nothing in stages.{index}, which does not learn from the teacher; set it to 1")
        return self

    def data_of(self, stage: StageConfig) -> DataConfig:
        """The section `data` with the patch and the batch of a stage."""
        return self.sized_for(stage).data

    def sized_for(self, stage: StageConfig) -> Config:
        """The same configuration with the patch and the batch of a stage."""
        return self.sized(stage.patch or self.data.patch, stage.batch or self.data.batch)

    def sized(self, patch: int, batch: int) -> Config:
        """The same configuration with this patch and this batch."""
        return self.model_copy(update={"data": self.data.model_copy(update={"patch": patch, "batch": batch})})

    def sizes(self) -> list[tuple[str, DataConfig]]:
        """The section `data` of each stage, with the key that gives its batch, such as `data.batch` or `stages.1.batch`."""
        keys = ["data.batch" if stage.batch is None else f"stages.{index}.batch" for index, stage in enumerate(self.stages)]
        return list(zip(keys, map(self.data_of, self.stages), strict=True))

    def image_sources(self) -> list[tuple[str, ImageSource]]:
        """(key, source) of all images, for training and validation. The key is `data`, or `data.sources.1` for one of a list."""
        return [
            (key if images.sources is None else f"{key}.sources.{index}", source)
            for key, images in (("data", self.data), ("data.val", self.data.val))
            for index, source in enumerate(images.entries)
        ]

    def _check_something_to_learn(self) -> None:
        """Raises ValueError for a source without sharp images from which a stage, or validation, can learn nothing."""
        for key, source in self.image_sources():
            if source.sharp is not None:
                continue
            what = f"{key} ({source.folder}) has no sharp images"
            if self.teacher.mode == "none":
                raise ValueError(f"{what}, and teacher.mode is none: nothing says what they should be; set teacher.mode: online")
            for index, stage in enumerate(self.stages):
                if not key.startswith("data.val") and not stage.needs_target(self.vgg):
                    raise ValueError(f"{what}, and stages.{index} learns from sharp images alone; give its kd a weight")
                if not self.data.has_sharp and stage.vgg > 0 and self.vgg.against == "sharp":
                    raise ValueError(f"{what}, but stages.{index}.vgg compares with them; set vgg.against: teacher, or vgg: 0")

    def _check_cacheable(self) -> None:
        for key, source in self.image_sources():
            if source.blurry is None and not key.startswith("data.val"):
                raise ValueError(
                    f"teacher.mode: cached needs {key}.blurry, a folder: the blur of {source.folder} is new for each sample,"
                    " and a stored teacher image would not fit it; python -m distill.prepare writes such a folder"
                )
        photometric = {"gamma": (1.0, 1.0), "brightness": (0.0, 0.0), "shuffle_channels": 0.0}
        for key, neutral in photometric.items():
            if (value := getattr(self.augment, key)) != neutral:
                raise ValueError(
                    f"augment.{key}: {value} changes colours, and a cached teacher image would be wrong for the changed input;"
                    " remove it, or set teacher.mode: online"
                )
