"""YAML as a configuration needs it: safe, duplicate keys refused, numbers and words as they look, overrides by key path.

Raises ValueError, with one line that says what and where.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from distill.config.explain import short

# Far beyond any configuration, and near enough that whatever walks through one (a message, the validation, the copy in the run
# folder) neither recurses too deeply nor fills the memory, however often a file repeats itself through aliases.
MAX_DEPTH, MAX_NODES = 32, 10_000
# Such an integer is quickly read, and can be shown.
MAX_DIGITS = 32
MAX_PATH = 200
# What cannot be in the name of a file, or would break a message into lines. What stands for bytes that are no UTF-8 can be.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udc7f\udd00-\udfff]")


def parse_yaml(text: str) -> Any:
    """A document of plain YAML, without tags. Raises ValueError."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark is not None else ""
        raise ValueError(place + " ".join(str(getattr(error, "problem", None) or error).split())) from None
    except OverflowError as error:  # of the character that \Uffffffff would be
        raise ValueError(f"not YAML: {error}") from None


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML with duplicate keys refused, and YAML 1.2's scalars: `off` is a word, `1e-4` a number, `010` ten. Numbers are
    decimal alone: `0x10`, `1_000` and `1:30` are text, and refused where a number should be."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Counts an alias as what it stands for."""
        event, before = self.peek_event(), self._nodes
        if isinstance(event, yaml.ScalarEvent) and (control := _CONTROL.search(event.value)):
            raise _refusal(event, f"{short(event.value)} has the control character {control[0]!r} in it")
        if (tag := getattr(event, "tag", None)) not in (None, "!"):
            raise _refusal(event, f"tags are not understood: write the value without {short(tag)}")
        if self._depth == MAX_DEPTH:
            raise _refusal(event, f"nested more than {MAX_DEPTH} deep")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
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
        return int(node.value)


def _refusal(event: yaml.Event, problem: str) -> yaml.YAMLError:
    mark: Any = event.start_mark  # types-PyYAML tells the two kinds of marks apart that PyYAML does not
    return yaml.composer.ComposerError(None, None, problem, mark)


_BOOL, _INT, _FLOAT, _TIMESTAMP = (f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp"))
_StrictLoader.add_constructor(_INT, _StrictLoader.construct_yaml_int)
# YAML 1.2 has no times: a run folder may be called 2026-01-31.
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
    """Quotes the words that other readers of YAML take for something else, and those that ours does."""


_Dumper.yaml_implicit_resolvers = {first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()}
for _first, _resolvers in _StrictLoader.yaml_implicit_resolvers.items():
    _Dumper.yaml_implicit_resolvers.setdefault(_first, []).extend(_resolvers)


def dump_yaml(tree: Any) -> str:
    """A document from which `parse_yaml` makes an equal tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one value of the tree in place: `data.val.sharp=photos`, `stages.0.epochs=3`. Raises ValueError."""
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
    what = f"the list has entries 0 to {len(node) - 1}" if isinstance(node, list) else f"above it is no section: {short(node)}"
    raise ValueError(f"--set {path}: no {key} there; {what}")
