"""The base of all errors that a user can mend."""


class UserError(ValueError):
    """Something the user can mend: a setting, a file, a full disk. The message is one line, and a command prints it alone."""


def shown(value: object) -> str:
    """A value from a manifest, or a file's name, as a message of one line shows it: it may be anything."""
    text = str(value)
    return text if text.isprintable() and len(text) <= 60 else f"{text[:57]!r}..."
