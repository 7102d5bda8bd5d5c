"""Shared by all programs of this repository: a parser, number types, and one way to fail."""

import argparse
import difflib
import io
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from d4rl_tasks.errors import Interruption, UserError

BROKEN_PIPE = 128 + 13  # as a shell reports SIGPIPE, which Windows lacks


def printable(text: object) -> str:
    """Text of any origin on one line, without control characters that a terminal would obey."""
    words = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line and suggest the option that was meant.

    Options are found with hyphens and with underscores: `--info-reg` is `--info_reg`.
    """

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)} (--help lists the options)\n")

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument {unknown[0]}{self.suggestion(unknown[0])}")
        return found

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._as_declared(word) for word in words], namespace)

    def option(self, word: str) -> argparse.Action | None:
        """The option that a word of a command line names, such as `--info-reg=True`, or None."""
        return self._option_string_actions.get(self._as_declared(word).split("=")[0])

    def suggestion(self, word: str) -> str:
        """`: did you mean --option?` for the closest option, or nothing if none is close."""
        name = word.split("=")[0]
        close = difflib.get_close_matches(name, self._option_string_actions, n=1, cutoff=0.7)
        return f": did you mean {close[0]}?" if close and name.startswith("--") else ""

    def _as_declared(self, word: str) -> str:
        if not word.startswith("--"):
            return word
        name, equals, value = word.partition("=")
        for spelling in (name, "--" + name[2:].replace("-", "_")):
            if spelling in self._option_string_actions:
                return spelling + equals + value
        return word


def number(
    kind: type, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False
) -> Callable[[str], float]:
    """A type for argparse: an int (5e3 is one) or a finite float, at least `low`, at most `high`.

    Args:
        kind: int or float.
        open_low: the number must be greater than `low`.
    """
    expected = "a whole number" if kind is int else "a number"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from None
        if not math.isfinite(value) or (kind is int and value != int(value)):
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        if value < low or value > high or (open_low and value == low):
            form = ",.0f" if kind is int else "g"
            bound = f"{'more than' if open_low else 'at least'} {low:{form}}"
            if high < math.inf:
                bound += f" and at most {high:{form}}"
            raise argparse.ArgumentTypeError(f"{text} must be {bound}")
        return kind(value)

    return parse


def boolean(text: str) -> bool:
    """A type for argparse: true or false, yes or no, 1 or 0, in any case."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return values[text.lower()]


def run_program(function: Callable[[], int | None]) -> int:
    """Call a program's body and turn the ways it can fail into one line and an exit code.

    Returns:
        the body's exit code (None is 0), an error's own (2 for bad input and full disks), 130 for
        Ctrl-C, or 141 if the reader of the output, such as head, has gone.
    """
    _prepare_output()
    try:
        code = function() or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Interruption as error:
        print(printable(error), file=sys.stderr)
        return error.exit_code
    except UserError as error:
        fail(error)
        return error.exit_code
    except OSError as error:
        return fail(error)
    except MemoryError:
        return fail("out of memory: close other programs, or ask for less")


def _prepare_output() -> None:
    """Write whole lines at once, as people follow logs.

    No closed output and no character that the terminal's encoding lacks ends a program.
    """
    if sys.stdout is None:  # closed by the shell, as by >&-
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115, as long as the program
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)


def fail(message: object) -> int:
    """Print one `error:` line on stderr; returns the exit code for it."""
    print(f"error: {printable(message)}", file=sys.stderr)
    return 2
