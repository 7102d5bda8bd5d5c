"""The files of a run, checked before anything uses them: <run>.json and <run>.csv."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from d4rl_tasks.command_line import printable
from d4rl_tasks.files import open_regular
from experiment.checks import LARGEST_STEP
from experiment.results import LARGEST_CONFIG
from reports.errors import ReportError

LARGEST_CSV = 2**26  # bytes
LARGEST_SCORE = 1e6  # an expert has 1
LARGEST_VALUE = float(np.finfo(np.float32).max)  # losses and values are float32

_TEXT = {"type": "string", "minLength": 1, "maxLength": 1000}
_PLAIN = {"type": ["null", "boolean", "number", "string"]}
_CIRCUMSTANCES = {
    "command": {"type": "string"},
    "versions": {"type": "object", "additionalProperties": {"type": "string"}},
    "git_commit": {"type": ["string", "null"]},
    "device": {"type": "string"},
}
CONFIG = {
    "type": "object",
    "required": ["settings", "max_timesteps", "dataset", "command", "versions", "git_commit"],
    "properties": {
        "run": {"type": "string"},
        "settings": {
            "type": "object",
            "required": ["policy", "env", "seed", "dataset_sha256"],
            "properties": {
                "policy": _TEXT,
                "env": _TEXT,
                "seed": {"type": "integer", "minimum": 0, "maximum": 2**32},
                "dataset_sha256": _TEXT,
            },
            "additionalProperties": {"anyOf": [_PLAIN, {"type": "array", "items": _PLAIN}]},
        },
        "max_timesteps": {"type": "integer", "minimum": 1, "maximum": LARGEST_STEP},
        "dataset": {
            "type": "object",
            "required": ["source", "synthetic"],
            "properties": {
                "source": {"type": "string"},
                "synthetic": {"type": "boolean"},
                "path": {"type": "string"},
            },
        },
        "options": {"type": "object"},
        **_CIRCUMSTANCES,
        "earlier": {"type": "array", "items": {"type": "object", "properties": _CIRCUMSTANCES}},
    },
}


class BadFileError(ReportError):
    """A file is not what main_training.py writes; the message says where, in one line."""


def read_config(path: Path) -> dict[str, Any]:
    """Read <run>.json.

    Raises:
        BadFileError: it is not one.
        OSError: it cannot be read.
    """
    try:
        config = json.loads(
            _read(path, LARGEST_CONFIG), parse_constant=_finite, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise BadFileError(printable(f"{path.name} is not a run's JSON ({error})")) from error
    check_config(config, path.name)
    return config


def check_config(config: Any, name: str) -> None:
    """Compare the content of a <run>.json with its schema.

    Args:
        name: of the file, for the message.

    Raises:
        BadFileError: it differs; the message names the first place.
    """
    problem = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(CONFIG).iter_errors(config)
    )
    if problem is not None:
        place, reason = problem.json_path[:80], problem.message[-200:]
        raise BadFileError(printable(f"{name} is not a run's: {place}: {reason}"))


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Read <run>.csv.

    Returns:
        its columns by name, (evaluations,) each: `step` int64, the others float64 with NaN for an
        empty or infinite field; empty without any evaluation.

    Raises:
        BadFileError: it is not one.
        OSError: it cannot be read.
    """
    try:
        lines = list(csv.reader(io.StringIO(_read(path, LARGEST_CSV), newline=""), strict=True))
        return _columns(*lines) if lines else {}
    except (ValueError, csv.Error) as error:
        raise BadFileError(printable(f"{path.name}: {error}"[:300])) from error


def _read(path: Path, limit: int) -> str:
    """The text of a regular file. Others, such as pipes, are not waited for."""
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise BadFileError(printable(f"{path.name} has more than {limit} bytes"))
    return content.decode()


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _columns(header: list[str], *rows: list[str]) -> dict[str, np.ndarray]:
    if len(set(header)) < len(header) or not {"step", "score_mean"} <= set(header):
        raise ValueError("its first line does not name the columns step and score_mean, once")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} fields, the first {len(header)}")
    values = np.array([[_number(field) for field in row] for row in rows])
    columns = dict(zip(header, values.T.reshape(len(header), -1).copy(), strict=True))
    _check_limit("score_mean", columns["score_mean"], LARGEST_SCORE, must_be_known=True)
    for name, column in columns.items():
        column[np.isinf(column)] = math.nan  # a bound may be infinite; nothing can be drawn of it
        _check_limit(name, column, LARGEST_VALUE)
    columns["step"] = _steps(columns["step"])
    return columns


def _number(field: str) -> float:
    return float(field) if field else math.nan


def _check_limit(name: str, values: np.ndarray, limit: float, must_be_known: bool = False) -> None:
    wrong = np.abs(values) > limit
    if must_be_known:
        wrong |= np.isnan(values)
    if wrong.any():
        raise ValueError(f"{name} is {values[wrong][0]:g} on line {np.argmax(wrong) + 2}")


def _steps(values: np.ndarray) -> np.ndarray:
    steps = np.nan_to_num(values, nan=-1, posinf=-1).clip(-1, LARGEST_STEP).astype(np.int64)
    if (steps != values).any() or (np.diff(steps, prepend=-1) <= 0).any():
        raise ValueError("its steps are not increasing whole numbers")
    return steps
