"""The folder of datasets, files that are written whole, and checksums noted beside them."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from d4rl_tasks.errors import D4RLTaskError


def dataset_folder() -> Path:
    """The folder of D4RL's dataset files: `$D4RL_DATASET_DIR`, else `~/.d4rl/datasets`."""
    try:
        return Path(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets").expanduser()
    except RuntimeError as error:
        raise D4RLTaskError(
            "there is no home folder for datasets: set D4RL_DATASET_DIR to a folder"
        ) from error


def synthetic_path(task_name: str) -> Path:
    """The path of a task's synthetic dataset."""
    return dataset_folder() / f"synthetic-{task_name}.hdf5"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError from writing `path` (full disk, no permission) into a D4RLTaskError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(
            str(error).split()
        )  # HDF5's own messages have many lines
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
        raise D4RLTaskError(f"there is no file {path}: check the path") from error
    except OSError as error:
        raise D4RLTaskError(
            f"cannot read {path} ({error.strerror or error}): give a file that you may read"
        ) from error


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


def checksum(path: Path) -> Checksum:
    """The checksum of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return Checksum(digest.hexdigest(), os.fstat(file.fileno()).st_size)


def note_path(path: Path) -> Path:
    """The note beside a file, in the format that `sha256sum --check` reads."""
    return path.with_name(path.name + ".sha256")


def write_note(path: Path, content: Checksum, url: str) -> None:
    """Note a file's checksum, size and origin beside it; D4RLTaskError if that fails."""
    with atomic_path(note_path(path)) as note:
        note.write_text(
            f"# {content.size} bytes from {url}\n{content.sha256}  {path.name}\n", encoding="utf-8"
        )


def check_note(path: Path, content: Checksum) -> None:
    """Compare a file's content with the note beside it; a file without a note passes.

    Raises:
        D4RLTaskError: they differ, or the note holds no checksum.
    """
    note = note_path(path)
    if not note.exists():
        return
    text = note.read_text(encoding="utf-8", errors="replace")
    sha256 = re.search(r"\b[0-9a-fA-F]{64}\b", text)
    size = re.search(r"^# (\d+) bytes", text, re.MULTILINE)
    if sha256 is None:
        raise D4RLTaskError(f"{note} holds no SHA-256: move it away to use the file beside it")
    if size is not None and int(size[1]) != content.size:
        raise _changed(path, f"it has {content.size} bytes, the note says {size[1]}")
    if sha256[0].lower() != content.sha256:
        raise _changed(path, f"its SHA-256 is {content.sha256}, the note says {sha256[0]}")


def _changed(path: Path, difference: str) -> D4RLTaskError:
    return D4RLTaskError(
        f"{path} is not the file noted in {note_path(path).name} ({difference}): move both away "
        "to fetch it again, or only the note to use the file as it is"
    )
