"""Convert a flat dataset file in D4RL's layout to a Minari dataset.

    python -m d4rl_tasks.to_minari FILE [--env walker2d-expert-v2] [--id walker2d-expert-v2]

It is written into Minari's folder, whole or not at all, and `recover_environment` makes our
environment. `--source minari:ID` trains on it.
"""

import contextlib
import dataclasses
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from d4rl_tasks.command_line import Parser, run_program
from d4rl_tasks.errors import D4RLTaskError, reason_of
from d4rl_tasks.files import open_regular, read_errors
from d4rl_tasks.hdf5 import Rows, UnusableDatasetError, read_arrays, read_attribute, read_rows
from d4rl_tasks.robots import task_sizes
from d4rl_tasks.tasks import Task, get_task


@dataclasses.dataclass(frozen=True, eq=False)
class Episode:
    """T transitions of one episode.

    Attributes:
        observations: (T + 1, S) float32.
        actions: (T, A) float32.
        rewards: (T,) float32.
        terminated: the last transition ended the episode; else a time limit cut it.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool


def split_episodes(rows: Rows, following: np.ndarray | None) -> list[Episode]:
    """Divide a flat file into its episodes.

    Args:
        rows: the file.
        following: (N, S) float32, the observation after each row, as D4RL's MuJoCo files of
            version 2 have it: then every row is a transition. None takes the next row's, as
            `load_dataset` does: then the rows that a time limit cut and the last one have none and
            are left out, and the observation after a terminal is the first of the next episode.
    """
    ends = rows.terminals | rows.cuts
    ends[-1] = True
    usable = np.ones(len(ends), dtype=bool)
    if following is None:
        following = np.roll(rows.observations, -1, axis=0)
        usable = ~rows.cuts
        usable[-1] = False
    stops = np.flatnonzero(ends) + 1
    episodes = []
    for start, stop in zip(np.r_[0, stops[:-1]], stops, strict=True):
        last = stop if usable[stop - 1] else stop - 1
        if start < last:
            episodes.append(_episode(rows, following, slice(start, last)))
    return episodes


def _episode(rows: Rows, following: np.ndarray, part: slice) -> Episode:
    return Episode(
        observations=np.vstack([rows.observations[part], following[part.stop - 1]]),
        actions=rows.actions[part],
        rewards=rows.rewards[part],
        terminated=bool(rows.terminals[part.stop - 1]),
    )


def _following(path: Path, observation_size: int) -> np.ndarray | None:
    shape: dict[str, tuple[int, ...]] = {"next_observations": (observation_size,)}
    following = read_arrays(path, {"rewards": ()}, optional=shape).get("next_observations")
    return None if following is None else following.astype(np.float32, copy=False)


def convert(path: Path, task: Task | None = None, dataset_id: str | None = None) -> str:
    """Make a Minari dataset of a flat file.

    Args:
        path: HDF5 in D4RL's layout.
        task: the task it was recorded on; None reads it from the file, where ours say it.
        dataset_id: Minari's name for it; None means the task's, with "synthetic-" before it for a
            synthetic dataset.

    Returns:
        The dataset's id.

    Raises:
        D4RLTaskError: Minari is missing, the file cannot be used or does not say its task, the id
            is taken or invalid, or the dataset cannot be written.
    """
    minari = _import_minari()
    with read_errors(path):
        open_regular(path).close()
    task = task or _task_of(path)
    rows = read_rows(path, task)
    if rows.following is not None:
        raise UnusableDatasetError(path, "is not in the order of its episodes")
    episodes = split_episodes(rows, _following(path, rows.observations.shape[1]))
    name = dataset_id or (f"synthetic-{task.name}" if rows.synthetic else task.name)
    with _new_dataset(minari, name):
        _write(minari, name, task, episodes, rows.synthetic)
    return name


def _import_minari():
    try:
        import minari
        import minari.dataset.minari_dataset
        import minari.namespace
        import minari.storage.datasets_root_dir
    except ImportError as error:
        raise D4RLTaskError(
            f"a conversion needs Minari ({error}): pip install 'minari[hdf5]'"
        ) from error
    return minari


def _task_of(path: Path) -> Task:
    name = read_attribute(path, "task")
    if not isinstance(name, str):
        raise D4RLTaskError(f"{path} does not name its task: give it with --env")
    return get_task(name)


def _write(minari, name: str, task: Task, episodes: list[Episode], synthetic: bool) -> None:
    observation_size, action_size = task_sizes(task)
    kind = "a synthetic dataset, not D4RL's data, for" if synthetic else "transitions of D4RL's"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Minari warns without an author
        dataset = minari.create_dataset_from_buffers(
            name,
            [_buffer(minari, episode) for episode in episodes],
            env=gymnasium.spec(f"d4rl/{task.name}"),
            observation_space=Box(-np.inf, np.inf, (observation_size,), np.float32),
            action_space=Box(-1, 1, (action_size,), np.float32),
            ref_min_score=task.ref_min_score,
            ref_max_score=task.ref_max_score,
            description=f"{kind} {task.name}",
        )
    dataset.storage.update_metadata({"synthetic": synthetic})


def _buffer(minari, episode: Episode):
    ends = np.zeros(len(episode.rewards), dtype=bool)
    ends[-1] = True
    never = np.zeros_like(ends)
    return minari.data_collector.EpisodeBuffer(
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=ends if episode.terminated else never,
        truncations=never if episode.terminated else ends,
        infos={},
    )


@contextlib.contextmanager
def _new_dataset(minari, name: str) -> Iterator[None]:
    """A temporary folder for Minari to write into; its content is moved into Minari's own."""
    try:
        namespace, _, _ = minari.dataset.minari_dataset.parse_dataset_id(name)
    except (ValueError, TypeError) as error:  # the latter for an id without a version
        raise D4RLTaskError(
            f"{name!r} is not the id of a Minari dataset, such as namespace/name-v0"
        ) from error
    with _write_errors(name):
        get_path = minari.storage.datasets_root_dir.get_dataset_path
        root, target = get_path().resolve(), get_path(name)  # a link may lead to another disk
        if target.exists():
            raise D4RLTaskError(
                f"Minari has a dataset {name} already ({target}): choose another with --id, or "
                f"'minari delete {name}'"
            )
        temporary = root.with_name(f"{root.name}.{os.getpid()}.tmp")
        try:
            with _minari_root(temporary):
                yield
            if namespace and namespace not in minari.namespace.list_local_namespaces():
                minari.namespace.create_namespace(namespace)
            target.parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _write_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
        raise D4RLTaskError(
            f"cannot write the Minari dataset {name} ({reason}): free some space, or set "
            "MINARI_DATASETS_PATH to a folder that you may write to"
        ) from error


@contextlib.contextmanager
def _minari_root(folder: Path) -> Iterator[None]:
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = Parser(
        prog="python -m d4rl_tasks.to_minari",
        description="Convert a flat dataset file in D4RL's layout to a Minari dataset.",
    )
    parser.add_argument("file", type=Path, help="HDF5 in D4RL's layout")
    parser.add_argument("--env", help="its task (default: the one that the file names)")
    parser.add_argument("--id", help="Minari's name for it (default: the task's)")
    options = parser.parse_args(arguments)
    return run_program(lambda: _convert(options.file, options.env, options.id))


def _convert(path: Path, env: str | None, dataset_id: str | None) -> None:
    print(f"minari:{convert(path, get_task(env) if env else None, dataset_id)}")


if __name__ == "__main__":
    sys.exit(main())
