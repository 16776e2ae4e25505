"""The pages agree with the code, with one another, and with what a reader has; and the site builds without a warning."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from shell_commands import COMMANDS, CONFIGS, STUDIES

from distill.config import Config
from distill.config.explain import key_names
from distill.config.strict_yaml import parse_yaml

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
SCHEMA_LINE = "# yaml-language-server: $schema={}"
HINT = "run python docs/generate.py"


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads(read(ROOT / "configs" / "schema.json")))


# What comes from the code


def test_the_committed_schema_is_of_this_code(generate: ModuleType) -> None:
    assert json.loads(read(generate.SCHEMA)) == generate.schema(), HINT
    assert json.loads(read(generate.STUDY_SCHEMA)) == generate.study_schema(), HINT


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_generated_blocks_are_of_this_code(generate: ModuleType, page: Path) -> None:
    # Python versions wrap a usage line in different places.
    assert generate.filled(read(page)).split() == read(page).split(), HINT


def test_every_command_has_its_help_on_the_page() -> None:
    shown = set(
        re.findall(r"<!-- generated: help (\w+) -->\n```text\nusage: python -m distill\.\1", read(ROOT / "docs" / "commands.md"))
    )
    assert shown == set(COMMANDS)


def test_every_key_has_a_meaning_on_the_page(generate: ModuleType) -> None:
    rows = [line for line in generate.configuration().splitlines() if line.startswith("| `")]
    names = {row.split("`")[1] for row in rows}
    sections = {"run", "data", "val", "degrade", "augment", "teacher", "student", "stages", "vgg", "optimizer", "eval", "bench"}
    assert names | sections >= {name.rpartition(".")[2] for name in key_names(Config)}
    assert all(row.rstrip(" |").rpartition("|")[2].strip() for row in rows), "a key without a docstring"
    assert len(rows) > 80


def test_every_shipped_configuration_is_on_the_page() -> None:
    table = read(ROOT / "docs" / "configuration.md").partition("Any key can be changed")[0]
    assert set(re.findall(r"`(\w+\.yaml)`", table)) == {path.name for path in CONFIGS}


# The schema for editors


def test_the_schema_is_one(validator: jsonschema.Draft7Validator) -> None:
    validator.check_schema(validator.schema)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_fits_the_schema_and_says_where_it_is(path: Path) -> None:
    schema = "study_schema.json" if path in STUDIES else "schema.json"
    validator = jsonschema.Draft7Validator(json.loads(read(ROOT / "configs" / schema)))
    assert list(validator.iter_errors(parse_yaml(read(path)))) == []
    assert read(path).splitlines()[0] == SCHEMA_LINE.format(schema)


@pytest.mark.parametrize(
    "change",
    [
        {"dta": {}},
        {"data": {"pach": 96}},
        {"data": {"val": {"shrp": "samples"}}},
        {"student": {"widht": 16}},
        {"student": {"arch": "restormer", "width": 16}},
        {"degrade": [{"kind": "gaussian_blur", "sgma": [1, 2]}]},
        {"stages": [{"name": "v1", "epochs": 1, "kld": 1}]},
    ],
    ids=str,
)
def test_the_schema_refuses_a_mistyped_key(change: dict[str, Any], validator: jsonschema.Draft7Validator) -> None:
    tree = parse_yaml(read(ROOT / "configs" / "quickstart.yaml"))
    assert validator.is_valid(tree)
    assert not validator.is_valid(tree | change)


@pytest.mark.parametrize(
    "change",
    [{"data": {"patch": 8}}, {"optimizer": {"lr": 0}}, {"teacher": {"mode": "offline"}}, {"augment": {"gamma": [0.01, 2]}}],
    ids=str,
)
def test_the_schema_refuses_a_value_out_of_range(change: dict[str, Any], validator: jsonschema.Draft7Validator) -> None:
    assert not validator.is_valid(parse_yaml(read(ROOT / "configs" / "quickstart.yaml")) | change)


def test_the_schema_knows_the_presets(validator: jsonschema.Draft7Validator) -> None:
    from distill.config.degradations import DEGRADE_PRESETS

    tree = parse_yaml(read(ROOT / "configs" / "quickstart.yaml"))
    assert all(validator.is_valid(tree | {"degrade": name}) for name in DEGRADE_PRESETS)
    assert not validator.is_valid(tree | {"degrade": "haze"})


# The pages by themselves


def test_the_tree_of_the_source_is_the_real_one() -> None:
    text = read(ROOT / "docs" / "how-it-works.md")
    listed: list[str] = []
    folders: list[str] = []
    for line in re.search(r"```text\n(.*?)```", text, re.DOTALL)[1].splitlines():  # type: ignore[index]
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth:] = [name]
        if name.endswith(".py"):
            listed.append("".join(folders))
            assert len(line.split()) > 2, f"{name}: no phrase"
    packages = ("distill", "restormer", "unet")
    real = [
        p.relative_to(ROOT).as_posix() for package in packages for p in (ROOT / package).rglob("*.py") if p.name != "__init__.py"
    ]
    assert sorted(listed) == sorted(real)


def keys_named() -> Iterator[tuple[str, str]]:
    sections = "|".join(Config.model_fields)
    for page in PAGES:
        for key in re.findall(rf"`((?:{sections})(?:\.\w+)+)(?:[=:] ?[^`]*)?`", read(page)):
            if not key.endswith((".py", ".jsonl")):
                yield page.name, re.sub(r"\.\d+", "", key)


def test_a_key_that_a_page_names_exists() -> None:
    known = {*key_names(Config)}
    named = list(keys_named())
    assert len(named) > 50
    assert [(page, key) for page, key in named if key not in known] == []


def test_status_and_signals_are_as_the_page_says() -> None:
    from distill.command import SIGNALS, USER_ERROR_STATUS

    table = read(ROOT / "docs" / "commands.md").partition("## Exit status")[2].partition("## train")[0]
    assert set(re.findall(r"^\| (\d+) \|", table, re.MULTILINE)) == {
        "0",
        "1",
        *map(str, (USER_ERROR_STATUS, *(128 + s for s in SIGNALS))),
    }


def slug(heading: str) -> str:
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return words.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^ *```.*?^ *```", "", read(page), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)$", read(path), re.MULTILINE)), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_speaks_of_no_machine(page: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:home|work|tmp|root|Users|mnt)/\S*", read(page)) == []


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")),
    reason='the site needs pip install -e ".[docs]"',
)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        str(tmp_path / "trees"),
        "docs",
        str(tmp_path / "site"),
    ]
    built = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "index.html").is_file()
