"""The base of all errors that a user can mend."""


class UserError(ValueError):
    """Something the user can mend: a setting, a file, a full disk. The message is one line; commands print it without a traceback."""
