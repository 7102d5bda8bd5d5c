"""Files that must not be lost."""

from pathlib import Path

from experiment.errors import RunError


def set_aside(path: Path) -> Path:
    """Move a file into the folder `old` beside it, under a name that is free there."""
    old = path.parent / "old"
    number = 1
    while (old / f"{path.name}.{number}").exists():
        number += 1
    try:
        old.mkdir(exist_ok=True)
        return path.rename(old / f"{path.name}.{number}")
    except OSError as error:
        raise RunError(f"cannot set {path} aside in {old}: {error.strerror}") from error
