"""Errors that a user can mend. Each message is one line."""


class UserError(Exception):
    """Something a user can mend: the message says what is wrong, where, and what to do."""


class D4RLTaskError(UserError):
    """An unknown task, a bad file, a server that fails."""
