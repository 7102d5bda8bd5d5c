"""Reads a flat dataset file in D4RL's layout, and refuses any other."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from d4rl_tasks.command_line import printable
from d4rl_tasks.errors import D4RLTaskError, reason_of
from d4rl_tasks.files import open_regular, read_errors
from d4rl_tasks.robots import task_sizes
from d4rl_tasks.tasks import Task

# A file may unpack to this many rows of the task in float64 (D4RL's largest has 4 million in
# float32) ...
MAX_ROWS = 3_000_000
# ... or, for larger files of the user's own, to this times its size. Noise hardly packs.
MAX_RATIO = 4
# gzip packs 1,032 to 1 at best, so an array that claims more than this times its file was never
# written: HDF5 would invent it from fill values.
MAX_EXPANSION = 1_100
MAX_SOFT_LINKS = 8  # on the way to one array
NUMERIC_KINDS = "fiub"
# Names of the ends of episodes: D4RL's; Minari's; gymnasium's.
TERMINALS = ("terminals", "terminations", "terminated")
TIMEOUTS = ("timeouts", "truncations", "truncated")
EPISODE_ENDS = "episode_terminals"  # d3rlpy's, for either kind

Shapes = dict[str, tuple[int, ...]]


class UnusableDatasetError(D4RLTaskError):
    """A dataset is damaged, or holds other data than it should.

    Attributes:
        problem: what is wrong, in words that follow the dataset's name: "has no array 'actions'".
    """

    def __init__(self, name: str | Path, problem: str):
        super().__init__(
            f"{name} {problem}: give another dataset, or move this one away to fetch it again"
        )
        self.problem = problem


@dataclass(frozen=True, eq=False)
class Rows:
    """A flat dataset file: one row per environment step, episode after episode.

    Attributes:
        observations: (N, S) float32 before the step.
        actions: (N, A) float32.
        rewards: (N,) float32.
        terminals: (N,) bool, the episode ended with this step.
        cuts: (N,) bool, the row after this one belongs to another episode though none ended.
        following: (N, S) float32, the next observation of every row; None if it is the next row's.
        synthetic: the file says that it is a synthetic dataset, not D4RL's.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    cuts: np.ndarray
    following: np.ndarray | None
    synthetic: bool


def read_rows(path: Path, task: Task, in_order: bool = False) -> Rows:
    """Read and check a whole dataset file; a line on stderr says what is unusual about it.

    Ends of episodes may have the names of D4RL, gymnasium, Minari or d3rlpy. Without any time
    limits `counted_cuts` counts them, as D4RL does.

    Args:
        path: an HDF5 file.
        task: whose dataset it is.
        in_order: the file is D4RL's own: its `next_observations` are not needed.

    Raises:
        UnusableDatasetError: as `read_arrays`, with the sizes of the task's environment; or no two
            rows make a transition; or terminals or timeouts are other than 0 and 1.
    """
    observation_size, action_size = task_sizes(task)
    optional: Shapes = {} if in_order else {"next_observations": (observation_size,)}
    optional |= dict.fromkeys((*TIMEOUTS, EPISODE_ENDS), ())
    with _open(path) as file:
        ended = next((name for name in TERMINALS if _inside(file, name)), TERMINALS[0])
        shapes: Shapes = {"observations": (observation_size,), "actions": (action_size,)}
        arrays = _read(file, shapes | {"rewards": (), ended: ()}, optional)
        synthetic = bool(file.attrs.get("synthetic", False))
    terminals = _flags(path, ended, arrays[ended])
    observations = to_float32(path, "observations", arrays["observations"])
    cuts, remark = _cuts(path, arrays, terminals, task)
    following = _following(path, arrays, observations, terminals | cuts)
    if following is None and remark:
        _notice(path, remark)
    if following is None and cuts[:-1].all():
        raise UnusableDatasetError(
            path, "holds no transition: all rows except the last are timeouts"
        )
    return Rows(
        observations=observations,
        actions=clip_actions(path, to_float32(path, "actions", arrays["actions"])),
        rewards=as_d4rls_rewards(path, to_float32(path, "rewards", arrays["rewards"]), task),
        terminals=terminals,
        cuts=cuts,
        following=following,
        synthetic=synthetic,
    )


def _flags(path: Path, key: str, values: np.ndarray) -> np.ndarray:
    """(N,) bool. Flags of other values than 0 and 1 mean something else, and are refused."""
    odd = (values != 0) & (values != 1)
    if odd.any():
        row = int(np.argmax(odd))
        raise UnusableDatasetError(path, f"has {values[row]} in '{key}', row {row}, not 0 or 1")
    return values != 0


def _cuts(
    path: Path, arrays: dict[str, np.ndarray], terminals: np.ndarray, task: Task
) -> tuple[np.ndarray, str]:
    """(N,) bool: the rows after which another episode begins though none ended; and a remark."""
    name = next((name for name in TIMEOUTS if name in arrays), None)
    remark = ""
    if name is not None:
        cuts = _flags(path, name, arrays[name])
        if terminals.any() and cuts[terminals].all():
            remark = (
                f"sets '{name}' at every terminal: D4RL drops these rows, so no terminal is left"
            )
        return cuts, remark
    if EPISODE_ENDS in arrays:
        return _flags(path, EPISODE_ENDS, arrays[EPISODE_ENDS]) & ~terminals, remark
    if not terminals.any():
        limit = task.max_episode_steps
        remark = f"has no ends of episodes: time limits of {limit} steps were counted"
    return counted_cuts(terminals, task.max_episode_steps), remark


def _following(
    path: Path, arrays: dict[str, np.ndarray], observations: np.ndarray, ends: np.ndarray
) -> np.ndarray | None:
    """The file's own next observations, (N, S), if they are not simply the next rows'."""
    if "next_observations" not in arrays:
        return None
    following = to_float32(path, "next_observations", arrays["next_observations"])
    inside = ~ends[:-1]
    if np.array_equal(following[:-1][inside], observations[1:][inside]):
        return None
    _notice(path, "is not in the order of its episodes: its 'next_observations' are used")
    return following


def clip_actions(name: str | Path, actions: np.ndarray) -> np.ndarray:
    """Actions of a dataset within [-1, 1]; a line says so if some were not."""
    largest = float(np.abs(actions).max())
    if largest <= 1:
        return actions
    _notice(name, f"has actions up to {largest:g}: they are clipped to [-1, 1], as environments do")
    return actions.clip(-1, 1)


def as_d4rls_rewards(name: str | Path, rewards: np.ndarray, task: Task) -> np.ndarray:
    """Rewards as D4RL has them: 0 and 1 on antmaze, where some files hold r - 1 already."""
    if task.robot != "antmaze" or np.isin(rewards, (0, 1)).all():
        return rewards
    if np.isin(rewards, (-1, 0)).all():
        _notice(name, "has rewards of -1 and 0: 1 is added, as D4RL's are 0 and 1")
        return rewards + 1
    _notice(name, "has antmaze rewards other than 0 and 1: policies train on r - 1 anyway")
    return rewards


def _notice(name: str | Path, text: str) -> None:
    print(printable(f"note: {name} {text}"), file=sys.stderr)


def read_arrays(
    path: Path, shapes: Shapes, optional: Shapes | None = None
) -> dict[str, np.ndarray]:
    """Read arrays of a dataset file, all of the same length.

    Args:
        path: an HDF5 file.
        shapes: key to the shape of one row. Scalars, (), may be stored as (N,) or (N, 1).
        optional: the same for keys that may be missing.

    Returns:
        key to an array (N, *shape), N at least 2, of the file's number format, all finite.

    Raises:
        UnusableDatasetError: the file is damaged or not HDF5, takes data from other files, lacks
            a key, or has arrays of other shapes, of different lengths or with NaN or infinity.
    """
    with _open(path) as file:
        return _read(file, shapes, optional or {})


def read_attribute(path: Path, name: str) -> Any:
    """An attribute of a whole file; None if it has none of that name.

    Raises:
        UnusableDatasetError: the file cannot be read.
    """
    with _open(path) as file:
        return file.attrs.get(name)


def read_small_arrays(path: Path, keys: list[str], most: int) -> list[np.ndarray]:
    """Read arrays of any shapes, such as a policy's weights.

    Args:
        path: an HDF5 file.
        keys: their names.
        most: the most bytes that one of them may have.

    Raises:
        UnusableDatasetError: the file is damaged or not HDF5, takes data from other files, lacks
            a key, or has something else than numbers or more than `most` bytes there.
    """
    with _open(path) as file:
        datasets = [_numbers(file, key) for key in keys]
        for key, dataset in zip(keys, datasets, strict=True):
            if max(dataset.nbytes, _chunk_bytes(dataset)) > most:
                problem = f"claims {dataset.nbytes:,} bytes for '{key}', more than {most:,}"
                raise UnusableDatasetError(path, problem)
        return [np.asarray(dataset[()]) for dataset in datasets]


def counted_cuts(terminals: np.ndarray, max_episode_steps: int) -> np.ndarray:
    """Where D4RL's own loop (`d4rl.qlearning_dataset`) cuts a file that has no `timeouts`.

    It counts steps and cuts at step max_episode_steps - 1. The row after a cut counts as step 0,
    like the first row, but the row after a terminal as step 1.

    Args:
        terminals: (N,) bool.
        max_episode_steps: the task's time limit.

    Returns:
        (N,) bool. A cut wins over a terminal in the same row.
    """
    cuts = np.zeros(len(terminals), dtype=bool)
    last_step = max_episode_steps - 1
    step_zero = 0
    for row in np.flatnonzero(terminals).tolist():
        cuts[step_zero + last_step : row + 1 : max_episode_steps] = True
        step_zero = row + 1 if cuts[row] else row
    cuts[step_zero + last_step :: max_episode_steps] = True
    return cuts


def to_float32(name: str | Path, key: str, values: np.ndarray) -> np.ndarray:
    """Values, (N, ...), as float32.

    Raises:
        UnusableDatasetError: some are not finite, or too large for float32.
    """
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    _check_finite(name, key, values)
    return values


def _check_finite(name: str | Path, key: str, values: np.ndarray) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        row = np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1))[0]
        raise UnusableDatasetError(name, f"has NaN or infinity in '{key}', first in row {row}")


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    with read_errors(path):
        open_regular(path).close()
    # h5py raises one of these, depending on which part of the file is damaged.
    try:
        with h5py.File(path, "r", locking=False) as file:  # reading needs no lock
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = reason_of(error)
        raise UnusableDatasetError(path, f"is not readable as HDF5 ({reason})") from error
    except MemoryError as error:
        raise UnusableDatasetError(path, "needs more memory than is available") from error


def _inside(file: h5py.File, key: str) -> h5py.Group | h5py.Dataset | None:
    """The object that a path leads to, or None. Links out of the file are not followed.

    It looks at links alone, one by one: h5py's own lookup would open the other file.
    """
    node, names, soft_links = file["/"], key.split("/"), 0
    while names:
        name = names.pop(0)
        if not name:
            continue
        if not isinstance(node, h5py.Group) or not node.id.links.exists(name.encode()):
            return None
        kind = node.id.links.get_info(name.encode()).type
        if kind == h5py.h5l.TYPE_HARD:
            node = node[name]
            continue
        if kind != h5py.h5l.TYPE_SOFT or soft_links == MAX_SOFT_LINKS:
            raise _from_elsewhere(file, key)
        soft_links += 1
        target = node.id.links.get_val(name.encode()).decode()
        node = file["/"] if target.startswith("/") else node
        names = target.split("/") + names
    return node


def _from_elsewhere(file: h5py.File, key: str) -> UnusableDatasetError:
    return UnusableDatasetError(
        file.filename, f"takes '{key}' from another file, which is refused for safety"
    )


def _read(file: h5py.File, shapes: Shapes, optional: Shapes) -> dict[str, np.ndarray]:
    shapes = shapes | {key: shape for key, shape in optional.items() if _inside(file, key)}
    datasets = {key: _find(file, key, shape) for key, shape in shapes.items()}
    _check_lengths(file, datasets)
    _check_memory(file, shapes, datasets)
    arrays = {}
    for key, dataset in datasets.items():
        arrays[key] = dataset[()].reshape(-1, *shapes[key])
        _check_finite(file.filename, key, arrays[key])
    return arrays


def _check_memory(file: h5py.File, shapes: Shapes, datasets: dict[str, h5py.Dataset]) -> None:
    """Refuse a file that would unpack to more than any dataset of these shapes has."""
    needed = sum(dataset.nbytes for dataset in datasets.values())
    # Chunks are unpacked whole, however few rows there are.
    needed += max(_chunk_bytes(dataset) for dataset in datasets.values())
    row = sum(8 * math.prod(shape) for shape in shapes.values())
    most = max(MAX_ROWS * row, MAX_RATIO * file.id.get_filesize())
    if needed > most:
        problem = f"unpacks to {needed:,} bytes, more than the {most:,} that such a file can hold"
        raise UnusableDatasetError(file.filename, problem)


def _chunk_bytes(dataset: h5py.Dataset) -> int:
    return math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0


def _find(file: h5py.File, key: str, shape: tuple[int, ...]) -> h5py.Dataset:
    """The dataset of a key, checked by its declaration alone, before any of it is read."""
    dataset = _numbers(file, key)
    allowed = [shape] if shape else [(), (1,)]
    if not dataset.shape or dataset.shape[1:] not in allowed:
        wanted = " or ".join(str(("N", *one)).replace("'", "") for one in allowed)
        problem = f"has '{key}' of shape {dataset.shape}, the task needs {wanted}"
        raise UnusableDatasetError(file.filename, problem)
    if dataset.nbytes > MAX_EXPANSION * file.id.get_filesize():
        problem = f"claims {dataset.nbytes:,} bytes for '{key}', more than it can hold"
        raise UnusableDatasetError(file.filename, problem)
    return dataset


def _numbers(file: h5py.File, key: str) -> h5py.Dataset:
    """A dataset of numbers that are in the file itself."""
    dataset = _inside(file, key)
    if not isinstance(dataset, h5py.Dataset):
        raise UnusableDatasetError(file.filename, f"has no array '{key}'")
    # First of all: the shape of a virtual dataset may come from the files that it names.
    if dataset.is_virtual or dataset.external:
        raise _from_elsewhere(file, key)
    if dataset.dtype.kind not in NUMERIC_KINDS:
        raise UnusableDatasetError(file.filename, f"has {dataset.dtype} in '{key}', not numbers")
    return dataset


def _check_lengths(file: h5py.File, datasets: dict[str, h5py.Dataset]) -> None:
    lengths = {key: len(dataset) for key, dataset in datasets.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise UnusableDatasetError(file.filename, f"has arrays of different lengths: {listed}")
    if min(lengths.values()) < 2:
        problem = f"has too few rows ({min(lengths.values())}): a transition takes two"
        raise UnusableDatasetError(file.filename, problem)
