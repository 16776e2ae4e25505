"""What the fuzz tests share: mutations of a valid input, and the property that they hold every reader to.

A reader gives a result or one of its declared errors, whose message is one line of bearable length. It raises nothing else, ends
within the deadline, opens and changes nothing outside of the folder it was given, and runs nothing.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

Result = TypeVar("Result")

# The same inputs every time, so that a change fails only by its own fault. Every test restores what it changes in its folder,
# which it may therefore share between examples.
FUZZ = settings(
    max_examples=3000,
    derandomize=True,
    database=None,
    deadline=timedelta(seconds=5),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
HANG_S = 60
MAX_MESSAGE = 1000

Edit = tuple[str, int, int, bytes]
_SCALE = 2**16
_SIZES = (1, 2, 4, 8)
_EXTREMES = [
    sign.to_bytes(size, order, signed=True)
    for size in _SIZES
    for order in ("little", "big")
    for sign in (0, 1, -1, 2 ** (8 * size - 1) - 1, -(2 ** (8 * size - 1)), 2 ** (8 * size - 2))
]

edits: st.SearchStrategy[list[Edit]] = st.lists(
    st.tuples(
        st.sampled_from(["flip", "extreme", "flip", "extreme", "cut", "delete", "insert", "repeat", "splice"]),
        st.integers(0, _SCALE - 1),
        st.integers(0, 255),
        st.binary(max_size=12),
    ),
    min_size=1,
    max_size=3,
)
"""What happens to the bytes: kind, place in parts of the whole, an amount, and bytes that are new."""


def mutate(data: bytes, changes: list[Edit], other: bytes = b"") -> bytes:
    """The bytes after these edits; `other` is what pieces are spliced in from."""
    for kind, place, amount, new in changes:
        at = place * len(data) // _SCALE
        piece = data[at : at + amount]
        if kind == "flip":
            data = data[:at] + bytes(byte ^ (1 << amount % 8) for byte in data[at : at + 1]) + data[at + 1 :]
        elif kind == "extreme":
            extreme = _EXTREMES[amount % len(_EXTREMES)]
            data = data[:at] + extreme + data[at + len(extreme) :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "delete":
            data = data[:at] + data[at + amount :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "repeat":
            data = data[:at] + piece * (1 + amount % 16) + data[at:]
        else:
            start = place * len(other) // _SCALE
            data = data[:at] + other[start : start + amount] + data[at:]
    return data


def outcome(read: Callable[[], Result], *declared: type[Exception]) -> Result | None:
    """What a reader returns, or None after one of its declared errors."""
    faulthandler.dump_traceback_later(HANG_S, exit=True)  # what hangs in C listens to no other
    try:
        return read()
    except declared as error:
        message = str(error)
        assert message.strip()
        assert len(message.splitlines()) == 1, message
        assert len(message) < MAX_MESSAGE, message
        return None
    finally:
        faulthandler.cancel_dump_traceback_later()


_FILES = {"open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_PROGRAMS = {"os.exec", "os.fork", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen"}
_watched: list[tuple[str, Any]] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is not None and (event in _FILES or event in _PROGRAMS):
        _watched.append((event, arguments[0]))


sys.addaudithook(_watch)  # cannot be removed again: it looks at nothing outside of `confined`


@contextmanager
def confined(folder: Path) -> Iterator[None]:
    """Fails where something outside of the folder was opened or changed (modules that are imported aside), or a program run."""
    global _watched
    _watched = []
    try:
        yield
    finally:
        seen, _watched = _watched, None
    for event, subject in seen:
        assert event not in _PROGRAMS, f"{event} {subject!r}"
        if isinstance(subject, int):  # an open file
            continue
        path = Path(os.path.normpath(os.path.abspath(os.fsdecode(subject))))
        assert path.suffix in (".py", ".pyc", ".so") or path.is_relative_to(folder), f"{event} {path}"


ODD_VALUES: list[Any] = [None, True, 0, -1, 1.5, -0.0, 1e308, 2**31, 2**63, -(2**63), 10**30, "", ".", "..", "../outside"]
ODD_VALUES += ["/etc/passwd", "..\\outside", "~", "a\0b", "a\nb", "a\u2028b", "\ud800", "\udcff", "x" * 5000, "nan", "1e400"]
ODD_VALUES += [[], {}, [[]], [0], {"a": 0}, [1, 2, 3], [2, 1], [0.5, "x"], [{}] * 3, {"x" * 300: {"y" * 300: "z" * 300}}]


def places_in(tree: Any) -> list[tuple[Any, ...]]:
    """The key paths of everything in nested dictionaries and lists, the whole first."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [(), *((key, *rest) for key, value in items for rest in places_in(value))]


def put(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of the tree with another value in one place."""
    if not place:
        return value
    key, *rest = place
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[key] = put(copy[key], tuple(rest), value)
    return copy


@st.composite
def mutated_trees(draw: st.DrawFn, trees: list[Any]) -> Any:
    """One of the trees with odd values in up to three places, some of them from elsewhere in it, or of an odd name."""
    tree = draw(st.sampled_from(trees))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places_in(tree)))
        source = draw(st.sampled_from(["odd", "odd", "odd", "tree", "name"]))
        value = draw(st.sampled_from(ODD_VALUES if source != "tree" else trees))
        if source == "name":
            value = {str(value)[:400]: value, "a": 1}
        tree = put(tree, place, value)
    return tree
