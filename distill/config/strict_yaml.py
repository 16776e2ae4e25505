"""Strict YAML for configurations: safe loading, no duplicate keys, numbers and words as in YAML 1.2, overrides by key path.

Functions raise ValueError. Its one-line message says what is wrong and where.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from distill.config.explain import short

# No configuration comes near these limits. Messages, the validation and the copy in the run folder walk through the whole tree.
# The limits keep them from recursing too deeply and from filling the memory, even if aliases repeat parts of the file many times.
MAX_DEPTH, MAX_NODES = 32, 10_000
# An integer of this length is parsed quickly, and a message can show it.
MAX_DIGITS = 32
# In characters: the longest key path that an override may have.
MAX_PATH = 200
# Characters that a file name cannot hold or that would break a message into lines. U+DC80 to U+DCFF are allowed: Python uses them
# for the bytes of a file name that are not UTF-8.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udc7f\udd00-\udfff]")


def parse_yaml(text: str) -> Any:
    """Parses a YAML document. Raises ValueError, also if the document has a tag such as `!!set`."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        raise ValueError(place + " ".join(str(getattr(error, "problem", None) or error).split())) from None
    except OverflowError as error:  # raised for the escape \Uffffffff, which is no character
        raise ValueError(f"not YAML: {error}") from None


class _StrictLoader(yaml.SafeLoader):
    """Loads safe YAML, refuses duplicate keys, and reads scalars as in YAML 1.2: `off` is a word, `1e-4` is a number, `010` is
    ten.

    Numbers are decimal: `0x10`, `1_000` and `1:30` are text, which the validation refuses if a key needs a number.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0
        # By the id of a composed node: the number of values in it, counting itself.
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuses control characters, tags, recursive aliases, and documents that are too deep or too large. An alias counts as
        many values as the node that it repeats."""
        event, before = self.peek_event(), self._nodes
        if isinstance(event, yaml.ScalarEvent) and (control := _CONTROL.search(event.value)):
            raise _refusal(event, f"{short(event.value)} has the control character {control[0]!r} in it")
        # A lone `!` names no type: PyYAML reads `! 12` as `12`.
        if (tag := getattr(event, "tag", None)) not in (None, "!"):
            raise _refusal(event, f"tags are not understood: write the value without {short(tag)}")
        if self._depth == MAX_DEPTH:
            raise _refusal(event, f"nested more than {MAX_DEPTH} deep")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        # An alias gives its anchor's node. If that node has no size yet, it is still being composed: the alias is inside it.
        if isinstance(event, yaml.AliasEvent) and id(node) not in self._sizes:
            raise _refusal(event, f"*{short(event.anchor)} stands inside of what it stands for")
        self._nodes = before + self._sizes[id(node)] if isinstance(event, yaml.AliasEvent) else self._nodes + 1
        self._sizes[id(node)] = self._nodes - before
        if self._nodes > MAX_NODES:
            raise _refusal(event, f"more than {MAX_NODES} values, counted with what aliases repeat")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                what = f"duplicate key {short(key)}" if isinstance(key, Hashable) else "a key must be a word"
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value)} characters; {MAX_DIGITS} are allowed", node.start_mark
            )
        return int(node.value)  # PyYAML's own method reads 010 as octal


def _refusal(event: yaml.Event, problem: str) -> yaml.YAMLError:
    mark: Any = event.start_mark  # types-PyYAML distinguishes two kinds of marks; PyYAML does not
    return yaml.composer.ComposerError(None, None, problem, mark)


_BOOL, _INT, _FLOAT, _TIMESTAMP = (f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp"))
_StrictLoader.add_constructor(_INT, _StrictLoader.construct_yaml_int)
# A resolver gives a plain scalar its type: by a pattern, tried if the scalar begins with one of the listed characters. PyYAML's
# patterns for these four types are YAML 1.1's. Those for bool, int and float are replaced below. YAML 1.2 has no timestamps:
# 2026-01-31 is text, and may be the name of a run folder.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _INT, _FLOAT, _TIMESTAMP)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(_BOOL, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_StrictLoader.add_implicit_resolver(_INT, re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_StrictLoader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?(\d+\.\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|Inf|INF|nan|NaN|NAN))$"),
    list("-+.0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Quotes a text if PyYAML's own rules or those of `_StrictLoader` would read it as something else, such as a number."""


_Dumper.yaml_implicit_resolvers = {first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()}
for _first, _resolvers in _StrictLoader.yaml_implicit_resolvers.items():
    _Dumper.yaml_implicit_resolvers.setdefault(_first, []).extend(_resolvers)


def dump_yaml(tree: Any) -> str:
    """Writes the tree as a YAML document. `parse_yaml` makes an equal tree from it."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one value of the tree in place, such as `data.val.sharp=photos` or `stages.0.epochs=3`. Raises ValueError."""
    path, equals, text = override.partition("=")
    if not equals or not path or len(path) > MAX_PATH or _CONTROL.search(path):
        raise ValueError(f"--set takes key.path=value, found {short(override)}")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"--set {path}: {error}") from None
    *parents, last = path.split(".")
    node: Any = tree
    for key in parents:
        if isinstance(node, dict) and node.get(key) is None:  # the file lacks this section, or has nothing in it
            node[key] = {}
        node = node[_index(node, key, path)]
    node[_index(node, last, path)] = value


def _index(node: Any, key: str, path: str) -> str | int:
    """`key` as an index of `node`: itself for a section, a number for a list. Raises ValueError if `node` has no such index."""
    if isinstance(node, dict):
        return key
    if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
        return int(key)
    what = f"the list has entries 0 to {len(node) - 1}" if isinstance(node, list) else f"above it is no section: {short(node)}"
    raise ValueError(f"--set {path}: no {key} there; {what}")
