"""Every message that a user can meet has an entry in docs/troubleshooting.md, and every entry a message.

An entry is a list item that begins with quoted messages, `like … this`, where `…` stands for what differs from case to case. In
the source, a message is whatever is raised, logged as a warning, or written to stderr, and the phrases of which such messages are
made; names that are assigned in the same function are put in.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("distill", "restormer", "unet") for path in (ROOT / package).rglob("*.py"))
PAGE = ROOT / "docs" / "troubleshooting.md"
GAP = "…"

# Functions whose strings become messages somewhere else.
PHRASES = {
    "complaint",  # of a cache, and of a teacher
    "difference",  # between two teachers
    "explain",  # a configuration's errors
    "_did_you_mean",
    "_reason",  # why a file cannot be read
    "losses",  # what a format cannot hold
    "_index",
}
# Lists of notes for the user.
NOTES = {"notes", "lost"}
# Messages without words of their own: what they carry is collected where it is made.
CARRIERS = {
    "skipped",  # a file, and why it was
    "warning",  # of the teacher check
    "step student db",  # the progress that tqdm prints
    "stopped by",  # a signal
    "student",
    "set",
    "degrade",
    "teachercheck",
    "found",
    "line",  # the YAML library's words
    "and more",
}
MIN_LETTERS = 7


@dataclass(frozen=True)
class Message:
    place: str
    text: str

    @property
    def words(self) -> str:
        return " ".join(re.sub(r"[^a-z ]", "", self.text.replace(GAP, " ").lower()).split())


class Collector(ast.NodeVisitor):
    """The messages of one module."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(ROOT).as_posix()
        self.found: list[Message] = []
        self._functions: list[ast.FunctionDef] = []
        self.visit(ast.parse(path.read_text(encoding="utf-8")))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._functions.append(node)
        if node.name in PHRASES:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            self._add_strings(body)
        self.generic_visit(node)
        self._functions.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        if not self._functions and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "NOT_FINITE":
            self._add(node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func)
        last = called.rpartition(".")[2]
        if last.endswith("Error") and node.args:
            before = f"{GAP}: " if last == "ImageError" and len(node.args) > 1 else ""  # its path
            self._add(node.args[2 if last == "ConstructorError" else 0], before=before)
        elif called in ("logger.warning", "tqdm.write") or (called == "print" and "stderr" in ast.unparse(node)):
            self._add(node.args[0], node.args[1:])
        elif called == "_refusal":
            self._add(node.args[1])
        elif last == "append" and called.rpartition(".")[0] in NOTES:
            self._add(node.args[0])
        for keyword in node.keywords:
            if keyword.arg == "custom_error_message":  # pydantic's
                self._add(keyword.value)
        self.generic_visit(node)

    def _add_strings(self, body: list[ast.stmt]) -> None:
        for statement in body:
            for node in ast.walk(statement):
                if isinstance(node, ast.Return | ast.Assign) and node.value is not None:
                    self._add(node.value)
                if isinstance(node, ast.Dict):
                    for key in node.keys:
                        if key is not None:
                            self._add(key)

    def _add(self, node: ast.expr, values: list[ast.expr] | None = None, before: str = "") -> None:
        text = re.sub(r"\s+", " ", before + self._text(node, values or [])).strip()
        text = re.sub(f"({GAP} ?)+{GAP}", GAP, text)
        if re.search("[a-z]{2}", text):
            self.found.append(Message(f"{self.name}:{node.lineno}", text))

    def _text(self, node: ast.expr, values: list[ast.expr], depth: int = 0) -> str:
        """The string that an expression makes, with a gap for each part that is not known."""
        if isinstance(node, ast.Constant):
            text = node.value if isinstance(node.value, str) else GAP
            for value in values:
                text = re.sub(r"%(\.\d)?[sdf]", lambda _, v=value: self._text(v, [], 1), text, count=1)
            return text.replace("%%", "%")
        if isinstance(node, ast.JoinedStr):
            return "".join(self._text(part, [], depth) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return self._text(node.value, [], depth)
        if isinstance(node, ast.BinOp):
            return self._text(node.left, [], depth) + self._text(node.right, [], depth)
        if isinstance(node, ast.IfExp):
            return self._text(node.body, [], depth) + GAP + self._text(node.orelse, [], depth)
        if isinstance(node, ast.Name) and depth < 2:
            assigned = self._assigned(node)
            return self._text(assigned, [], depth + 1) if assigned is not None else GAP
        return GAP

    def _assigned(self, name: ast.Name) -> ast.expr | None:
        """What a name holds where it is used, if that is written as a string: the last assignment above."""
        nodes = [node for function in self._functions[-1:] for node in ast.walk(function) if isinstance(node, ast.Assign)]
        mine = [n for n in nodes if n.lineno <= name.lineno and isinstance(n.targets[0], ast.Name) and n.targets[0].id == name.id]
        value = max(mine, key=lambda node: node.lineno).value if mine else None
        return value if isinstance(value, ast.Constant | ast.JoinedStr | ast.IfExp) else None


MESSAGES = [message for path in SOURCES for message in Collector(path).found]
SPOKEN = [message for message in MESSAGES if message.words not in CARRIERS]


def entries() -> Iterator[str]:
    """Every quoted message of the page."""
    for quotes in re.findall(r"^- (`.*?)\\\n", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        yield from (" ".join(found.split()) for found in re.findall(r"`([^`]+)`", quotes))


def fits(quoted: str, text: str) -> bool:
    pieces = [re.escape(piece) for piece in re.split(rf" ?{GAP} ?", quoted) if piece]
    return re.search(".*?".join(pieces), text) is not None


QUOTED = list(entries())


def test_there_are_messages_and_entries() -> None:
    assert len(SPOKEN) > 150
    assert len(QUOTED) > 100


@pytest.mark.parametrize("message", SPOKEN, ids=lambda m: f"{m.place} {m.text[:40]}")
def test_a_message_has_an_entry(message: Message) -> None:
    assert any(fits(quoted, message.text) for quoted in QUOTED), f"docs/troubleshooting.md: no entry for {message.text!r}"


@pytest.mark.parametrize("quoted", QUOTED)
def test_an_entry_is_of_a_message(quoted: str) -> None:
    assert len(re.sub("[^A-Za-z]", "", quoted)) >= MIN_LETTERS, "too short to tell messages apart"
    assert any(fits(quoted, message.text) for message in MESSAGES), "nothing in the source says this"
