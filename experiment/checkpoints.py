"""Checkpoints: all that a run is, in files of which the last two are kept.

A file is one line of text, the format's name and the SHA-256 of the rest, and then a file in the
format safetensors (https://huggingface.co/docs/safetensors): the tensors, and as JSON in its header
what is no tensor. Neither can hold anything that is executed when it is read.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from d4rl_tasks.files import atomic_path
from experiment.errors import RunError
from experiment.files import set_aside

FORMAT = "dmpo-checkpoint-1"
SUMMED = len(f"{FORMAT} {hashlib.sha256().hexdigest()}\n")


class DamagedError(Exception):
    """A file is no whole checkpoint; the message follows the file's name: "has 3 bytes"."""


class Checkpoints:
    """The last two checkpoints of a run.

    Attributes:
        paths: the newest, and the one before it.
    """

    def __init__(self, path: Path):
        self.paths = (path, path.with_name(f"{path.name}.previous"))

    def exist(self) -> bool:
        """Is there any, be it damaged?"""
        return any(path.exists() for path in self.paths)

    def write(self, content: dict) -> None:
        """Write the newest; what was the newest becomes the one before it.

        Args:
            content: dicts, lists and tuples of tensors, arrays, strings, numbers, None.

        Raises:
            D4RLTaskError: the disk is full or cannot be written; the newest is as it was, or has
                become the one before it.
        """
        newest, previous = self.paths
        with atomic_path(newest) as temporary:
            with temporary.open("wb") as file:
                file.write(to_bytes(content))
                file.flush()
                os.fsync(file.fileno())  # only what is safe may push the older ones down
            if newest.exists():
                newest.replace(previous)

    def read(self) -> tuple[Path, dict] | None:
        """The newest file that is whole, and its content; None if there is no file.

        A damaged newest file is named on stderr and set aside, so that the next `write` does not
        put it in the place of the good one.

        Raises:
            RunError: there are files, but none of them is whole or can be read.
        """
        problems = []
        for path in self.paths:
            if not path.exists():
                continue
            try:
                content = from_bytes(path.read_bytes())
            except (DamagedError, OSError) as error:
                problems.append((path, error))
                continue
            for damaged, problem in problems:
                moved = set_aside(damaged)
                print(
                    f"warning: {damaged} {problem}; it is now {moved}, and {path} is used",
                    file=sys.stderr,
                )
            return path, content
        if problems:
            listed = "; ".join(f"{path} {problem}" for path, problem in problems)
            raise RunError(f"no checkpoint is whole: {listed}: --fresh sets them aside")
        return None


def to_bytes(content: dict) -> bytes:
    """A checkpoint file's bytes."""
    arrays: dict[str, np.ndarray] = {}
    structure = json.dumps(_pack(content, arrays))
    body = safetensors.numpy.save(arrays, {"content": structure})
    return f"{FORMAT} {hashlib.sha256(body).hexdigest()}\n".encode() + body


def from_bytes(data: bytes) -> dict:
    """The content of a checkpoint file's bytes; tensors are on the CPU.

    Raises:
        DamagedError: any byte is missing or another than it was.
    """
    head, body = data[:SUMMED], data[SUMMED:]
    if not head.startswith(f"{FORMAT} ".encode()):
        raise DamagedError(f"is damaged or no {FORMAT}")
    if head != f"{FORMAT} {hashlib.sha256(body).hexdigest()}\n".encode():
        raise DamagedError("is damaged: its checksum does not match")
    try:
        arrays = safetensors.numpy.load(body)
        size = int.from_bytes(body[:8], "little")
        structure = json.loads(body[8 : 8 + size])["__metadata__"]["content"]
        return _unpack(json.loads(structure), arrays)
    except (
        safetensors.SafetensorError,
        *(KeyError, TypeError, ValueError, IndexError, RecursionError),
    ) as error:
        raise DamagedError(f"holds no checkpoint ({error})") from error


def _pack(value: object, arrays: dict[str, np.ndarray]) -> object:
    """What JSON holds of a value; its tensors and arrays go to `arrays`, numbered."""
    name = str(len(arrays))
    if isinstance(value, Tensor):
        arrays[name] = value.detach().cpu().contiguous().numpy()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        arrays[name] = np.require(value, requirements="C")
        return {"array": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, arrays)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, arrays) for item in value]
        return {type(value).__name__: items}
    return value


def _unpack(packed: object, arrays: dict[str, np.ndarray]) -> object:
    if not isinstance(packed, dict):
        return packed
    ((kind, value),) = packed.items()
    if kind == "tensor":
        return torch.from_numpy(arrays[value].copy())  # of read-only bytes
    if kind == "array":
        return arrays[value]
    if kind == "dict":
        return {key: _unpack(item, arrays) for key, item in value}
    return {"list": list, "tuple": tuple}[kind](_unpack(item, arrays) for item in value)
