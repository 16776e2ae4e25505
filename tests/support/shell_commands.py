"""The shell commands of the documents, of the configurations' comments and of the commands' help, in the order of reading."""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
STUDIES = [path for path in CONFIGS if path.name.startswith("study_")]
RUNS = [path for path in CONFIGS if path not in STUDIES]
COMMANDS = sorted(path.stem for path in (ROOT / "distill").glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))

# A page's shell blocks, blocks of other languages, tables with a column `--set`, and, inside sentences, whole commands: not names
# such as `distill.cache --repair`.
PART = re.compile(
    r"(?:<!-- not run: (?P<reason>.*?) -->\n+)?^ *```(?:sh|bash)\n(?P<block>.*?)^ *```"
    r"|^ *```\w.*?^ *```"
    r"|^\|[^\n]*\| `--set` \|[^\n]*\n\|[-|]*\n(?P<rows>(?:\|[^\n]*\n)*)"
    r"|`(?P<inline>(?:python -m|torchrun [^`]*-m) distill\.[a-z]+ [^`]*)`",
    re.M | re.S,
)
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


def commands_of_page(place: str, text: str) -> Iterator[Command]:
    """Each row of a table with a column `--set` appends it, and a run folder of its own, to the last command before the table."""
    last, numbers = Command(place, ()), itertools.count(1)
    for part in PART.finditer(text):
        if part["rows"] is not None:
            for row in part["rows"].splitlines():
                overrides = shlex.split(row.split("|")[2].strip("` "))
                yield Command(place, (*last.words, "--set", *overrides, f"run.dir=runs/row{next(numbers)}"))
        elif part["reason"] is None:
            for last in commands_of_text(place, part["block"] or " ".join((part["inline"] or "").split())):
                yield last


def commands_of_config(path: Path) -> Iterator[Command]:
    lines = [line[1:] for line in path.read_text(encoding="utf-8").splitlines() if re.match(r"#  +\S", line)]
    yield from (command for command in commands_of_text(path.name, "\n".join(lines)) if command.words[0] == "python")


def commands_of_help(name: str) -> Iterator[Command]:
    example = (make_parser(name).epilog or "").partition("example:\n")[2].partition("\n\n")[0]
    yield from commands_of_text(f"{name} --help", example)


def all_commands() -> dict[str, list[Command]]:
    """By the place where they stand."""
    pages = itertools.chain.from_iterable(commands_of_page(path.name, path.read_text(encoding="utf-8")) for path in PAGES)
    configs = itertools.chain.from_iterable(map(commands_of_config, CONFIGS))
    helps = itertools.chain.from_iterable(map(commands_of_help, COMMANDS))
    by_place: dict[str, list[Command]] = {}
    for command in dict.fromkeys((*pages, *configs, *helps)):
        by_place.setdefault(command.place, []).append(command)
    return by_place


def is_ours(command: Command) -> bool:
    return any(word.startswith("distill.") for word in command.words)


def split_ours(command: Command) -> tuple[tuple[str, ...], str, list[str]]:
    """The launcher, the name, and the arguments of one of our commands."""
    start = next(index for index, word in enumerate(command.words) if word.startswith("distill."))
    assert command.words[start - 1] == "-m"
    return command.words[: start - 1], command.words[start].removeprefix("distill."), list(command.words[start + 1 :])


def make_parser(name: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = importlib.import_module(f"distill.{name}").make_parser()
    return parser
