"""Errors that a user can fix. Each message is one line."""

import contextlib
from collections.abc import Callable, Iterator


class UserError(Exception):
    """Something a user can fix: the message says what is wrong, where, and what to do.

    Attributes:
        exit_code: of a program that ends by it.
    """

    exit_code = 2


class Interruption(BaseException):
    """A program is asked to end: no handler of errors may keep it from that.

    Attributes:
        exit_code: of the program.
    """

    exit_code = 1


class D4RLTaskError(UserError):
    """An unknown task, a bad file, a server that fails."""


def reason_of(error: BaseException) -> str:
    """An error's message on one line; its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def foreign_errors(explain: Callable[[str], D4RLTaskError]) -> Iterator[None]:
    """Turn whatever a package without an exception class of its own raises into ours.

    Args:
        explain: makes the error from the reason, one line.
    """
    try:
        yield
    except D4RLTaskError:
        raise
    except Exception as error:
        raise explain(reason_of(error)) from error
