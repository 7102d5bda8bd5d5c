"""One file over HTTP: resumed, retried and bounded in time and size."""

import json
import queue
import re
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError, IncompleteRead
from urllib3.util import Retry

from d4rl_tasks.command_line import printable
from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.files import disk_errors, read_small
from d4rl_tasks.sources import shown

TIMEOUT = 10.0  # seconds without a sign of life after which a connection is given up
OPEN_LIMIT = 30.0  # seconds for looking up the name, all attempts to connect, and the headers
PAUSES = (1.0, 2.0, 4.0)  # seconds before the second, third and fourth attempt
SLOWEST = 30 * 1024  # bytes per second; a slower server is left ...
SLOW_WINDOW = 60.0  # ... after as many seconds
BLOCK_BYTES = 1 << 20
PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504)  # these are worth another attempt


class TransferError(Exception):
    """A URL does not give its file; the message follows the URL: "answered 404 Not Found"."""


class _InterruptedError(Exception):
    """A transfer ended early; the next attempt resumes where it stopped."""


@dataclass(frozen=True)
class Wanted:
    """Facts about a file that are known before it arrives.

    Attributes:
        sizes: in bytes, of its editions; empty if unknown.
        limit: the most bytes that are accepted of a file of unknown size.
    """

    sizes: tuple[int, ...]
    limit: int

    @property
    def most(self) -> int:
        """The most bytes that the file may have."""
        return max(self.sizes, default=self.limit)

    def check(self, size: int | None) -> None:
        """Refuse a file by the size that a server announces."""
        if size is None:
            return
        if self.sizes and size not in self.sizes:
            expected = " or ".join(f"{size:,}" for size in self.sizes)
            raise TransferError(f"has a file of {size:,} bytes, not {expected}")
        if size > self.most:
            raise TransferError(f"has a file of {size:,} bytes, more than {self.most:,}")


@dataclass(frozen=True)
class _Origin:
    """The origin of a partial file, noted beside it.

    Attributes:
        url: without a password.
        validator: a strong ETag or the date of the last change, or None.
        size: of the whole in bytes; None if the server does not say.
    """

    url: str
    validator: str | None
    size: int | None


def fetch(url: str, part: Path, wanted: Wanted) -> bool:
    """Fetch a file into `part`, or what is missing of it.

    A part from this URL is resumed if the server still has the same file; one from another URL if
    both say the same size and it is that of an edition. The caller checks the content.

    Returns:
        Whether the part was there already, whole or not.

    Raises:
        TransferError: the server cannot be reached, fails, is too slow, or has another file. What
            has come stays in `part`.
        D4RLTaskError: the disk is full or cannot be written.
    """
    resumed = _what_has_come(url, part, wanted)[0] > 0
    for pause in (*PAUSES, None):
        try:
            _fetch_rest(url, part, wanted)
            return resumed
        except _InterruptedError as error:
            if pause is None:
                attempts = len(PAUSES) + 1
                raise TransferError(f"{error}, the last of {attempts} attempts") from error
            time.sleep(pause)
    raise AssertionError("unreachable")


def discard(part: Path) -> None:
    """Remove a part and the note beside it."""
    with disk_errors(part):
        part.unlink(missing_ok=True)
    forget_origin(part)


def _fetch_rest(url: str, part: Path, wanted: Wanted) -> None:
    have, origin = _what_has_come(url, part, wanted)
    if origin and have == origin.size:
        return
    with _open(url, have, origin) as response:
        is_same_source = origin is None or origin.url == shown(url)
        _check_answer(response, part, is_same_source)
        if origin is None or response.status_code != 206:
            have, origin = 0, _start(response, url, part, wanted)
        elif not _continues(response, have, origin, url):
            if not is_same_source:  # what has come from the other one is kept
                raise TransferError("has a different file from the one partly downloaded")
            discard(part)
            raise _InterruptedError("changed while it was downloaded")
        _append(response, part, have, origin, wanted)


def _what_has_come(url: str, part: Path, wanted: Wanted) -> tuple[int, _Origin | None]:
    """Bytes of a part and its origin; 0 and None if it cannot be resumed."""
    try:
        status = part.lstat()
        origin = _Origin(**json.loads(read_small(_origin_path(part))))
        same_source = origin.url == shown(url) and origin.validator is not None
        resumable = status.st_size > 0 and (same_source or origin.size in wanted.sizes)
    # There is none, or a crash left the note incomplete.
    except (OSError, ValueError, TypeError, RecursionError):
        return 0, None
    if not stat.S_ISREG(status.st_mode):
        raise D4RLTaskError(f"{part} is not a regular file: move it away")
    return (status.st_size, origin) if resumable else (0, None)


def _open(url: str, have: int, origin: _Origin | None) -> requests.Response:
    """Ask for the bytes from `have` on; a file that has changed comes from its start."""
    headers = {"Accept-Encoding": "identity"}
    if origin:
        headers["Range"] = f"bytes={have}-"
        if origin.url == shown(url) and origin.validator:
            headers["If-Range"] = origin.validator
    try:
        return _get(url, headers)
    except requests.ConnectionError as error:
        if isinstance(error.args[0] if error.args else None, HTTPError) and _broke(error):
            raise _InterruptedError(f"broke the connection ({_reason(error)})") from error
        raise TransferError(f"cannot be reached ({_reason(error)})") from error
    except (OSError, ValueError) as error:  # requests' own are OSErrors
        raise TransferError(f"cannot be reached ({_reason(error)})") from error


def _broke(error: requests.ConnectionError) -> bool:
    """Whether a server accepted the connection and closed it without an answer."""
    return "Connection aborted" in str(error)


def _reason(error: BaseException) -> str:
    """The innermost cause, in the words of the operating system where it has some."""
    cause = getattr(error, "reason", None) or (error.args[0] if error.args else None)
    if isinstance(cause, BaseException):
        return _reason(cause)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(error).rpartition(">: ")[2] or type(error).__name__


def _get(url: str, headers: dict[str, str]) -> requests.Response:
    # In a thread that nobody waits for at the end: neither the lookup of a name nor the headers as
    # a whole have a time limit of their own.
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_session().get(url, headers=headers, stream=True, timeout=TIMEOUT))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=OPEN_LIMIT)
    except queue.Empty:
        raise TimeoutError(f"no answer within {OPEN_LIMIT:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _session() -> requests.Session:
    retry = Retry(
        total=len(PAUSES),
        connect=0,
        read=0,
        other=0,
        status_forcelist=PASSING_STATUSES,
        backoff_factor=PAUSES[0] / 2 if PAUSES else 0,
        raise_on_status=False,
        respect_retry_after_header=False,  # a server could ask for a year
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _check_answer(response: requests.Response, part: Path, is_same_source: bool) -> None:
    if response.status_code == 416:  # the file is shorter than the part
        if not is_same_source:
            raise TransferError("has a shorter file than the one partly downloaded")
        discard(part)
        raise _InterruptedError("has a shorter file than before")
    if response.status_code not in (200, 206):
        raise TransferError(f"answered {response.status_code} {printable(response.reason)}")
    if response.headers.get("Content-Type", "").startswith("text/html"):  # as hotel networks do
        raise TransferError("sent a web page (HTML), not a dataset")


def _continues(response: requests.Response, have: int, origin: _Origin, url: str) -> bool:
    answered = response.headers.get("Content-Range", "")
    expected = re.fullmatch(rf"bytes {have}-\d{{1,18}}/(\d{{1,18}})", answered)
    if expected is None or origin.size not in (None, int(expected[1])):
        return False
    return origin.url != shown(url) or _validator(response) == origin.validator


def _start(response: requests.Response, url: str, part: Path, wanted: Wanted) -> _Origin:
    """Start a part from its beginning."""
    length = response.headers.get("Content-Length", "")
    size = int(length) if re.fullmatch(r"\d{1,18}", length) else None
    wanted.check(size)
    origin = _Origin(shown(url), _validator(response), size)
    discard(part)
    with disk_errors(part):
        _origin_path(part).write_text(json.dumps(asdict(origin)), encoding="utf-8")
    return origin


def _append(
    response: requests.Response, part: Path, have: int, origin: _Origin, wanted: Wanted
) -> None:
    # disable=None: no bar where stderr is not a terminal.
    bar = tqdm(
        desc=part.stem, total=origin.size, initial=have, unit="B", unit_scale=True, disable=None
    )
    most = wanted.most if origin.size is None else origin.size
    of_size = "" if origin.size is None else f" of {origin.size}"
    try:
        with disk_errors(part), bar, part.open("ab") as file:
            for block in _blocks(response):
                if have + len(block) > most:
                    raise TransferError(f"sends more than the {most:,} bytes of the file")
                file.write(block)
                have += len(block)
                bar.update(len(block))
    except _InterruptedError as error:
        raise _InterruptedError(f"{error} after {have}{of_size} bytes") from error
    if origin.size is not None and have != origin.size:
        raise _InterruptedError(f"ended after {have}{of_size} bytes")


def _blocks(response: requests.Response) -> Iterator[bytes]:
    """Chunks of a body as they arrive.

    Raises:
        _InterruptedError: the connection broke, or nothing came for a while.
        TransferError: the server is too slow.
    """
    since, received = time.monotonic(), 0
    while block := _read(response):
        yield block
        received += len(block)
        passed = time.monotonic() - since
        if passed >= SLOW_WINDOW:
            if received < SLOWEST * passed:
                speed = f"{received / passed / 1024:.0f} KiB/s"
                raise TransferError(f"is slow ({speed}, the partial download is kept)")
            since, received = time.monotonic(), 0


def _read(response: requests.Response) -> bytes:
    try:
        return response.raw.read1(BLOCK_BYTES, decode_content=False)
    except (HTTPError, OSError) as error:
        if any(isinstance(cause, IncompleteRead) for cause in error.args):
            raise _InterruptedError("ended") from error
        raise _InterruptedError(f"broke off ({_reason(error)})") from error


def _validator(response: requests.Response) -> str | None:
    etag = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):  # a weak one is not allowed in If-Range
        return etag
    return response.headers.get("Last-Modified")


def _origin_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def forget_origin(part: Path) -> None:
    """Remove the note of a part that is complete."""
    with disk_errors(part):
        _origin_path(part).unlink(missing_ok=True)
