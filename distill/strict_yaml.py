"""YAML as a configuration needs it: safe, duplicate keys refused, numbers and words as they look, overrides by key path.

Raises ValueError, with one line that says what and where.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """A document of plain YAML. Raises ValueError."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        raise ValueError(place + " ".join(str(getattr(error, "problem", None) or error).split())) from None


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML with duplicate keys refused, and YAML 1.2's scalars: `off` is a word, `1e-4` a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                what = f"duplicate key {key!r}" if isinstance(key, Hashable) else "a key must be a word"
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(_BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_StrictLoader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?(\d+\.\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF|nan|NaN|NAN))$"),
    list("-+.0123456789"),
)


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one value of the tree in place: `data.val.sharp=photos`, `stages.0.epochs=3`. Raises ValueError."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ValueError(f"--set takes key.path=value, found {override!r}")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"--set {override}: {error}") from None
    *parents, last = path.split(".")
    node: Any = tree
    for key in parents:
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[_index(node, key, path)]
    node[_index(node, last, path)] = value


def _index(node: Any, key: str, path: str) -> str | int:
    """`key` as an index of `node`, which is a section or a list."""
    if isinstance(node, dict):
        return key
    if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
        return int(key)
    what = f"the list has entries 0 to {len(node) - 1}" if isinstance(node, list) else f"what is above it is no section: {node!r}"
    raise ValueError(f"--set {path}: no {key} there; {what}")
