"""Reads a flat dataset file in D4RL's layout, and refuses any other."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from d4rl_tasks.environments import observation_space
from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.robots import make_robot
from d4rl_tasks.tasks import Task

# The most bytes of one array. D4RL's largest, ant-medium-expert's observations, has 0.9e9.
MAX_BYTES = 4_000_000_000
# gzip packs 1,032 to 1 at best, so an array that claims more than this times its file was never
# written: HDF5 would invent it from fill values.
MAX_EXPANSION = 1_100
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


def read_rows(path: Path, task: Task) -> Rows:
    """Read and check a whole dataset file; a line on stderr says what is unusual about it.

    Ends of episodes may have the names of D4RL, gymnasium, Minari or d3rlpy. Without any time
    limits `counted_cuts` counts them, as D4RL does.

    Raises:
        UnusableDatasetError: as `read_arrays`, with the sizes of the task's environment; or no two
            rows make a transition; or terminals or timeouts are other than 0 and 1.
    """
    observation_size, action_size = task_sizes(task)
    optional: Shapes = {"next_observations": (observation_size,)}
    optional |= dict.fromkeys((*TIMEOUTS, EPISODE_ENDS), ())
    with _open(path) as file:
        ended = next((name for name in TERMINALS if name in file), TERMINALS[0])
        shapes: Shapes = {"observations": (observation_size,), "actions": (action_size,)}
        arrays = _read(file, shapes | {"rewards": (), ended: ()}, optional)
        synthetic = bool(file.attrs.get("synthetic", False))
    terminals = _flags(path, ended, arrays[ended])
    observations = to_float32(path, "observations", arrays["observations"])
    cuts = _cuts(path, arrays, terminals, task)
    following = _following(path, arrays, observations, terminals | cuts)
    if following is None and cuts[:-1].all():
        raise UnusableDatasetError(path, "holds no transition: all rows but the last are timeouts")
    return Rows(
        observations=observations,
        actions=_actions(path, to_float32(path, "actions", arrays["actions"])),
        rewards=_rewards(path, to_float32(path, "rewards", arrays["rewards"]), task),
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
) -> np.ndarray:
    """(N,) bool: the rows after which another episode begins though none ended."""
    name = next((name for name in TIMEOUTS if name in arrays), None)
    if name is not None:
        cuts = _flags(path, name, arrays[name])
        if terminals.any() and cuts[terminals].all():
            _notice(path, f"sets '{name}' at every terminal: D4RL drops these rows, so no terminal")
        return cuts
    if EPISODE_ENDS in arrays:
        return _flags(path, EPISODE_ENDS, arrays[EPISODE_ENDS]) & ~terminals
    if not terminals.any():
        limit = task.max_episode_steps
        _notice(path, f"has no ends of episodes: time limits of {limit} steps were counted")
    return counted_cuts(terminals, task.max_episode_steps)


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


def _actions(path: Path, actions: np.ndarray) -> np.ndarray:
    largest = float(np.abs(actions).max())
    if largest <= 1:
        return actions
    _notice(path, f"has actions up to {largest:g}: they are clipped to [-1, 1], as environments do")
    return actions.clip(-1, 1)


def _rewards(path: Path, rewards: np.ndarray, task: Task) -> np.ndarray:
    """Rewards as D4RL has them: 0 and 1 on antmaze, where some files hold r - 1 already."""
    if task.robot != "antmaze" or np.isin(rewards, (0, 1)).all():
        return rewards
    if np.isin(rewards, (-1, 0)).all():
        _notice(path, "has rewards of -1 and 0: 1 is added, as D4RL's are 0 and 1")
        return rewards + 1
    _notice(path, "has antmaze rewards other than 0 and 1: policies train on r - 1 all the same")
    return rewards


def _notice(path: Path, text: str) -> None:
    print(f"note: {path} {text}", file=sys.stderr)


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


def task_sizes(task: Task) -> tuple[int, int]:
    """How many numbers a task's observation and action have."""
    robot = make_robot(task)
    model = robot.model()
    return observation_space(robot, model).shape[0], model.nu


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
    # What h5py makes of HDF5's own errors depends on the part of the file that is damaged.
    try:
        with h5py.File(path, "r", locking=False) as file:  # reading needs no lock
            _refuse_external_links(file)
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UnusableDatasetError(path, f"is not readable as HDF5 ({reason})") from error


def _refuse_external_links(file: h5py.File) -> None:
    # Soft links need no check: they stay in the file unless they meet an external one. This looks
    # at the links alone: h5py's own Group.get(getlink=True) would already open the other file.
    def leads_out(key: bytes, link: h5py.h5l.LinkInfo) -> bytes | None:
        inside = link.type in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
        return None if inside else key

    outsider = file.id.links.visit(leads_out, info=True)
    if outsider is not None:
        raise _from_elsewhere(file, outsider.decode(errors="replace"))


def _from_elsewhere(file: h5py.File, key: str) -> UnusableDatasetError:
    return UnusableDatasetError(
        file.filename, f"takes '{key}' from another file, which is refused for safety"
    )


def _read(file: h5py.File, shapes: Shapes, optional: Shapes) -> dict[str, np.ndarray]:
    shapes = shapes | {key: shape for key, shape in optional.items() if key in file}
    datasets = {key: _find(file, key, shape) for key, shape in shapes.items()}
    _check_lengths(file, datasets)
    arrays = {}
    for key, dataset in datasets.items():
        arrays[key] = dataset[()].reshape(-1, *shapes[key])
        _check_finite(file.filename, key, arrays[key])
    return arrays


def _find(file: h5py.File, key: str, shape: tuple[int, ...]) -> h5py.Dataset:
    """The dataset of a key, checked by its declaration alone, before any of it is read."""
    dataset = file.get(key)
    if not isinstance(dataset, h5py.Dataset):
        raise UnusableDatasetError(file.filename, f"has no array '{key}'")
    # First of all: the shape of a virtual dataset may come from the files that it names.
    if dataset.is_virtual or dataset.external:
        raise _from_elsewhere(file, key)
    if dataset.dtype.kind not in NUMERIC_KINDS:
        raise UnusableDatasetError(file.filename, f"has {dataset.dtype} in '{key}', not numbers")
    allowed = [shape] if shape else [(), (1,)]
    if not dataset.shape or dataset.shape[1:] not in allowed:
        wanted = " or ".join(str(("N", *one)).replace("'", "") for one in allowed)
        problem = f"has '{key}' of shape {dataset.shape}, the task needs {wanted}"
        raise UnusableDatasetError(file.filename, problem)
    if dataset.nbytes > min(MAX_BYTES, MAX_EXPANSION * file.id.get_filesize()):
        problem = f"claims {dataset.nbytes:,} bytes for '{key}', more than it can hold"
        raise UnusableDatasetError(file.filename, problem)
    return dataset


def _check_lengths(file: h5py.File, datasets: dict[str, h5py.Dataset]) -> None:
    lengths = {key: len(dataset) for key, dataset in datasets.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise UnusableDatasetError(file.filename, f"has arrays of different lengths: {listed}")
    if min(lengths.values()) < 2:
        problem = f"has too few rows ({min(lengths.values())}): a transition takes two"
        raise UnusableDatasetError(file.filename, problem)
