"""Why a run ends early. Each message is one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from d4rl_tasks.errors import UserError


class RunError(UserError):
    """Something about a run that the user can mend."""


class DivergedError(UserError):
    """A loss or a network became NaN or infinite."""

    exit_code = 1


class StoppedError(UserError):
    """A signal asked the run to stop, which is not an error.

    Attributes:
        exit_code: 128 and the signal's number, as shells have it.
    """

    prefix = ""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn a lack of memory, of Python's, the CPU's or the GPU's, into a RunError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        kinds = (MemoryError, torch.OutOfMemoryError)
        if not isinstance(error, kinds) and "can't allocate memory" not in str(error):
            raise
        raise RunError(
            "out of memory: give a smaller --batch_size, --hidden or --latent_disc_dim"
        ) from error
