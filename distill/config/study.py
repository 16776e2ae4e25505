"""The schema of a study: variants of one configuration, trained with several seeds and scored on the same images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill.config.types import PathName, Positive, Section

# What a study writes into its folder, beside one folder for each variant.
RESERVED = frozenset({"pilots", "study.json", "study.md", "study.html"})
# Keys that a study sets in every run, and what to write instead.
OWN = {"run.seed": "list all seeds as `seeds`", "run.dir": "its runs are folders below `dir`"}
# Not `..`, which is no folder of its own.
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class Variant(Section):
    """One of the configurations that are compared."""

    name: FolderName
    """Names the variant in tables, and its folder below `dir`."""
    set: list[str] = []
    """Overrides of the base configuration, `key.path=value` each."""
    after: FolderName | None = None
    """The name of a variant above. This variant begins with that one's student of the same seed."""


class ValidationSet(Section):
    """Images that every finished student is scored on."""

    name: FolderName
    """Names the set in tables."""
    set: list[str] = []
    """Overrides of the base configuration, such as `data.val.sharp=FOLDER` or another `degrade`."""


class StudyConfig(Section):
    dir: PathName
    """The folder of the study, which holds the folders of its runs."""
    base: PathName
    """The configuration file that all variants share."""
    set: list[str] = []
    """Overrides that all variants share. A variant's own come after them."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = [0, 1, 2]
    """Values of `run.seed`. Every variant is trained with each."""
    match: Literal["steps", "time"] = "time"
    """`steps`: every variant trains as long as its stages say. `time`: epochs are lengthened or shortened so that all variants
    train for the same time."""
    minutes: Positive | None = None
    """With `match: time`, the training time of each run. null: as long as the first variant's stages take."""
    variants: Annotated[list[Variant], Field(min_length=1)]
    """The others are compared with the first one."""
    only: list[FolderName] = []
    """Names of variants. All others are left out, of the tables too; the first that is left is the one to compare with. []: none
    is left out."""
    validation: Annotated[list[ValidationSet], Field(min_length=1)] = [ValidationSet(name="validation")]
    """The sets of images that students are scored on. Default: the base configuration's `data.val`."""

    @model_validator(mode="after")
    def _check_names(self) -> StudyConfig:
        for key, names in (
            ("variants", [variant.name for variant in self.variants]),
            ("validation", [validation.name for validation in self.validation]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{key}: two have the same name: {', '.join(twice)}")
        seen: list[str] = []
        for variant in self.variants:
            if variant.name in RESERVED:
                raise ValueError(f"variants: {variant.name} is the name of a folder of the study's own")
            if variant.after is not None and variant.after not in seen:
                raise ValueError(f"variants: {variant.name} comes after {variant.after}, which must stand above it")
            if variant.name in self.only and variant.after not in {None, *self.only}:
                raise ValueError(f"only: {variant.name} comes after {variant.after}, which must be listed too")
            seen.append(variant.name)
        if unknown := [name for name in self.only if name not in seen]:
            raise ValueError(f"only: no variant is called {unknown[0]}; there are {', '.join(seen)}")
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError("seeds: one is given twice")
        if self.minutes is not None and self.match == "steps":
            raise ValueError("minutes is given although match is steps; remove one of them")
        return self

    @model_validator(mode="after")
    def _check_overrides(self) -> StudyConfig:
        for where, overrides in (("set", self.set), *((f"variants: {v.name}", v.set) for v in self.variants)):
            for key in (override.partition("=")[0] for override in overrides):
                if key in OWN:
                    raise ValueError(f"{where}: {key} is given by the study itself; {OWN[key]}")
        return self
