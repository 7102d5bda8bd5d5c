"""SIGINT (Ctrl-C) and SIGTERM (pre-emption, timeouts), answered where nothing is lost."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from experiment.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Within a `with` block, the two signals become a request that a loop can answer.

    A signal that was ignored when the block began (nohup, a shell's background job) stays ignored.

    Attributes:
        deferred: False: a signal raises StoppedError at once. True: it is kept in `received`.
        received: the number of the first signal that came while deferred, or None.
    """

    def __init__(self):
        self.deferred = False
        self.received: int | None = None

    def __enter__(self) -> "StopSignals":
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in self._handlers.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Within this block signals are kept, not raised."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        if not self.deferred:
            raise StoppedError(number, "stopped outside of training: nothing is lost")
        self.received = self.received or number

    def is_set(self) -> bool:
        """Whether a signal has asked to stop."""
        return self.received is not None
