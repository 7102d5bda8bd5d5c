"""The folder of datasets, files that are written whole, and checksums noted beside them."""

import errno
import hashlib
import io
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from d4rl_tasks.command_line import printable
from d4rl_tasks.errors import D4RLTaskError, reason_of

NOTE_BYTES = 1 << 16  # no note beside a file is longer
STILL_LIMIT = 600.0  # seconds without progress after which another process is no longer waited for
GENERATION_LIMIT = 3600.0  # the same where progress cannot be seen
COMPUTED_HERE = "computed here"


def dataset_folder() -> Path:
    """The folder of D4RL's dataset files: `$D4RL_DATASET_DIR`, else `~/.d4rl/datasets`."""
    folder = os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets"
    return in_home(folder, "set D4RL_DATASET_DIR to a folder for datasets")


def in_home(path: str, advice: str) -> Path:
    """A path that may begin with ~; the error without a home folder ends with the advice."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise D4RLTaskError(f"the home folder is unknown: {advice}") from error


def synthetic_path(task_name: str) -> Path:
    """The path of a task's synthetic dataset."""
    return dataset_folder() / f"synthetic-{task_name}.hdf5"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError from writing `path` (full disk, no permission) into a D4RLTaskError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or reason_of(error)
        raise D4RLTaskError(
            f"cannot write {path} ({reason}): free some space, or choose a folder that you may "
            "write to (for datasets, by D4RL_DATASET_DIR)"
        ) from error


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn an OSError from reading `path` (no permission, a folder) into a D4RLTaskError."""
    try:
        yield
    except FileNotFoundError as error:
        raise D4RLTaskError(f"{path} does not exist: check the path") from error
    except OSError as error:
        raise D4RLTaskError(
            f"cannot read {path} ({error.strerror or error}): give a file that you may read"
        ) from error


def exists(path: Path) -> bool:
    """Whether a file is there; D4RLTaskError if its folder may not be read."""
    with read_errors(path):
        return path.exists()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; what the block writes there is renamed to `path` at its end.

    If the block raises an error or writes no file, `path` is left as it was.

    Raises:
        D4RLTaskError: the file cannot be written; where possible, before the block runs.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
        try:
            yield temporary
            if temporary.exists():
                move_into_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename a complete file to its name; after a power cut either it or its predecessor is there.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Checksum:
    """Identifies a file's content: SHA-256 in hexadecimal, and the size in bytes."""

    sha256: str
    size: int


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading. FIFOs, devices and folders are refused before anything is read.

    Raises:
        OSError: it cannot be opened or is not a regular file.
    """
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        check_regular(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")  # noqa: PTH123, it has no path


def check_regular(path: Path, status: os.stat_result) -> None:
    """Raise an OSError unless a file is a regular one."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_small(path: Path, limit: int = NOTE_BYTES) -> str:
    """The text of a small regular file.

    Raises:
        OSError: as `open_regular`, or it has more than `limit` bytes.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"longer than {limit} bytes", str(path))
    return data.decode("utf-8", errors="replace")


class NoProgressError(D4RLTaskError):
    """Another process holds a lock and makes no progress."""


@contextmanager
def sole_writer(path: Path, verb: str, progress: Path | None = None) -> Iterator[None]:
    """Let one process at a time make `path`; the others wait and say for what.

    Args:
        path: the file; its lock is `<file>.lock`.
        verb: what is done, "downloads" or "generates".
        progress: a file that grows meanwhile.

    Raises:
        D4RLTaskError: the folder cannot be written.
        NoProgressError: the process that holds the lock makes no progress.
    """
    lock = FileLock(path.with_name(path.name + ".lock"))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        locked = _lock(lock, path, verb, progress)
    try:
        yield
        # Once the file is in place nobody needs the lock. (Windows keeps it while it is open.)
        with suppress(OSError):
            Path(lock.lock_file).unlink()
    finally:
        if locked:
            lock.release()


def _lock(lock: FileLock, path: Path, verb: str, progress: Path | None) -> bool:
    """Wait for a lock; False where the file system has none, such as some network ones."""
    try:
        lock.acquire(timeout=0)
        return True
    except Timeout:
        print(f"waiting for the process that {verb} {printable(path)}", file=sys.stderr)
        _wait(lock, path, verb, progress)
        return True
    except NotImplementedError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return False


def _wait(lock: FileLock, path: Path, verb: str, progress: Path | None) -> None:
    limit = GENERATION_LIMIT if progress is None else STILL_LIMIT
    seen, since = _size(progress), time.monotonic()
    while True:
        with suppress(Timeout):
            lock.acquire(timeout=min(1.0, limit))
            return
        if _size(progress) != seen:
            seen, since = _size(progress), time.monotonic()
        if time.monotonic() - since > limit:
            raise NoProgressError(
                f"the process that {verb} {path} has made no progress for {limit:g} seconds: stop "
                "it, or choose another folder by D4RL_DATASET_DIR"
            )


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path else 0
    except OSError:
        return 0


def checksum(path: Path) -> Checksum:
    """Compute the checksum of a regular file."""
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256")
        return Checksum(digest.hexdigest(), os.fstat(file.fileno()).st_size)


def note_path(path: Path) -> Path:
    """The note beside a file, in the format that `sha256sum --check` reads."""
    return path.with_name(path.name + ".sha256")


def write_note(path: Path, content: Checksum, origin: str, modified: int) -> None:
    """Note a file's checksum, size, time of change and origin beside it.

    Args:
        origin: follows "# N bytes": "from URL", or COMPUTED_HERE.
        modified: `st_mtime_ns` of the content that the checksum is of.

    Raises:
        D4RLTaskError: the note cannot be written.
    """
    with atomic_path(note_path(path)) as note:
        note.write_text(
            f"# {content.size} bytes {origin}, modified {modified}\n"
            f"{content.sha256}  {printable(path.name)}\n",
            encoding="utf-8",
            newline="\n",
        )


@dataclass(frozen=True)
class _Note:
    """The content of a note. All except the checksum is None in a note that `sha256sum` wrote."""

    sha256: str
    size: int | None
    origin: str | None
    modified: int | None


def file_checksum(path: Path) -> Checksum:
    """The checksum of a file, noted beside it so that it is computed once.

    A file that has changed is hashed again. A note of a download, or one by `sha256sum`, must
    agree with the file.

    Raises:
        D4RLTaskError: it does not agree, or the note holds no checksum.
        OSError: the file cannot be read or is not a regular file.
    """
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
    note = _read_note(path)
    if note and (note.size, note.modified) == (status.st_size, status.st_mtime_ns):
        return Checksum(note.sha256, status.st_size)
    content = checksum(path)
    if note and note.origin != COMPUTED_HERE:
        _check_note(path, note, content)
    if note is None or note.origin:
        with suppress(D4RLTaskError, OSError):  # a folder that cannot be written is fine
            origin = COMPUTED_HERE if note is None else str(note.origin)
            write_note(path, content, origin, status.st_mtime_ns)
    return content


def thorough_checksum(path: Path) -> Checksum:
    """The checksum of a file, computed whatever the note beside it says.

    Raises:
        D4RLTaskError: the note is of this very file, or was not written here, and does not agree.
        OSError: the file cannot be read or is not a regular file.
    """
    content, note = checksum(path), _read_note(path)
    if note and (note.origin != COMPUTED_HERE or note.modified == path.stat().st_mtime_ns):
        _check_note(path, note, content)
    return content


def _read_note(path: Path) -> _Note | None:
    note = note_path(path)
    with read_errors(note):
        try:
            text = read_small(note)
        except FileNotFoundError:
            return None
    sha256 = re.search(r"^[0-9a-fA-F]{64}\b", text, re.MULTILINE)
    if sha256 is None:
        raise D4RLTaskError(f"{note} holds no SHA-256: move it away to use the file beside it")
    head = re.search(r"^# (\d{1,18}) bytes (.*?)(?:, modified (\d{1,20}))?\r?$", text, re.MULTILINE)
    if head is None:
        return _Note(sha256[0].lower(), None, None, None)
    modified = int(head[3]) if head[3] else None
    return _Note(sha256[0].lower(), int(head[1]), head[2], modified)


def _check_note(path: Path, note: _Note, content: Checksum) -> None:
    if note.size is not None and note.size != content.size:
        raise _changed(path, f"it has {content.size} bytes, the note says {note.size}")
    if note.sha256 != content.sha256:
        raise _changed(path, f"its SHA-256 is {content.sha256}, the note says {note.sha256}")


class ChangedFileError(D4RLTaskError):
    """A file is not the one that is noted beside it."""


def _changed(path: Path, difference: str) -> ChangedFileError:
    return ChangedFileError(
        f"{path} is not the file noted in {note_path(path).name} ({difference}): move both away "
        "to fetch it again, or only the note to use the file as it is"
    )
