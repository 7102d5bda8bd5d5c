"""SHA-256 and size of D4RL's files, as TensorFlow Datasets recorded them (`checksums.tsv`)."""

import json
from functools import cache
from pathlib import Path

from d4rl_tasks.files import Checksum


class WrongContentError(Exception):
    """A file is not the one that D4RL published under its name."""


@cache
def _table() -> dict[str, dict]:
    return json.loads((Path(__file__).parent / "checksums.json").read_text())


def editions(file_name: str) -> list[Checksum]:
    """Editions of a D4RL file, the present one first.

    D4RL replaced its MuJoCo v2 files once, at the same addresses. The new editions have
    `next_observations`, the older ones do not.

    Returns:
        At most two checksums, none if nobody recorded any. A size of -1 is not known.
    """
    entry = _table().get(file_name)
    if entry is None:
        return []
    return [
        Checksum(edition["sha256"], -1 if edition["size"] is None else edition["size"])
        for edition in (entry, entry.get("superseded"))
        if edition
    ]


def check_content(path: Path, content: Checksum) -> str:
    """Compare a file's content with what D4RL published under the same name.

    Returns:
        A remark, empty if there is nothing to say.

    Raises:
        WrongContentError: the content is neither edition's.
    """
    known = editions(path.name)
    digests = [edition.sha256 for edition in known]
    if not known or content.sha256 == digests[0]:
        return ""
    if content.sha256 in digests:
        return (
            f"{path} is the older edition of D4RL's file ({content.size:,} bytes, without "
            f"next_observations; the present one has {known[0].size:,})"
        )
    raise WrongContentError(
        f"{path} is not D4RL's file: it has {content.size:,} bytes and SHA-256 {content.sha256}, "
        f"expected {_expected(known[0])}"
    )


def _expected(edition: Checksum) -> str:
    size = f"{edition.size:,} bytes and " if edition.size >= 0 else ""
    return f"{size}SHA-256 {edition.sha256}"
