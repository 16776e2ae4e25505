"""Damaged and hostile configurations: one that can be written down and read back equal, or a ConfigError that names the place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from fuzzing import FUZZ, ODD_VALUES, Edit, confined, edits, mutate, mutated_trees, outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from shell_commands import RUNS

from distill.config import ConfigError, dump_config, load_config, parse_recipe

pytestmark = pytest.mark.slow

SEEDS = [path.read_text(encoding="utf-8") for path in RUNS]
TREES = [yaml.safe_load(text) for text in SEEDS]
TOKENS = ["&a ", "*a", "<<: ", "<<: *a", "!!int ", "!!python/object/apply:os.system ['touch outside']", "!!binary ", "!x ", "- "]
TOKENS += [
    "? ",
    ": ",
    ", ",
    "[",
    "]",
    "{",
    "}",
    "|\n",
    ">\n",
    "'",
    '"',
    "#",
    "%YAML 9.9\n",
    "---\n",
    "...\n",
    "\t",
    "\n",
    "\0",
    "\ufeff",
]
TOKENS += [
    "9" * 5000,
    "0x" + "f" * 5000,
    "1" + ":59" * 2000,
    "1e400",
    ".nan",
    "-.inf",
    "0o17",
    "2001-99-99",
    "~",
    "off",
    "x" * 5000,
]
TOKENS += [
    '"\\Uffffffff"',
    '"\\ud800"',
    '"\\0"',
    "[" * 2000,
    "{a: " * 2000,
    "- " * 2000,
    "é",
    "\x85",
    "\u2028",
    "\U0001f600",
    "=",
]
TOKENS += ["\n  ", "\n    ", "run: ", "data: ", "stages: ", "degrade: ", "student: {arch: restormer}", "kind: ", "sigma: [3, 1]"]


def mutate_tokens(text: str, changes: list[Edit]) -> str:
    """Changes whole words, marks and spaces of a text."""
    tokens = re.findall(r"\w+|\s+|.", text)
    for kind, place, amount, _ in changes:
        at = place * len(tokens) // 2**16
        if kind in ("delete", "cut"):
            tokens[at : at + 1 + amount % 6] = []
        elif kind == "repeat":
            tokens[at:at] = tokens[at : at + amount] * (1 + amount % 3)
        elif kind == "splice":
            tokens.insert(amount * len(tokens) // 256, tokens[at] if tokens else "")
        elif kind == "insert":
            tokens.insert(at, TOKENS[amount % len(TOKENS)])
        else:
            tokens[at : at + 1] = [TOKENS[(amount + place) % len(TOKENS)]]
    return "".join(tokens)


@st.composite
def bombs(draw: st.DrawFn) -> str:
    """Few lines that stand for many values, before, in or in the place of a configuration."""
    width, height = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["[{}]", "{{k: [{}]}}", "{{<<: [{}]}}"]))
    lines = ["&a0 x", *(f"&a{row} " + kind.format(", ".join([f"*a{row - 1}"] * width)) for row in range(1, height))]
    key = draw(st.sampled_from(["extra", "degrade", "stages", "data"]))
    return draw(st.sampled_from(SEEDS)) + f"\n{key}:\n" + "".join(f" - {line}\n" for line in lines)


@st.composite
def config_files(draw: st.DrawFn) -> bytes:
    level = draw(st.sampled_from(["bytes", "tokens", "tokens", "tree", "tree", "bomb"]))
    if level == "bomb":
        return draw(bombs()).encode()
    if level == "tree":
        dump = draw(st.sampled_from([json.dumps, yaml.safe_dump]))
        return dump(draw(mutated_trees(TREES))).encode()
    text, changes = draw(st.sampled_from(SEEDS)), draw(edits)
    return mutate(text.encode(), changes, SEEDS[0].encode()) if level == "bytes" else mutate_tokens(text, changes).encode()


KEYS = ["run", "run.dir", "data.sharp", "data.val.blurry", "degrade", "degrade.0.kind", "stages", "stages.0.epochs", "student"]
KEYS += [
    "student.arch",
    "augment.gamma",
    "bench.teacher_shapes",
    "stages.²",
    "stages." + "9" * 5000,
    "",
    ".",
    "a\nb",
    "x.y." * 99,
]
overrides = st.lists(
    st.tuples(
        st.sampled_from(KEYS), st.sampled_from(["=", "=", "=", "", "=="]), st.sampled_from(TOKENS + [str(v) for v in ODD_VALUES])
    ).map("".join),
    max_size=2,
)


def check_config(path: Path, changes: list[str]) -> None:
    config = outcome(lambda: load_config(path, changes), ConfigError)
    if config is not None:
        path.with_name("resolved.yaml").write_text(dump_config(config), encoding="utf-8")
        assert load_config(path.with_name("resolved.yaml")) == config


@given(data=config_files(), changes=st.one_of(st.just([]), overrides))
@FUZZ
def test_a_mutated_configuration_is_read_or_refused(
    data: bytes, changes: list[str], tmp_path: Path, bounded_memory: None
) -> None:
    (tmp_path / "c.yaml").write_bytes(data)
    with confined(tmp_path):
        check_config(tmp_path / "c.yaml", changes)


@given(number=st.integers(0, len(SEEDS) - 1), changes=overrides, recipe=st.sampled_from(TOKENS))
@settings(FUZZ, max_examples=1500)
def test_odd_overrides_and_recipes_are_read_or_refused(
    number: int, changes: list[str], recipe: str, tmp_path: Path, bounded_memory: None
) -> None:
    (tmp_path / "c.yaml").write_text(SEEDS[number], encoding="utf-8")
    with confined(tmp_path):
        check_config(tmp_path / "c.yaml", changes)
        outcome(lambda: parse_recipe(recipe), ConfigError)
