"""Errors that a user can mend. Each message is one line."""


class UserError(Exception):
    """Something a user can mend: the message says what is wrong, where, and what to do.

    Attributes:
        exit_code: of a program that ends by it.
        prefix: stands before the message on stderr.
    """

    exit_code = 2
    prefix = "error: "


class D4RLTaskError(UserError):
    """An unknown task, a bad file, a server that fails."""
