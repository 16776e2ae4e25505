"""Reads configurations from YAML, validates them, and writes them as YAML."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from distill.config.degradations import Recipe
from distill.config.explain import explain, short
from distill.config.schema import Config
from distill.config.strict_yaml import apply_override, dump_yaml, parse_yaml
from distill.config.study import StudyConfig
from distill.errors import UserError

MAX_BYTES = 2**20
SHOWN_ERRORS = 3

Schema = TypeVar("Schema", bound=BaseModel)


class ConfigError(UserError):
    """A configuration that cannot be run. The one-line message names the key, what was found and what would be right."""


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a YAML file, applies `key.path=value` overrides, and validates.

    Raises FileNotFoundError if the file does not exist, and ConfigError if the file or an override is wrong.
    """
    return parse_config(_read_tree(Path(path), overrides), source=str(path))


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """As `load_config`, for the file of a study."""
    return _validate(StudyConfig, _read_tree(Path(path), overrides), str(path))


def _read_tree(path: Path, overrides: Iterable[str]) -> dict[str, Any]:
    """The file as a nested dictionary, with the overrides applied. Raises FileNotFoundError and ConfigError."""
    if not path.is_file():
        raise FileNotFoundError(f"config not found: {path}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ConfigError(f"{path}: {size} bytes are no configuration; {MAX_BYTES} are allowed")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError(f"a config is a mapping of sections, found {short(tree)}")
        for override in overrides:
            apply_override(tree, override)
    except ValueError as error:  # UnicodeDecodeError is a ValueError
        raise ConfigError(f"{path}: {error}") from None
    return tree


def parse_config(tree: dict[str, Any], source: str = "config") -> Config:
    """Validates a nested dictionary. Raises ConfigError, whose message begins with `source`."""
    return _validate(Config, tree, source)


def parse_recipe(text: str) -> list[Any]:
    """The degradations that `text` names. `text` is a preset, a YAML list, or the path of a config file, whose `degrade` is used.
    Raises ConfigError and FileNotFoundError."""
    if text.endswith((".yaml", ".yml")):
        return load_config(text).degrade
    try:
        tree = {"degrade": parse_yaml(text)}
    except ValueError as error:
        raise ConfigError(f"degrade: {error}") from None
    return _validate(Recipe, tree, short(text)).degrade


def _validate(schema: type[Schema], tree: dict[str, Any], source: str) -> Schema:
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        errors = error.errors()
        more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
        shown = "; ".join(explain(schema, tree, e) for e in errors[:SHOWN_ERRORS])
        raise ConfigError(f"{source}: {shown}{more}") from None


def dump_config(config: Config) -> str:
    """The configuration as YAML, defaults included. `load_config` makes an equal Config from it."""
    return dump_yaml(config.model_dump(mode="json"))
