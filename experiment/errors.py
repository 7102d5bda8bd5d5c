"""Why a run ends early. Each message is one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from d4rl_tasks.errors import Interruption, UserError


class RunError(UserError):
    """Something about a run that the user can fix."""


class DivergedError(UserError):
    """A loss or a network became NaN or infinite."""

    exit_code = 1


class StoppedError(Interruption):
    """A signal asked the run to stop, which is not an error.

    Attributes:
        exit_code: 128 and the signal's number, as shells have it.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn out-of-memory errors of Python, PyTorch and MuJoCo into a RunError."""
    try:
        yield
    except Exception as error:
        kinds = (MemoryError, torch.OutOfMemoryError)
        # PyTorch's words for it, MuJoCo's, and Python's.
        words = ("can't allocate memory", "Could not allocate memory", "can't start new thread")
        if not isinstance(error, kinds) and not any(part in str(error) for part in words):
            raise
        raise RunError(
            "out of memory: give a smaller --batch_size, --hidden or --latent_disc_dim"
        ) from error
