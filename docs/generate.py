"""Writes what the documentation takes from the code: the JSON schema of the configuration, and the blocks of pages that stand
between `<!-- generated: KIND NAME -->` and `<!-- end -->`.

    python docs/generate.py

A test holds what is committed to what this gives.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from distill.config import Config, StudyConfig

ROOT = Path(__file__).resolve().parents[1]
SCHEMA, STUDY_SCHEMA = ROOT / "configs" / "schema.json", ROOT / "configs" / "study_schema.json"
HELP_COLUMNS = 100
BLOCK = re.compile(r"(<!-- generated: (\w+) ?(\S*) -->\n).*?(<!-- end -->)", re.DOTALL)
SHARED_OPTIONS = re.compile(
    r" \[-h\]|  -h, --help .*\n|  --config FILE +the run's YAML file\n  --set KEY=VALUE .*\n +override keys, such as .*\n"
)
Tree = dict[str, Any]
Keys = Iterable[tuple[str, Tree]]


def schema() -> Tree:
    """Of a configuration file, as editors read it (draft 7, which all of them know)."""
    return _schema_of(Config, "A run of online distillation", "One file describes one run; docs/configuration.md.")


def study_schema() -> Tree:
    """Of the file of a study."""
    return _schema_of(StudyConfig, "A study of online distillation", "Variants that distill.study compares; docs/studies.md.")


def _schema_of(model: type[BaseModel], title: str, description: str) -> Tree:
    tree = model.model_json_schema(ref_template="#/definitions/{model}")
    tree["definitions"] = tree.pop("$defs")
    about = {"title": title, "description": description}
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | about | _tidy(tree)


def _tidy(node: Any) -> Any:
    """Without the defaults of whole sections, which their keys have one by one, and with each description on one line."""
    if isinstance(node, list):
        return [_tidy(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _tidy(value) for key, value in node.items() if not (key == "default" and isinstance(value, dict))}
    if isinstance(kept.get("description"), str):
        kept["description"] = " ".join(kept["description"].split())
    kept.pop("discriminator", None)  # OpenAPI's word, which JSON Schema does not have
    return kept


def study_keys(_: str = "") -> str:
    """The keys of a study, and of its variants and validation sets, as tables."""
    tree = study_schema()
    parts = [
        _section("study", tree["properties"].items(), ""),
        *(_section(name, *_keys_of(tree, name)) for name in ("variants", "validation")),
    ]
    return "\n".join(parts)


def _keys_of(tree: Tree, name: str) -> tuple[Keys, str]:
    kind = _kinds(tree, tree["properties"][name])[0]
    return kind["properties"].items(), kind.get("description", "")


def configuration(_: str = "") -> str:
    """Every key, section by section, as tables."""
    tree = schema()
    first: dict[str, str] = {}
    return "\n".join(_section(path, _once(path, keys, first), described) for path, keys, described in _sections(tree))


def _once(path: str, keys: Keys, first: dict[str, str]) -> Keys:
    """With a reference in place of a description that a key of the same name has in an earlier section. `first` has these."""
    section = path.partition(", ")[0]
    for key, node in keys:
        said = node.get("description", "")
        named = first.setdefault(f"{key}: {said}", f"{section}.{key}")
        is_repeated = named != f"{section}.{key}" and len(said) > len(named) + 20
        yield key, node | {"description": f"As `{named}`."} if is_repeated else node


def _sections(tree: Tree) -> Iterator[tuple[str, Keys, str]]:
    """(heading, keys, description), in the order of the file."""
    for name, node in tree["properties"].items():
        said = node.get("description", "")
        kinds = _kinds(tree, node)
        if len(kinds) > 1 and any(option.get("type") == "array" for option in node.get("anyOf", [])):
            yield name, _joined([kind["properties"] for kind in kinds]), said
            continue
        for kind in kinds:
            keys = kind["properties"]
            tag = next((f"{key}: {value['const']}" for key, value in keys.items() if "const" in value), "")
            heading = f"{name}, {tag}" if tag else name
            about = said if kind is kinds[0] else ""
            own = kind.get("description", "")
            yield heading, keys.items(), " ".join(dict.fromkeys(filter(None, (about, own))))
            yield from _sections_below(tree, name, keys)


def _joined(kinds: list[Tree]) -> Keys:
    """The keys of several kinds of entries, those that all have first."""
    shared = {key: node for key, node in kinds[0].items() if all(kind.get(key) == node for kind in kinds)}
    return [*shared.items(), *((key, node) for kind in kinds for key, node in kind.items() if key not in shared)]


def _sections_below(tree: Tree, heading: str, keys: Tree) -> Iterator[tuple[str, Keys, str]]:
    """The sections among the keys of a section, and the entries of its lists, with those below them."""
    for key, node in keys.items():
        for kind in _kinds(tree, node):
            # The list's own description stands in its row.
            about = kind.get("description", "") or (node.get("description", "") if "$ref" in node else "")
            yield f"{heading}.{key}", kind["properties"].items(), about
            yield from _sections_below(tree, f"{heading}.{key}", kind["properties"])


def _kinds(tree: Tree, node: Tree) -> list[Tree]:
    """The sections that a value may be, or its entries where it is a list."""
    if "$ref" in node:
        return _kinds(tree, _resolve(tree, node))
    if "properties" in node:
        return [node]
    options = [*node.get("oneOf", []), *node.get("anyOf", []), *([node["items"]] if "items" in node else [])]
    return [kind for option in options for kind in _kinds(tree, option)]


def _resolve(tree: Tree, node: Tree) -> Tree:
    return tree["definitions"][node["$ref"].rpartition("/")[2]]


def _section(heading: str, keys: Keys, described: str) -> str:
    name, _, tag = heading.partition(", ")
    title = f"## `{name}`" + (f", `{tag}`" if tag else "")
    rows = [_row(key, value) for key, value in keys if "$ref" not in value]
    table = ["| key | value | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join([title, "", *([described, ""] if described else []), *table, ""])


def _row(key: str, node: Tree) -> str:
    default = _code(json.dumps(node["default"])) if "default" in node else "required"
    if isinstance(node.get("default"), str):
        default = _code(node["default"])
    if node.get("default", 0) is None:
        node = node | {"anyOf": [option for option in node["anyOf"] if option.get("type") != "null"]}
    return f"| `{key}` | {_values(node)} | {default} | {_text(node.get('description', ''))} |"


def _values(node: Tree) -> str:
    """What a key takes, in words."""
    if "anyOf" in node:
        return "; or ".join(_values(option) for option in node["anyOf"])
    if "const" in node:
        return _code(node["const"])
    if "$ref" in node:
        return "with the keys below"
    if "enum" in node:
        return ", ".join(_code(value) for value in node["enum"])
    kind = node["type"]
    if kind == "array":
        return _list(node)
    if kind == "string":
        return "text" + (f" that matches {_code(node['pattern'])}" if "pattern" in node else "")
    if kind in ("integer", "number"):
        return kind + _limits(node)
    return {"boolean": "`true`, `false`", "null": "`null`"}[kind]


def _list(node: Tree) -> str:
    items, least, most = _values(node["items"]), node.get("minItems"), node.get("maxItems")
    if least == most == 2:
        return f"pair, {items.removeprefix('number, ')}"
    if least is not None and least == most:
        return f"list of {least}, each {items}"
    return f"list, each {items}" + (", not empty" if least == 1 else "")


def _limits(node: Tree) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below, step = node.get("exclusiveMinimum"), node.get("exclusiveMaximum"), node.get("multipleOf")
    if low is not None and high is not None:
        words = f", {low:g} to {high:g}"
    elif above is not None and below is not None:
        words = f" above {above:g} and below {below:g}"
    else:
        bounds = (("≥", low), (">", above), ("below", below))
        words = ",".join(f" {sign} {bound:.10g}" for sign, bound in bounds if bound is not None)
    return words + (f", a multiple of {step:g}" if step is not None else "")


def _text(words: str) -> str:
    """As text that may stand in a table."""
    return words.replace("<", "&lt;").replace("|", "\\|")


def _code(value: Any) -> str:
    """As code that may stand in a table."""
    text = str(value)
    return "<code>" + text.replace("|", "&#124;") + "</code>" if "|" in text else f"`{text}`"


def command_help(name: str) -> str:
    """What `python -m distill.NAME --help` prints, without the options that the page explains once."""
    parser: argparse.ArgumentParser = importlib.import_module(f"distill.{name}").make_parser()
    parser.formatter_class = partial(argparse.RawDescriptionHelpFormatter, width=HELP_COLUMNS)  # type: ignore[assignment]
    parser.color = False  # type: ignore[attr-defined]  # Python 3.14 would colour it
    said = SHARED_OPTIONS.sub("", parser.format_help())
    return f"```text\n{said.rstrip()}\n```\n"


def signature(name: str) -> str:
    """A function's signature and docstring, as they stand in its file."""
    module, _, function_name = name.rpartition(".")
    function = getattr(importlib.import_module(module), function_name)
    lines = inspect.getsource(function).splitlines()
    node = ast.parse(inspect.getsource(function)).body[0]
    assert isinstance(node, ast.FunctionDef)
    head = "\n".join(lines[: node.body[0].lineno - 1]).rstrip().removesuffix(":")
    return f"```python\n{head}\n```\n\n{inspect.getdoc(function)}\n"


KINDS: dict[str, Callable[[str], str]] = {
    "configuration": configuration,
    "study": study_keys,
    "help": command_help,
    "signature": signature,
}


def filled(text: str) -> str:
    """A page with its generated blocks as they should be."""
    return BLOCK.sub(lambda match: match[1] + KINDS[match[2]](match[3]) + match[4], text)


def main() -> None:
    for path, tree in ((SCHEMA, schema()), (STUDY_SCHEMA, study_schema())):
        path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    for page in sorted((ROOT / "docs").glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
