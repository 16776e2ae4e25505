"""Turns pydantic's errors into one-line messages that name the key and suggest the right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def explain(schema: type[BaseModel], tree: dict[str, Any], error: Any) -> str:
    """Formats one entry of `ValidationError.errors()` as `key.path: what would be right, found what`. `tree` is the nested
    dictionary that was validated."""
    # Pydantic's location includes the tag of a tagged union, such as (degrade, 0, noise, sigma). The key path in the file,
    # degrade.0.sigma, does not.
    location = _in_tree(tree, error["loc"])
    path = ".".join(_word(part) for part in location)
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "union_tag_invalid":  # pydantic's own message repeats the whole tag, however long it is
        context = error["ctx"]
        return f"{path}: {context['discriminator']} is one of {context['expected_tags']}, found {short(context['tag'])}"
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key{_did_you_mean(schema, location, error['loc'])}"
    if error["type"] == "missing":
        return f"{path}: missing, and has no default"
    # The message of a section's own check says what is wrong. The input is then the whole section, and would only be noise.
    of_section = error["type"] == "value_error" and isinstance(error["input"], dict)
    found = "" if of_section else f", found {short(error['input'])}"
    return f"{path}: {message}{found}" if path else f"{message}"


def _in_tree(tree: Any, location: Iterable[str | int]) -> list[str | int]:
    """The parts of a pydantic location that exist in the file.

    A last part that does not exist is kept if it stands in a section: it names a missing key. If it follows a value, or has
    brackets, it names a type that pydantic tried, such as `str` or `list[str]`, and is left out.
    """
    kept: list[str | int] = []
    parts = list(location)
    for index, part in enumerate(parts):
        in_list = isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if in_list or (isinstance(tree, dict) and part in tree):
            tree = tree[part]
            kept.append(part)
        elif index == len(parts) - 1 and isinstance(tree, dict) and "[" not in str(part):
            kept.append(part)
    return kept


def _did_you_mean(schema: type[BaseModel], location: list[str | int], tags: Iterable[str | int]) -> str:
    """The hint for an unknown key: a similar key of its section, else the same key of a section of another name, else all keys of
    its section. `tags` has the tags of the tagged unions that the section is in."""
    *parents, wrong = map(_word, location)
    section = ".".join(part for part in parents if not part.isdecimal())
    siblings = [name.rpartition(".")[2] for name in key_names(schema, tags=[*tags]) if name.rpartition(".")[0] == section]
    close = difflib.get_close_matches(wrong, siblings, n=1)
    if close:
        return f"; did you mean {'.'.join([*parents, close[0]])}?"
    elsewhere = [
        name for name in key_names(schema) if name.split(".")[-1] == wrong and name.split(".")[-2:-1] != section.split(".")[-1:]
    ]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return f"; known here: {', '.join(dict.fromkeys(siblings))}" if siblings else ""


def key_names(annotation: Any, prefix: str = "", tags: Sequence[str | int] | None = None) -> list[str]:
    """Every key path of a schema type. Paths into list entries have no index. With `tags`, of the sections of a tagged union only
    those with one of these tags."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        literals = [get_args(f.annotation) for f in annotation.model_fields.values() if get_origin(f.annotation) is Literal]
        if tags is not None and any(len(values) == 1 and values[0] not in tags for values in literals):
            return []
        names = []
        for name, field in annotation.model_fields.items():
            names += [prefix + name, *key_names(field.annotation, f"{prefix}{name}.", tags)]
        return names
    if get_origin(annotation) in (Union, UnionType, Annotated, list):
        return [name for inner in get_args(annotation) for name in key_names(inner, prefix, tags)]
    return []


def _word(part: str | int) -> str:
    """A part of a key path, cut to 40 characters. The user may have written a key of any length."""
    text = str(part)
    return text if len(text) <= 40 else text[:37] + "..."


def short(value: Any) -> str:
    """The value's repr, cut to 60 characters for a one-line message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
