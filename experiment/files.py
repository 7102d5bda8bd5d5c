"""Files of a run: nested content as safetensors, and files that must not be lost."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.files import atomic_path
from experiment.errors import RunError

FORMAT = "dmpo-2"


class DamagedError(Exception):
    """A file is not whole or not ours; the message follows the file's name: "is empty"."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """As `d4rl_tasks.files.atomic_path`, for a file of a run.

    Raises:
        RunError: the disk is full or cannot be written; the file stays as it was.
    """
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except D4RLTaskError as error:
        raise RunError(str(error)) from error


def write_content(path: Path, content: dict[str, Any]) -> None:
    """Write a file of `to_bytes`.

    Raises:
        RunError: the disk is full or cannot be written; the file stays as it was.
    """
    data = to_bytes(content)
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def to_bytes(content: dict[str, Any]) -> bytes:
    """Dicts, lists and tuples of tensors, strings, numbers and None as a safetensors file.

    Every tensor has its path in the content as its name, such as `policy.actor.network.weight`.
    The rest is JSON in the file's metadata, with a SHA-256 of all.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_pack(content, tensors, ""))
    # One entry: safetensors writes several in any order, and equal contents get equal bytes.
    return safetensors.torch.save(tensors, {FORMAT: f"{checksum(text, tensors)} {text}"})


def read_content(path: Path) -> dict[str, Any]:
    """Read a file of `to_bytes`. Nothing in the file is executed; tensors are on the CPU.

    Raises:
        DamagedError: it is not such a file, or any byte that matters has changed.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise DamagedError("is not a file")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if FORMAT not in metadata:
            raise DamagedError(
                f"is not of format {FORMAT}: another version of this program wrote it"
            )
        saved, _, text = metadata[FORMAT].partition(" ")
        if saved != checksum(text, tensors):
            raise DamagedError("is damaged: its checksum does not match")
        content = _unpack(json.loads(text), tensors)
    except (
        safetensors.SafetensorError,
        *(KeyError, TypeError, ValueError, IndexError, RuntimeError),
    ) as error:
        raise DamagedError(f"is damaged or not a file of this program ({error})") from error
    if not isinstance(content, dict):
        raise DamagedError("holds no content of this program")
    return content


def checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a file's JSON and of the names, dtypes, shapes and bytes of its tensors."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _pack(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """The part of a value that JSON holds; its tensors go to `tensors`."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, dict):
        items = [[key, _pack(item, tensors, _join(path, key))] for key, item in value.items()]
        return {"dict": items}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, tensors, _join(path, i)) for i, item in enumerate(value)]
        return {type(value).__name__: items}
    return value


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(packed, dict):
        return packed
    ((kind, value),) = packed.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in value}
    return {"list": list, "tuple": tuple}[kind](_unpack(item, tensors) for item in value)


def set_aside(path: Path, folder: Path | None = None) -> Path:
    """Move a file into `folder` (`old` beside it for None), under a name that is free there."""
    old = folder or path.parent / "old"
    number = 1
    while (old / f"{path.name}.{number}").exists():
        number += 1
    try:
        old.mkdir(parents=True, exist_ok=True)
        # Copies where `old` is on another disk.
        return Path(shutil.move(path, old / f"{path.name}.{number}"))
    except OSError as error:
        raise RunError(f"cannot set {path} aside in {old}: {error.strerror or error}") from error
