"""Downloads of D4RL's dataset files: resumed, retried, and checked before they are put in place."""

import json
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from tqdm import tqdm

from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.files import (
    checksum,
    dataset_folder,
    disk_errors,
    move_into_place,
    note_path,
    write_note,
)
from d4rl_tasks.hdf5 import UnusableDatasetError, read_rows
from d4rl_tasks.tasks import Task

TIMEOUT = 10.0  # seconds without a sign of life after which a connection is given up
PAUSES = (1.0, 2.0, 4.0)  # seconds before the second, third and fourth attempt
BLOCK_BYTES = 1 << 20
PASSING_STATUSES = {408, 425, 429}  # these, and all from 500, are worth another attempt


class DownloadError(D4RLTaskError):
    """A dataset file could not be fetched.

    Attributes:
        reason: why, without the advice.
    """

    def __init__(self, reason: str, folder: Path):
        super().__init__(
            f"{reason}: try again later (the part that was fetched is kept), set D4RL_MIRROR to a "
            f"server that has the file, or put it into {folder} yourself"
        )
        self.reason = reason


class _TransferError(Exception):
    """A failure that may pass, in words that follow the URL."""


@dataclass(frozen=True)
class _Origin:
    """The origin of a partial file, noted beside it so that no other file is appended.

    Attributes:
        validator: a strong ETag or the date of the last change; None: it cannot be resumed.
        size: of the whole in bytes; None if the server does not say.
    """

    url: str
    validator: str | None
    size: int | None


def dataset_url(task: Task) -> str:
    """Where a task's file is downloaded from: D4RL's address, or the same path at `$D4RL_MIRROR`.

    Raises:
        D4RLTaskError: D4RL_MIRROR is not an HTTP address.
    """
    mirror = os.environ.get("D4RL_MIRROR")
    if not mirror:
        return task.url
    if not re.match(r"https?://[^/]", mirror):
        raise D4RLTaskError(f"D4RL_MIRROR is {mirror!r}: it must begin with http:// or https://")
    return f"{mirror.rstrip('/')}/{task.url.split('/datasets/offline_rl/', 1)[1]}"


def download(task: Task) -> Path:
    """Fetch a task's dataset file into the dataset folder, unless it is there.

    A partial file stays as `<file>.part`, and the next call resumes it. The
    file's SHA-256 and size are noted in `<file>.sha256`. Processes that want the same file wait for
    the one that fetches it.

    Returns:
        The file's path.

    Raises:
        DownloadError: the server cannot be reached, fails, or sends something that is not a
            dataset for this task.
        D4RLTaskError: D4RL_MIRROR is not an HTTP address, or the file cannot be written.
    """
    url = dataset_url(task)
    path = dataset_folder() / task.file_name
    with _sole_downloader(path):
        if not path.exists():
            _download(task, url, path)
    return path


def _download(task: Task, url: str, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    print(f"downloading {url} into {path.parent}", file=sys.stderr)
    _fetch_with_retries(url, part)
    try:
        read_rows(part, task)
    except UnusableDatasetError as error:
        _discard(part)
        reason = f"{url} sent a file that is not a dataset for {task.name}, it {error.problem}"
        raise DownloadError(reason, path.parent) from error
    with disk_errors(path):
        content = checksum(part)
        note_path(path).unlink(missing_ok=True)  # of a predecessor that somebody deleted
        move_into_place(part, path)
        _origin_path(part).unlink(missing_ok=True)
    write_note(path, content, url)


@contextmanager
def _sole_downloader(path: Path) -> Iterator[None]:
    lock_path = path.with_name(path.name + ".lock")
    lock = FileLock(lock_path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for the process that downloads {path.name}", file=sys.stderr)
            lock.acquire()
    try:
        yield
        # Once the file is in place nobody needs the lock. (Windows keeps it while it is open.)
        with suppress(OSError):
            lock_path.unlink()
    finally:
        lock.release()


def _fetch_with_retries(url: str, part: Path) -> None:
    for pause in (*PAUSES, None):
        try:
            _fetch(url, part)
            return
        except _TransferError as error:
            if pause is None:
                reason = f"{url} {error}, the last of {len(PAUSES) + 1} attempts"
                raise DownloadError(reason, part.parent) from error
            time.sleep(pause)


def _fetch(url: str, part: Path) -> None:
    """One attempt to get all that is missing of a file."""
    have, origin = _what_has_come(url, part)
    if origin and have == origin.size:
        return
    with _open(url, part, have, origin) as response:
        if origin is None or response.status != 206:
            have, origin = 0, _start(response, url, part)
        elif not _continues(response, have, origin):
            _discard(part)
            raise _TransferError("changed while it was downloaded")
        _append(response, part, have, origin)


def _what_has_come(url: str, part: Path) -> tuple[int, _Origin | None]:
    """Bytes of a part and its origin; 0 and None if it cannot be resumed."""
    try:
        have = part.stat().st_size
        origin = _Origin(**json.loads(_origin_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # there is none, or a crash left the note incomplete
        return 0, None
    resumable = have > 0 and origin.url == url and origin.validator is not None
    return (have, origin) if resumable else (0, None)


def _open(url: str, part: Path, have: int, origin: _Origin | None) -> HTTPResponse:
    """Ask for the bytes from `have` on; a file that has changed comes from its start."""
    headers = {"Range": f"bytes={have}-", "If-Range": f"{origin.validator}"} if origin else {}
    try:
        return _urlopen(Request(url, headers=headers))
    except HTTPError as error:
        error.close()
        if error.code == 416:  # the file is now shorter than the part
            _discard(part)
        elif error.code < 500 and error.code not in PASSING_STATUSES:
            raise DownloadError(
                f"{url} answered {error.code} {error.reason}", part.parent
            ) from error
        raise _TransferError(f"answered {error.code} {error.reason}") from error
    except (URLError, TimeoutError, InvalidURL, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(f"{url} cannot be reached ({reason})", part.parent) from error
    except (HTTPException, OSError) as error:
        raise _TransferError(f"broke the connection ({error})") from error


def _urlopen(request: Request) -> HTTPResponse:
    # In a thread that nobody waits for at the end: looking up a name has no time limit of its own.
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urlopen(request, timeout=TIMEOUT))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=TIMEOUT)
    except queue.Empty:
        raise TimeoutError(f"no answer within {TIMEOUT:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _continues(response: HTTPResponse, have: int, origin: _Origin | None) -> bool:
    expected = re.fullmatch(rf"bytes {have}-\d+/(\d+)", response.headers["Content-Range"] or "")
    if origin is None or expected is None or _validator(response) != origin.validator:
        return False
    return origin.size in (None, int(expected[1]))


def _start(response: HTTPResponse, url: str, part: Path) -> _Origin:
    """Start a part from its beginning, unless the server sends a web page, as hotel networks do."""
    if response.headers.get_content_type() == "text/html":
        raise DownloadError(f"{url} sent a web page (HTML), not a dataset", part.parent)
    origin = _Origin(url, _validator(response), response.length)
    _discard(part)
    with disk_errors(part):
        _origin_path(part).write_text(json.dumps(asdict(origin)), encoding="utf-8")
    return origin


def _append(response: HTTPResponse, part: Path, have: int, origin: _Origin) -> None:
    # disable=None: no bar where stderr is not a terminal.
    bar = tqdm(
        desc=part.stem, total=origin.size, initial=have, unit="B", unit_scale=True, disable=None
    )
    with disk_errors(part), bar, part.open("ab") as file:
        for block in _blocks(response):
            file.write(block)
            have += len(block)
            bar.update(len(block))
    if origin.size is not None and have != origin.size:
        raise _TransferError(f"ended after {have} of {origin.size} bytes")


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while block := response.read1(BLOCK_BYTES):
            yield block
    except (HTTPException, OSError) as error:
        raise _TransferError(f"broke off ({error})") from error


def _validator(response: HTTPResponse) -> str | None:
    etag = response.headers["ETag"]
    if etag and not etag.startswith("W/"):  # a weak one is not allowed in If-Range
        return etag
    return response.headers["Last-Modified"]


def _origin_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    with disk_errors(part):
        part.unlink(missing_ok=True)
        _origin_path(part).unlink(missing_ok=True)
