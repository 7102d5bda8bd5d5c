"""Where D4RL's files are available."""

import os
import re
from urllib.parse import urlsplit, urlunsplit

from d4rl_tasks.checksums import editions
from d4rl_tasks.command_line import printable
from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.tasks import Task

BERKELEY = "https://rail.eecs.berkeley.edu/datasets/offline_rl/"
# A flat folder, pinned to a commit of August 2023. Three of its files are truncated.
HUGGING_FACE = (
    "https://huggingface.co/datasets/imone/D4RL/resolve/9ed58d8a76c12f4c1cb5db51fa71389e703d2ec5/"
)
# `id_` asks for the bytes as they were archived.
INTERNET_ARCHIVE = "https://web.archive.org/web/20250102id_/" + BERKELEY


def d4rl_address(task: Task) -> str:
    """The URL of a task's file on D4RL's own server, by https."""
    return BERKELEY + _with_folder(task)


def _with_folder(task: Task) -> str:
    return task.url.split("/datasets/offline_rl/", 1)[1]


def addresses(task: Task) -> list[str]:
    """URLs of a task's file, in the order in which they are tried.

    `$D4RL_MIRROR` comes first: a folder that has D4RL's folders (`gym_mujoco_v2/...`) or simply the
    files. Where nobody recorded a checksum (maze2d, five of antmaze-v1), only D4RL's own follows.

    Raises:
        D4RLTaskError: D4RL_MIRROR is not an HTTP address.
    """
    with_folder = _with_folder(task)
    found = [d4rl_address(task)]
    if editions(task.file_name):
        found += [HUGGING_FACE + task.file_name, INTERNET_ARCHIVE + with_folder]
    mirror = _mirror()
    if mirror:
        found = [mirror + with_folder, mirror + task.file_name, *found]
    return found


def _mirror() -> str:
    mirror = os.environ.get("D4RL_MIRROR", "")
    if mirror and not (re.match(r"https?://[^/]", mirror) and _is_url(mirror)):
        raise D4RLTaskError(
            f"D4RL_MIRROR is {shown(mirror)!r}: it must be an address that begins with http:// or "
            "https://"
        )
    return mirror.rstrip("/") + "/" if mirror else ""


def _is_url(text: str) -> bool:
    try:
        urlsplit(text)
    except ValueError:
        return False
    return True


def shown(url: str) -> str:
    """A URL as it is printed and written: without the user name and password it may have."""
    try:
        parts = urlsplit(url)
        url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    except ValueError:  # not a URL; nor may what looks like a password be shown
        url = url.rpartition("@")[2]
    return printable(url)
