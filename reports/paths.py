"""Where reports are written."""

from pathlib import Path


def output_path(out: Path | None, default: Path) -> Path:
    """The file to write: `default`, or `out`, or in the folder `out` a file of `default`'s name."""
    if out is None:
        return default
    return out / default.name if out.is_dir() else out
