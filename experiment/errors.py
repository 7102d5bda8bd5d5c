"""Why a run ends early. Each message is one line."""


class RunError(Exception):
    """Something the user can mend."""


class DivergedError(Exception):
    """A loss or a network became NaN or infinite."""


class StoppedError(Exception):
    """A signal asked the run to stop.

    Attributes:
        exit_code: 128 and the signal's number, as shells have it.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number
