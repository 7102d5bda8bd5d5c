"""OGBench's single-task environments behind the same functions as this package's own tasks.

    from d4rl_tasks import ogbench_tasks

    dataset = ogbench_tasks.load_dataset("cube-single-play-singletask-v0")
    episodes = ogbench_tasks.make_vec("cube-single-play-singletask-v0", 10)

Environments, datasets, rewards and masks are those of the package ogbench (Park et al., 2025,
https://arxiv.org/abs/2410.20092). An episode scores 1 if it succeeds, else 0. Environments whose
observations are images are refused.
"""

import contextlib
import importlib
import socket
import sys
import warnings
from functools import cache
from http.client import HTTPException
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from d4rl_tasks.command_line import printable
from d4rl_tasks.datasets import Dataset, generate_once
from d4rl_tasks.episodes import ReusingEpisodes, check_count, global_draws_from
from d4rl_tasks.errors import D4RLTaskError, foreign_errors, reason_of
from d4rl_tasks.files import (
    exists,
    file_checksum,
    in_home,
    read_errors,
    sole_writer,
    synthetic_path,
)
from d4rl_tasks.hdf5 import UnusableDatasetError, to_float32
from d4rl_tasks.tasks import Task

FOLDER = "~/.ogbench/data"  # the package's own
DOWNLOAD_TIMEOUT = 60  # seconds in which a server must answer; the package sets none
EXAMPLE = "cube-single-play-singletask-v0"
KEYS = ("observations", "actions", "next_observations", "rewards", "masks")


@cache
def _ogbench() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of GLFW, where there is no display
            return importlib.import_module("ogbench")
    except ImportError as error:
        raise D4RLTaskError(
            f"--backend ogbench needs OGBench ({error}): pip install -r requirements-ogbench.txt"
        ) from error


def _split(name: str) -> tuple[str, str]:
    """The environment's id and the dataset's name: both are parts of a task's name.

    "cube-single-play-singletask-task2-v0" -> "cube-single-singletask-task2-v0",
    "cube-single-play-v0".
    """
    words = name.split("-")
    if "singletask" not in words[2:] or not all(word.isalnum() for word in words):
        raise D4RLTaskError(
            f"{name!r} is not a single-task environment of OGBench, and others have no rewards: a "
            f"task's name is like {EXAMPLE}"
        )
    place = words.index("singletask")
    environment = "-".join(words[: place - 1] + words[place:])
    return environment, "-".join([*words[:place], words[-1]])


@cache
def get_task(name: str) -> Task:
    """A single-task environment as a task; its score is 1 for success, else 0.

    Raises:
        D4RLTaskError: OGBench is missing, or has no such environment, or its observations are
            images.
    """
    env_id, _ = _split(name)
    _ogbench()
    spec = gymnasium.registry.get(env_id)
    if spec is None or not str(spec.entry_point).startswith("ogbench."):
        raise D4RLTaskError(f"OGBench has no environment {env_id}: a task's name is like {EXAMPLE}")
    if env_id.startswith("visual-"):
        raise D4RLTaskError(
            f"{name} has images as observations: give {name.removeprefix('visual-')}"
        )
    return Task(
        name=name,
        robot=env_id,
        quality="",
        url="",
        ref_min_score=0.0,
        ref_max_score=1.0,
        max_episode_steps=spec.max_episode_steps or 0,
    )


def make(name: str, **kwargs) -> gymnasium.Env:
    """The task's environment, with its time limit.

    Args:
        name: a task's name.
        kwargs: for `gymnasium.make`.

    Returns:
        an environment that `reset(seed=)` determines once `np.random` and
        `unwrapped.action_space` are seeded too; `make_vec` sees to that.

    Raises:
        D4RLTaskError: as `get_task`.
    """
    return make_environment(get_task(name).robot, **kwargs)


def make_environment(env_id: str, **kwargs) -> gymnasium.Env:
    """As `make`, by the id of any environment of OGBench's."""
    _ogbench()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gymnasium, about the bounds of every Box
        environment = gymnasium.make(env_id, **kwargs)
        _keep_action_space(environment.unwrapped)
    return environment


def _keep_action_space(environment: Any) -> None:
    """Give an arm one action space. It makes a new one for each use, which cannot be seeded.

    A reset draws actions from it.
    """
    kind = type(environment)
    if isinstance(getattr(kind, "action_space", None), property):
        environment.__class__ = type(
            kind.__name__, (kind,), {"action_space": environment.action_space}
        )


def _sizes(environment: Any) -> tuple[int, int]:
    """S and A, of an environment whose actions are in [-1, 1]."""
    actions = environment.action_space
    if not ((actions.low == -1).all() and (actions.high == 1).all()):
        raise D4RLTaskError(f"{environment.spec.id} cannot be used: its actions are not in [-1, 1]")
    return environment.observation_space.shape[0], actions.shape[0]


def load_dataset(name: str, source: str | Path = "auto") -> Dataset:
    """Load a dataset's transitions, with OGBench's rewards and masks for the task.

    Args:
        name: a task's name.
        source: where from.
            "ogbench": the file in ~/.ogbench/data, downloaded by OGBench if it is not there.
            "synthetic": a synthetic dataset in this package's dataset folder, generated by
                OGBench's own oracle if it is not there.
            "auto": the first of these two that is available.
            A path that ends in .npz: that file, in OGBench's layout.

    Returns:
        a terminal is a state in which the task is done (a mask of 0).

    Raises:
        D4RLTaskError: as `get_task`, or the download fails, or there is no oracle for the task, or
            the file is not a dataset of the task.
    """
    get_task(name)
    source = str(source)
    if source == "auto":
        return _load_any(name)
    if source == "ogbench":
        return _load_file(name, _download(name), source)
    if source == "synthetic":
        return _load_file(name, _generated(name), source)
    if source.endswith(".npz"):
        return _load_file(name, in_home(source, "give the full path of the dataset"), "file")
    raise D4RLTaskError(
        f"unknown source {source!r}: choose auto, ogbench, synthetic or the path of an .npz file"
    )


def _load_any(name: str) -> Dataset:
    try:
        path = _download(name)
    except D4RLTaskError as error:
        if not _can_be_generated(name):
            raise
        print(f"{error}; next: a synthetic dataset", file=sys.stderr)
        return _load_file(name, _generated(name), "synthetic")
    return _load_file(name, path, "ogbench")


def _download(name: str) -> Path:
    ogbench, (_, dataset) = _ogbench(), _split(name)
    folder = in_home(FOLDER, "give the path of the dataset as its source")
    path = folder / f"{dataset}.npz"
    if exists(path):
        return path
    with sole_writer(path, "downloads", progress=path.with_name(path.name + ".tmp")):
        usual = socket.getdefaulttimeout()
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                ogbench.download_datasets([dataset], str(folder))
        except (OSError, HTTPException) as error:
            reason = printable(reason_of(error))
            raise D4RLTaskError(
                f"OGBench cannot download {dataset} ({reason}): put {path.name} into {folder}, or "
                "give its path as the source"
            ) from error
        finally:
            socket.setdefaulttimeout(usual)
    return path


def _can_be_generated(name: str) -> bool:
    from d4rl_tasks.synthetic.generate_ogbench import ORACLES

    return _split(name)[1] in ORACLES


def _generated(name: str) -> Path:
    from d4rl_tasks.synthetic.generate_ogbench import generate

    _, dataset = _split(name)
    path = synthetic_path(dataset).with_suffix(".npz")
    generate_once(dataset, path, lambda: generate(dataset, path))
    return path


def _load_file(name: str, path: Path, source: str) -> Dataset:
    with read_errors(path):
        content = file_checksum(path)
    arrays, is_synthetic = _transitions(name, path)
    if is_synthetic:
        print(
            f"NOTE: {printable(path)} is a synthetic dataset: scores are not comparable with those "
            "on OGBench's own",
            file=sys.stderr,
        )
    return Dataset(
        **arrays,
        name=name,
        source=source,
        path=path,
        synthetic=is_synthetic,
        sha256=content.sha256,
        size=content.size,
    )


def _transitions(name: str, path: Path) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays of a file as OGBench reads and rewards them, and whether it is synthetic."""
    with _unusable(path), np.load(path, allow_pickle=False) as file:
        is_synthetic = "synthetic" in file
        _check_rows(path, {key: file[key] for key in file if key != "synthetic"})
    with _unusable(path), contextlib.closing(make(name)) as environment:
        found = _ogbench().load_dataset(str(path), add_info=True)
        with global_draws_from(np.random.RandomState(0)):
            _relabel(get_task(name).robot, environment, found)
        states, actions = _sizes(environment)
    arrays = {key: to_float32(str(path), key, found[key]) for key in KEYS}
    for key, size in zip(KEYS, (states, actions, states), strict=False):
        if arrays[key].shape[1:] != (size,):
            problem = f"has {key} of shape {arrays[key].shape}, {name} needs (N, {size})"
            raise UnusableDatasetError(str(path), problem)
    if not (abs(arrays["actions"]) <= 1).all():
        raise UnusableDatasetError(str(path), "has actions outside [-1, 1]")
    return arrays | {"terminals": 1 - arrays.pop("masks")}, is_synthetic


def _relabel(env_id: str, environment: gymnasium.Env, found: dict[str, np.ndarray]) -> None:
    importlib.import_module("ogbench.relabel_utils").relabel_dataset(env_id, environment, found)


def _check_rows(path: Path, rows: dict[str, np.ndarray]) -> None:
    """Check what OGBench takes for granted, and would shift states or actions without."""
    if len({values.shape[:1] for values in rows.values()}) != 1:
        shapes = ", ".join(f"{key} {values.shape}" for key, values in rows.items())
        raise UnusableDatasetError(str(path), f"has arrays of different lengths ({shapes})")
    ends = rows["terminals"]
    if not (np.isin(ends, (0, 1)).all() and ends[-1]):
        problem = "has terminals other than 0 and 1, or none in its last row"
        raise UnusableDatasetError(str(path), problem)


def _unusable(path: Path) -> contextlib.AbstractContextManager:
    """Whatever NumPy and OGBench raise on a file that is not a dataset of the task."""
    return foreign_errors(
        lambda reason: UnusableDatasetError(
            str(path), f"is not a dataset of this task in OGBench's layout ({printable(reason)})"
        )
    )


class OGBenchEpisodes(ReusingEpisodes):
    """Episodes of one task.

    Args:
        name: a task's name.
        num_envs: how many episodes.
    """

    def __init__(self, name: str, num_envs: int):
        super().__init__(get_task(name), lambda: make(name), ("ogbench", name), num_envs)
        # Environments draw from NumPy's global generator, which must be each episode's own.
        self._draws: dict[int, np.random.RandomState] = {}

    def scores(self, returns: np.ndarray) -> np.ndarray:
        """1 for episodes that have succeeded, which alone ends one early, else 0: (num_envs,)."""
        return self.terminated.astype(np.float64)

    def _reset_one(self, environment: gymnasium.Env, seed: int) -> np.ndarray:
        draws = self._draws[id(environment)] = np.random.RandomState(seed)
        environment.unwrapped.action_space.seed(seed)  # episodes begin with random actions
        with global_draws_from(draws):
            return environment.reset(seed=seed)[0]

    def _step_one(
        self, environment: gymnasium.Env, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool]:
        with global_draws_from(self._draws[id(environment)]):
            observation, reward, terminated, truncated, _ = environment.step(action)
        return observation, float(reward), terminated, truncated


def make_vec(name: str, num_envs: int) -> OGBenchEpisodes:
    """Make `num_envs` episodes of a task."""
    check_count(num_envs)
    return OGBenchEpisodes(name, num_envs)
