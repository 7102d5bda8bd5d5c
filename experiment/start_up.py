"""Runs before the programs' other imports, which take seconds and much memory."""

import errno
import os
import signal
import sys
from types import TracebackType

# With less, native libraries end the process in their own words, or crash, instead of raising.
_ADDRESS_SPACE = 1 << 30
_LIMITS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def guard_imports() -> None:
    """Until the program itself begins, end without a traceback on Ctrl-C or at a limit."""
    _check_memory_limit()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)
    sys.excepthook = _one_line


def end_guard() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, so that temporary files are removed."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once(*_: object) -> None:
    os._exit(128 + signal.SIGINT)


def _check_memory_limit() -> None:
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _ADDRESS_SPACE:
        _end(f"the memory limit ({limit >> 20} MiB) is below 1024 MiB: raise it (ulimit -v)")


def _one_line(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if isinstance(error, ModuleNotFoundError):
        reason = f"{error}: pip install -r requirements.txt"
    elif isinstance(error, (MemoryError, ImportError)) or getattr(error, "errno", None) in _LIMITS:
        reason = (
            f"the program cannot be loaded ({' '.join(str(error).split()) or 'out of memory'}): "
            "raise the limits of memory and open files (ulimit -v, ulimit -n), or reinstall the "
            "packages: pip install --force-reinstall -r requirements.txt"
        )
    else:
        sys.__excepthook__(kind, error, traceback)
        return
    _end(reason)


def _end(reason: str) -> None:
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(2)  # a hook cannot change the exit code otherwise
