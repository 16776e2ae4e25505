"""Every shell command of the documents, the configurations and the commands' help is one that works: ours are read by their own
parsers and their overrides by the schema, and the others name what is there. What cannot be run here says why, in a comment
`<!-- not run: reason -->` before its block."""

from __future__ import annotations

import argparse
import configparser
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from distill.config import load_config

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>.*?) -->\n+)?^(?P<indent> *)```(?:sh|bash)\n(?P<text>.*?)^ *```", re.M | re.S)
# Inside sentences and tables only whole commands are, and not names such as `distill.cache --repair`.
INLINE = re.compile(r"`((?:python -m|torchrun [^`]*-m) distill\.[a-z]+ [^`]*)`")
VARIABLE = re.compile(r"^[A-Z_]+=")


@dataclass(frozen=True)
class Command:
    place: str
    words: tuple[str, ...]


def commands_of_text(place: str, text: str) -> Iterator[Command]:
    """One for each line; a backslash joins lines, and a variable of the block stands for its value."""
    variables: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r" && ", line):
            # As a shell: unquoted variables fall into words.
            replaced = re.sub(r"\$([A-Z_]+)", lambda match: variables.get(match[1], match[0]), part)
            words = shlex.split(replaced, comments=True)
            if words and words[0] == "export":
                words.pop(0)
            if len(words) == 1 and VARIABLE.match(words[0]):
                variables.update([words[0].split("=", 1)])
            elif words:
                yield Command(place, tuple(words))


def commands() -> Iterator[Command]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            if block["reason"] is None:
                yield from commands_of_text(page.name, block["text"])
        prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
        for found in INLINE.findall(prose):
            yield from commands_of_text(page.name, " ".join(found.split()))
    for path in CONFIGS:
        lines = [line[1:] for line in path.read_text(encoding="utf-8").splitlines() if re.match(r"#  +\S", line)]
        written = "\n".join(lines)
        yield from (c for c in commands_of_text(path.name, written) if c.words[0] == "python")
    for name in COMMANDS:
        example = (make_parser(name).epilog or "").partition("example:\n")[2].partition("\n\n")[0]
        yield from commands_of_text(f"{name} --help", example)


def make_parser(name: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = importlib.import_module(f"distill.{name}").make_parser()
    return parser


COMMANDS = sorted(path.stem for path in (ROOT / "distill").glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
ALL = list(dict.fromkeys(commands()))
OURS = [command for command in ALL if any(word.startswith("distill.") for word in command.words)]
OTHERS = [command for command in ALL if command not in OURS]


def label(command: Command) -> str:
    return f"{command.place} {' '.join(command.words)}"[:90]


def test_there_are_commands() -> None:
    assert len(OURS) > 40
    assert len(COMMANDS) >= 7


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_shows_an_example_and_says_what_its_options_do(name: str) -> None:
    parser = make_parser(name)
    assert f"  python -m distill.{name} " in (parser.epilog or "").partition("example:\n")[2]
    assert all(action.help for action in parser._actions)


@pytest.mark.parametrize("command", OURS, ids=label)
def test_a_command_is_understood(command: Command) -> None:
    start = next(index for index, word in enumerate(command.words) if word.startswith("distill."))
    assert command.words[start - 1] == "-m"
    launcher = command.words[: start - 1]
    assert launcher in [("python",)] or launcher[0] in ("torchrun", "srun"), launcher
    parser = make_parser(command.words[start].removeprefix("distill."))
    arguments = parser.parse_intermixed_args(list(command.words[start + 1 :]))  # exits where it does not understand
    config = getattr(arguments, "config", None)
    if config is not None and not config.isupper():
        load_config(ROOT / config, arguments.set)
    degrade = getattr(arguments, "degrade", "")
    assert not degrade.endswith(".yaml") or (ROOT / degrade).is_file()


@pytest.mark.parametrize("command", OTHERS, ids=label)
def test_another_programs_command_names_what_is_there(command: Command) -> None:
    program, *rest = command.words
    if program == "pip":
        extras = configparser.ConfigParser(interpolation=None)
        extras.read(ROOT / "setup.cfg")
        named = re.findall(r"\[(\w+)\]", " ".join(rest))
        assert rest[:2] == ["install", "-e"]
        assert all(extra in extras["options.extras_require"] for extra in named)
    elif program in ("python", "bash"):
        assert (ROOT / rest[0]).is_file(), "a script of the project"
    elif program == "pytest":
        assert all((ROOT / word.partition("::")[0]).exists() for word in rest if word.startswith("tests"))
    elif program == "sphinx-build":
        assert (ROOT / next(word for word in rest if not word.startswith("-")) / "conf.py").is_file()
    else:
        assert program in ("ruff", "mypy"), f"say why it is not run: <!-- not run: ... --> before the block; {command.words}"
