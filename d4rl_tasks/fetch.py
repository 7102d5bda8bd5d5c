"""D4RL's file of a task, from the dataset folder or a download, known by its checksum."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from d4rl_tasks.checksums import WrongContentError, check_content, editions
from d4rl_tasks.command_line import printable
from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.files import (
    ChangedFileError,
    Checksum,
    NoProgressError,
    checksum,
    dataset_folder,
    disk_errors,
    file_checksum,
    move_into_place,
    note_path,
    read_errors,
    sole_writer,
    write_note,
)
from d4rl_tasks.hdf5 import UnusableDatasetError, read_rows
from d4rl_tasks.sources import addresses, shown
from d4rl_tasks.tasks import Task
from d4rl_tasks.transfer import TransferError, Wanted, discard, fetch, forget_origin

# The most bytes of a file without a recorded size: five times antmaze-v1's largest.
LARGEST_UNKNOWN = 1 << 30


class DownloadError(D4RLTaskError):
    """No source has a task's file.

    Attributes:
        failures: each source's address and what is wrong there.
    """

    def __init__(self, failures: list[str], folder: Path):
        super().__init__(
            f"{'; '.join(failures)}: try again later (the partial download is kept), set "
            f"D4RL_MIRROR to a server that has the file, or put it into {folder} yourself"
        )
        self.failures = failures


@dataclass(frozen=True)
class D4RLFile:
    """D4RL's file of a task.

    Attributes:
        downloaded: it was not there before.
    """

    path: Path
    downloaded: bool


def d4rl_file(task: Task) -> D4RLFile:
    """Find D4RL's file of a task in the dataset folder, or download it there.

    A file there under D4RL's name that is not D4RL's is kept but not used; a line says so. A
    download that succeeds moves it to `<file>.wrong`. Processes that want the same file wait for
    the one that fetches it.

    Raises:
        DownloadError: no source has the file.
        D4RLTaskError: D4RL_MIRROR is not an HTTP address, or the folder cannot be read or written.
    """
    path = dataset_folder() / task.file_name
    if is_genuine(path):
        return D4RLFile(path, downloaded=False)
    if path.parent.exists() and not os.access(path.parent, os.W_OK):
        raise DownloadError([f"{path.parent} cannot be written"], path.parent)
    try:
        with sole_writer(path, "downloads", progress=_part(path)):
            if is_genuine(path, silent=True):  # another process fetched it meanwhile
                return D4RLFile(path, downloaded=False)
            _download(task, path)
    except NoProgressError as error:
        raise DownloadError([str(error)], path.parent) from error
    return D4RLFile(path, downloaded=True)


def is_genuine(path: Path, silent: bool = False) -> bool:
    """Whether a file is there and, as far as its checksum tells, D4RL's.

    Prints a line on stderr about a wrong file and about the older edition.

    Raises:
        D4RLTaskError: it cannot be read.
    """
    try:
        with read_errors(path):
            if not path.exists():
                return False
            remark = check_content(path, file_checksum(path))
    except (WrongContentError, ChangedFileError) as error:
        if not silent:
            print(printable(f"note: {error}; it is kept but not used"), file=sys.stderr)
        return False
    if remark and not silent:
        print(printable(f"note: {remark}"), file=sys.stderr)
    return True


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _download(task: Task, path: Path) -> None:
    """Try all sources of a task's file, and put the first right one in place."""
    urls = addresses(task)
    failures = []
    print(f"downloading {shown(urls[0])} into {printable(path.parent)}", file=sys.stderr)
    for url, following in zip(urls, [*urls[1:], None], strict=True):
        try:
            content = _fetch_right(task, url, _part(path))
        except TransferError as error:
            failures.append(f"{shown(url)} {error}")
            if following:
                print(f"{failures[-1]}; next: {shown(following)}", file=sys.stderr)
            continue
        _put_in_place(path, content, url)
        return
    raise DownloadError(failures, path.parent)


def _fetch_right(task: Task, url: str, part: Path) -> Checksum:
    """Fetch a file into `part` and check it.

    Raises:
        TransferError: this URL does not give the right file.
    """
    sizes = tuple(edition.size for edition in editions(task.file_name) if edition.size >= 0)
    wanted = Wanted(sizes, LARGEST_UNKNOWN)
    resumed = fetch(url, part, wanted)
    try:
        return _checked(task, part)
    except TransferError:
        discard(part)
        if not resumed:
            raise
    # From its start: the beginning may have been another source's fault.
    return _fetch_right(task, url, part)


def _checked(task: Task, part: Path) -> Checksum:
    with read_errors(part):
        content = checksum(part)
    try:
        remark = check_content(part.with_name(task.file_name), content)
    except WrongContentError as error:
        raise TransferError(f"sent a wrong file: {error}") from error
    if remark:
        print(printable(f"note: {remark}"), file=sys.stderr)
    if not editions(task.file_name):
        _check_arrays(task, part)
    return content


def _check_arrays(task: Task, part: Path) -> None:
    try:
        read_rows(part, task)
    except UnusableDatasetError as error:
        raise TransferError(
            f"sent a file that is not a dataset for {task.name}, it {error.problem}"
        ) from error


def _put_in_place(path: Path, content: Checksum, url: str) -> None:
    with disk_errors(path):
        if path.exists():
            wrong = next(name for name in _free_names(path) if not name.exists())
            path.rename(wrong)
            print(f"note: the file that was there is now {printable(wrong)}", file=sys.stderr)
        note_path(path).unlink(missing_ok=True)  # of a predecessor
        move_into_place(_part(path), path)
        forget_origin(_part(path))
        modified = path.stat().st_mtime_ns
    write_note(path, content, f"from {shown(url)}", modified)


def _free_names(path: Path) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.wrong")
    for number in range(2, 1_000_000):
        yield path.with_name(f"{path.name}.wrong{number}")
