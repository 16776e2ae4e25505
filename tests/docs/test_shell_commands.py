"""Every shell command of the documents, the configurations and the commands' help is one that works: ours are read by their own
parsers and their overrides by the schema, and the others name what is there; `test_commands_run.py` runs them. What cannot be run
says why, in a comment `<!-- not run: reason -->` before its block."""

from __future__ import annotations

import configparser
import itertools
import re

import pytest
from shell_commands import COMMANDS, ROOT, Command, all_commands, is_ours, make_parser, split_ours

from distill.config import load_config, load_study

ALL = list(itertools.chain.from_iterable(all_commands().values()))
OURS = [command for command in ALL if is_ours(command)]
OTHERS = [command for command in ALL if not is_ours(command)]


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
    launcher, name, words = split_ours(command)
    assert launcher in [("python",)] or launcher[0] == "torchrun", launcher
    arguments = make_parser(name).parse_intermixed_args(words)  # exits where it does not understand
    config = getattr(arguments, "config", None)
    if config is not None and not config.isupper() and not config.startswith("runs/"):
        (load_study if name == "study" else load_config)(ROOT / config, arguments.set)
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
