"""A task's dataset as transitions: from a file, a download, a generator or Minari."""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box

from d4rl_tasks.checksums import WrongContentError, check_content, editions
from d4rl_tasks.command_line import printable
from d4rl_tasks.errors import D4RLTaskError, foreign_errors
from d4rl_tasks.fetch import DownloadError, d4rl_file
from d4rl_tasks.files import (
    Checksum,
    exists,
    file_checksum,
    in_home,
    read_errors,
    sole_writer,
    synthetic_path,
)
from d4rl_tasks.hdf5 import (
    Rows,
    UnusableDatasetError,
    as_d4rls_rewards,
    clip_actions,
    read_rows,
    to_float32,
)
from d4rl_tasks.robots import task_sizes
from d4rl_tasks.tasks import Task, get_task

HDF5_SUFFIXES = (".hdf5", ".h5")
ARRAYS = ("observations", "actions", "next_observations", "rewards", "terminals")


@dataclass(frozen=True, eq=False)
class Dataset:
    """N transitions of a task, and where they come from. No two arrays share memory.

    Attributes:
        observations: (N, S) float32.
        actions: (N, A) float32.
        next_observations: (N, S) float32.
        rewards: (N,) float32, of the step, undiscounted.
        terminals: (N,) float32, 1 where the episode ended with the step, else 0. A time limit
            does not end an episode.
        name: the task.
        source: "file" (a path was given), "d4rl" (a file in the dataset folder), "download" (the
            same, fetched just now), "ogbench", "synthetic" or "minari:<dataset id>".
        path: the file; for Minari its folder.
        synthetic: a synthetic dataset, not D4RL's data: scores of policies trained on it are not
            comparable to published ones.
        sha256: of the file, in hexadecimal; None for Minari.
        size: of the file in bytes; None for Minari.
    """

    observations: np.ndarray
    actions: np.ndarray
    next_observations: np.ndarray
    rewards: np.ndarray
    terminals: np.ndarray
    name: str
    source: str
    path: Path
    synthetic: bool
    sha256: str | None
    size: int | None

    def keys(self) -> tuple[str, ...]:
        """Names of the arrays, as in the dict that d4rl's `qlearning_dataset` returns."""
        return ARRAYS

    def __getitem__(self, key: str) -> np.ndarray:
        """An array by its name: `dataset["observations"]`."""
        if key not in ARRAYS:
            raise KeyError(f"{key!r}: a dataset has {', '.join(ARRAYS)}")
        return getattr(self, key)

    def __len__(self) -> int:
        """The number of transitions."""
        return len(self.rewards)


def load_dataset(name: str, source: str | Path = "auto") -> Dataset:
    """Load a task's transitions: what `d4rl.qlearning_dataset` yields.

    Row i of a file makes (observation i, action i, observation i + 1, reward i, terminal i), unless
    it is the last or cut by a time limit (D4RL, https://arxiv.org/abs/2004.07219, and its code). If
    the file's own `next_observations` are not those of the next rows, as in a shuffled replay
    buffer, they are taken instead, and every row is a transition.

    Args:
        name: a task's name.
        source: where from.
            "d4rl": D4RL's file in the dataset folder, downloaded if it is not there.
            "synthetic": a synthetic dataset in that folder, generated if it is not there.
            "auto": the first of these two that is available.
            A path (it ends in .hdf5 or .h5, or a file is there): that file, in D4RL's layout.
            "minari:<dataset id>": a Minari dataset that is on this machine.

    Raises:
        D4RLTaskError: the task, source or file does not exist, the download fails, or the data are
            not what the task needs. A file with D4RL's name but different content is kept but not
            used, unless its path is given.
    """
    task = get_task(name)
    source = str(source)
    if source.startswith("minari:"):
        return _load_minari(task, source)
    if source == "auto":
        return _load_any(task)
    if source == "d4rl":
        return _load_d4rl(task)
    if source == "synthetic":
        return _load_synthetic(task)
    path = in_home(source, "give the full path of the dataset")
    if path.suffix in HDF5_SUFFIXES or path.is_file():
        return _load_file(task, path, "file")
    raise D4RLTaskError(
        f"unknown source {source!r}: choose auto, d4rl, synthetic, minari:<dataset id>, or the "
        "path of an HDF5 file"
    )


def _load_any(task: Task) -> Dataset:
    try:
        return _load_d4rl(task)
    except DownloadError as error:
        print(f"{error.failures[-1]}; next: a synthetic dataset", file=sys.stderr)
        return _load_synthetic(task, error)


def _load_d4rl(task: Task) -> Dataset:
    found = d4rl_file(task)
    return _load_file(task, found.path, "download" if found.downloaded else "d4rl")


def _load_synthetic(task: Task, download_error: D4RLTaskError | None = None) -> Dataset:
    path = synthetic_path(task.name)
    generate_once(task.name, path, lambda: _generate(task, path, download_error))
    return _load_file(task, path, "synthetic")


def generate_once(name: str, path: Path, generate: Callable[[], object]) -> None:
    """Generate the synthetic dataset of a name unless it is there; other processes wait for it."""
    if exists(path):
        return
    with sole_writer(path, "generates"):
        if not exists(path):  # another process generated it meanwhile
            print(
                f"generating a synthetic dataset for {name} at {printable(path)}", file=sys.stderr
            )
            generate()


def _generate(task: Task, path: Path, download_error: D4RLTaskError | None) -> None:
    from d4rl_tasks.synthetic.generate import generate

    try:
        generate(task.name, path)
    except D4RLTaskError as error:
        if download_error is None:
            raise
        raise D4RLTaskError(
            f"{download_error}; a synthetic dataset is not available either: {error}"
        ) from error


def _load_file(task: Task, path: Path, source: str) -> Dataset:
    content = _content(task, path, source)
    genuine = content in editions(task.file_name)
    rows = read_rows(path, task, in_order=genuine)
    dataset = Dataset(
        **_transitions(rows),
        name=task.name,
        source=source,
        path=path,
        synthetic=rows.synthetic or source == "synthetic",
        sha256=content.sha256,
        size=content.size,
    )
    if dataset.synthetic:
        print(_synthetic_notice(task, path), file=sys.stderr)
    return dataset


def _content(task: Task, path: Path, source: str) -> Checksum:
    """A file's checksum. One with the name of D4RL's file but another content is named."""
    with read_errors(path):
        content = file_checksum(path)
    if source == "file" and path.name == task.file_name:
        try:
            remark = check_content(path, content)
        except WrongContentError as error:
            remark = f"{error}; it is used anyway"
        if remark:
            print(printable(f"note: {remark}"), file=sys.stderr)
    return content


def _transitions(rows: Rows) -> dict[str, np.ndarray]:
    if rows.following is not None:
        return {
            "observations": rows.observations,
            "actions": rows.actions,
            "next_observations": rows.following,
            "rewards": rows.rewards,
            "terminals": rows.terminals.astype(np.float32),
        }
    kept = np.flatnonzero(~rows.cuts[:-1])
    return {
        "observations": rows.observations[kept],
        "actions": rows.actions[kept],
        "next_observations": rows.observations[kept + 1],
        "rewards": rows.rewards[kept],
        "terminals": rows.terminals[kept].astype(np.float32),
    }


def _synthetic_notice(task: Task, path: Path) -> str:
    return (
        f"NOTE: {printable(path)} is a synthetic dataset: scores are not comparable with the "
        f"paper's.\n      Real data: python -m d4rl_tasks.download {task.name}"
    )


def _load_minari(task: Task, source: str) -> Dataset:
    try:
        import minari
    except ImportError as error:
        raise D4RLTaskError(
            f"{source} needs Minari ({error}): pip install 'minari[hdf5]', or choose another source"
        ) from error
    with foreign_errors(
        lambda reason: D4RLTaskError(
            f"Minari cannot load {source} ({reason}): 'minari list local' lists your datasets"
        )
    ):
        stored = minari.load_dataset(source.removeprefix("minari:"))
        _check_spaces(task, source, stored)
        found = minari_dataset(task.name, source, stored)
        return dataclasses.replace(
            found,
            actions=clip_actions(source, found.actions),
            rewards=as_d4rls_rewards(source, found.rewards, task),
        )


def minari_dataset(name: str, source: str, stored) -> Dataset:
    """The transitions of a dataset that Minari has loaded, under a task's name."""
    return Dataset(
        **_minari_transitions(source, stored),
        name=name,
        source=source,
        path=Path(stored.storage.data_path),
        synthetic=bool(stored.storage.metadata.get("synthetic", False)),
        sha256=None,
        size=None,
    )


def _check_spaces(task: Task, source: str, stored) -> None:
    observation_size, action_size = task_sizes(task)
    for key, space, size in (
        ("observations", stored.observation_space, observation_size),
        ("actions", stored.action_space, action_size),
    ):
        if not (isinstance(space, Box) and space.shape == (size,)):
            problem = f"has {key} in {space}, {task.name} needs a Box of shape ({size},)"
            raise UnusableDatasetError(source, problem)


def _minari_transitions(source: str, stored) -> dict[str, np.ndarray]:
    """Minari's episodes hold T + 1 observations, so a step cut by a time limit has its next one."""
    if stored.total_steps == 0:
        raise UnusableDatasetError(source, "holds no transition")
    episodes = list(stored.iterate_episodes())
    parts = {
        "observations": [episode.observations[:-1] for episode in episodes],
        "actions": [episode.actions for episode in episodes],
        "next_observations": [episode.observations[1:] for episode in episodes],
        "rewards": [episode.rewards for episode in episodes],
        "terminals": [episode.terminations for episode in episodes],
    }
    arrays = {key: to_float32(source, key, np.concatenate(part)) for key, part in parts.items()}
    if len({len(values) for values in arrays.values()}) > 1:
        raise UnusableDatasetError(source, "has episodes whose arrays differ in length")
    return arrays
