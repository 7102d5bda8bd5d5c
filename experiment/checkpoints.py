"""Checkpoints: the whole state of a run, in files of which the last two are kept."""

import os
import sys
from pathlib import Path
from typing import Any

from d4rl_tasks.command_line import printable
from experiment.errors import RunError
from experiment.files import DamagedError, read_content, set_aside, to_bytes, whole_file


class Checkpoints:
    """The last two checkpoints of a run.

    Attributes:
        paths: the newest, and the one before it.
    """

    def __init__(self, path: Path):
        self.paths = (path, path.with_name(f"{path.name}.previous"))

    def exist(self) -> bool:
        """Whether there is any, damaged ones included."""
        return any(path.exists() for path in self.paths)

    def write(self, content: dict[str, Any]) -> None:
        """Write the newest; the newest so far becomes the one before it.

        Args:
            content: dicts, lists and tuples of tensors, strings, numbers and None.

        Raises:
            RunError: the disk is full or cannot be written; the newest is as it was, or has become
                the one before it.
        """
        newest, previous = self.paths
        data = to_bytes(content)
        with whole_file(newest) as temporary:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # only a safe file may push the older ones down
            if newest.exists():
                newest.replace(previous)

    def read(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest file that is intact, and its content; None without any file.

        A damaged newest file is reported on stderr and set aside, so that the next `write` does not
        put it in place of the good one.

        Raises:
            RunError: there are files, but none of them is intact or can be read.
        """
        problems: list[tuple[Path, Exception]] = []
        for path in self.paths:
            if not path.exists():
                continue
            try:
                content = read_content(path)
            except (DamagedError, OSError) as error:
                problems.append((path, error))
                continue
            for damaged, problem in problems:
                moved = set_aside(damaged)
                print(
                    f"warning: {damaged} {printable(problem)}; it is now {moved}, and {path} is "
                    "used",
                    file=sys.stderr,
                )
            return path, content
        if problems:
            listed = "; ".join(f"{path} {problem}" for path, problem in problems)
            raise RunError(f"no checkpoint is intact ({listed}): --fresh sets them aside")
        return None
