"""The base class of all errors that the user can mend, and what messages are made of."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(ValueError):
    """An error that the user can mend: a wrong setting, a bad file, a full disk. The message is one line. Commands print it
    without a traceback."""


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first `most` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def one_line(error: BaseException) -> str:
    """The error's text in one line of at most 200 characters. Its class, if it has no text."""
    return " ".join((str(error) or type(error).__name__).split())[:200]


def shown(value: object) -> str:
    """The value as text for a one-line message. A value from a manifest or a file name may be anything, so text that is
    unprintable or longer than 60 characters is quoted and cut."""
    text = str(value)
    return text if text.isprintable() and len(text) <= 60 else f"{text[:57]!r}..."
