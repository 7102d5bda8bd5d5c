"""Fetch D4RL's files ahead of time, and verify those that are there.

python -m d4rl_tasks.download walker2d-expert-v2 "hopper-*-v2"
python -m d4rl_tasks.download --list
python -m d4rl_tasks.download --check
"""

import argparse
import fnmatch
import sys
from collections.abc import Callable
from pathlib import Path

from d4rl_tasks.checksums import WrongContentError, check_content, editions
from d4rl_tasks.command_line import Parser, fail, printable, run_program
from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.fetch import d4rl_file
from d4rl_tasks.files import (
    Checksum,
    dataset_folder,
    file_checksum,
    read_errors,
    thorough_checksum,
)
from d4rl_tasks.tasks import Task, get_task, task_names

MEBIBYTE = 1 << 20


def matching_tasks(patterns: list[str]) -> list[Task]:
    """Tasks by their names or by patterns such as `hopper-*-v2`, each once, in the order given.

    Raises:
        D4RLTaskError: a name is unknown or a pattern matches nothing.
    """
    found: dict[str, Task] = {}
    for pattern in patterns:
        if not set(pattern) & set("*?["):
            task = get_task(pattern)
            found[task.name] = task
            continue
        names = fnmatch.filter(task_names(), pattern.removeprefix("d4rl/"))
        if not names:
            raise D4RLTaskError(f"no task matches {pattern!r}: --list lists them all")
        found |= {name: get_task(name) for name in names}
    return list(found.values())


def status(task: Task, checksum_of: Callable[[Path], Checksum] = file_checksum) -> str:
    """A file's state: "missing", "verified", "older edition", "WRONG" or "present".

    A file whose checksum nobody recorded is "present".

    Raises:
        D4RLTaskError: the file cannot be read, or is not the one noted beside it.
    """
    path = _path(task)
    with read_errors(path):
        if not path.exists():
            return "missing"
        content = checksum_of(path)
    try:
        remark = check_content(path, content)
    except WrongContentError:
        return "WRONG"
    if not editions(task.file_name):
        return "present"
    return "older edition" if remark else "verified"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(
        prog="python -m d4rl_tasks.download",
        description="Fetch D4RL's dataset files into $D4RL_DATASET_DIR (default: "
        "~/.d4rl/datasets), and verify those that are there.",
    )
    parser.add_argument("tasks", nargs="*", help='names, or patterns such as "hopper-*-v2"')
    parser.add_argument("--list", action="store_true", help="list tasks, sizes and what is here")
    parser.add_argument(
        "--check",
        action="store_true",
        help="verify the files that are here by SHA-256; exit code 1 if one is wrong",
    )
    options = parser.parse_args(arguments)
    if not options.tasks and not (options.list or options.check):
        parser.error('nothing to do: name tasks, or patterns such as "hopper-*-v2"')
    return run_program(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    tasks = matching_tasks(options.tasks or ["*"])
    if options.check:
        return _check(tasks)
    if options.list:
        return _list(tasks)
    return _fetch(tasks)


def _list(tasks: list[Task]) -> int:
    print(f"{'task':<30}{'MiB':>7}  {'here':<15}file")
    for task in tasks:
        known = editions(task.file_name)
        size = f"{known[0].size / MEBIBYTE:.0f}" if known and known[0].size >= 0 else "?"
        print(f"{task.name:<30}{size:>7}  {_status_in_words(task):<15}{task.file_name}")
    return 0


def _check(tasks: list[Task]) -> int:
    found = {
        task.name: _status_in_words(task, thorough_checksum)
        for task in tasks
        if _path(task).exists()
    }
    if not found:
        print(f"none of these files is in {printable(dataset_folder())}")
    for name, state in found.items():
        print(f"{name:<30}{state:<15}{printable(_path(get_task(name)))}")
    return 1 if {"WRONG", "unreadable"} & set(found.values()) else 0


def _status_in_words(task: Task, checksum_of: Callable[[Path], Checksum] = file_checksum) -> str:
    try:
        return status(task, checksum_of)
    except D4RLTaskError as error:
        fail(error)
        return "unreadable"


def _path(task: Task) -> Path:
    return dataset_folder() / task.file_name


def _fetch(tasks: list[Task]) -> int:
    """Fetch all; a failure does not stop the others."""
    failed = []
    for task in tasks:
        try:
            file = d4rl_file(task)
        except D4RLTaskError as error:
            fail(error)
            failed.append(task.name)
            continue
        print(f"{task.name}: {'fetched' if file.downloaded else 'here'}, {printable(file.path)}")
    if failed:
        return fail(f"{len(failed)} of {len(tasks)} not fetched: {', '.join(failed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
