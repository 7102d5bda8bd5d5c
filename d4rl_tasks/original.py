"""The original packages (gym, d4rl, mujoco-py) behind the same functions as this package's own.

    from d4rl_tasks import original

    task = original.get_task("pen-human-v1")
    dataset = original.load_dataset("pen-human-v1")
    episodes = original.make_vec("pen-human-v1", 10)

Environments, datasets and scores are theirs: `gym.make`, `d4rl.qlearning_dataset` and
`env.get_normalized_score`. Any D4RL task that is registered there can be used, not only those of
this package. `tests/original_stack/build` installs the packages in an environment of their own.
"""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from d4rl_tasks import datasets, tasks
from d4rl_tasks.datasets import Dataset
from d4rl_tasks.episodes import ReusingEpisodes, check_count, global_draws_from
from d4rl_tasks.errors import D4RLTaskError, foreign_errors, reason_of
from d4rl_tasks.files import checksum, in_home, read_errors
from d4rl_tasks.tasks import Task

PACKAGES = ("gym", "d4rl", "mujoco_py")
# Each registers its tasks when it is imported; `import d4rl` alone stops at the first that fails.
TASK_MODULES = (
    *("gym_mujoco", "locomotion", "pointmaze", "hand_manipulation_suite", "kitchen"),
    *("gym_minigrid", "flow", "carla", "gym_bullet", "pointmaze_bullet"),
)
RECIPE = (
    "build them with tests/original_stack/build, then run with .venv-original/bin/python "
    "(Linux, Python 3.11)"
)


@cache
def _import_gym() -> tuple[Any, dict[str, str]]:
    """gym with all of D4RL's tasks that import, and why the other modules do not."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise D4RLTaskError(f"the original stack lacks {', '.join(missing)}: {RECIPE}")
    os.environ.setdefault("D4RL_SUPPRESS_IMPORT_ERROR", "1")
    failures = {}
    try:
        gym, _ = importlib.import_module("gym"), importlib.import_module("mujoco_py")
        importlib.import_module("d4rl")
    except Exception as error:  # mujoco-py compiles itself, and raises whatever goes wrong
        reason = reason_of(error)
        raise D4RLTaskError(f"the original stack does not import ({reason}): {RECIPE}") from error
    gym.logger.set_level(gym.logger.ERROR)  # it would advise against every seed()
    for name in TASK_MODULES:
        try:
            importlib.import_module(f"d4rl.{name}")
        except Exception as error:
            failures[f"d4rl.{name}"] = reason_of(error)
    return gym, failures


def _spec(name: str):
    gym, failures = _import_gym()
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        lacking = "; ".join(f"{module}: {reason}" for module, reason in failures.items())
        remark = f" (import errors: {lacking})" if failures else ""
        raise D4RLTaskError(
            f"unknown task {name!r}: no d4rl module that can be imported here has it{remark}"
        ) from error


@cache
def get_task(name: str) -> Task:
    """Look a task up in gym's registry: its time limit, dataset and reference scores are d4rl's.

    Raises:
        D4RLTaskError: the packages are missing, or the task is unknown, or it has no dataset, no
            reference scores or its observations or actions are not flat and continuous.
    """
    spec = _spec(name)
    gym, _ = _import_gym()
    keys = ("dataset_url", "ref_min_score", "ref_max_score")
    url, low, high = (spec.kwargs.get(key) for key in keys)
    if url is None or low is None or high is None:
        raise D4RLTaskError(f"{name} has no dataset or no reference scores in d4rl")
    robot, _, quality = name.rpartition("-v")[0].partition("-")
    task = Task(
        name=name,
        robot=robot,
        quality=quality,
        url=url,
        ref_min_score=low,
        ref_max_score=high,
        max_episode_steps=spec.max_episode_steps,
    )
    environment = _environment(name)
    for space in (environment.observation_space, environment.action_space):
        if not (isinstance(space, gym.spaces.Box) and len(space.shape) == 1):
            raise D4RLTaskError(f"{name} cannot be used: {space} is not a flat, continuous space")
    return task


def make(name: str, goal_seed: int = 0):
    """`gym.make(name)`.

    Args:
        name: a task's name.
        goal_seed: antmaze v0 and v1 draw their one goal when the environment is made, from NumPy's
            global generator, which is seeded with this for the time.

    Raises:
        D4RLTaskError: as `get_task`, or the environment cannot be made.
    """
    _spec(name)
    gym, _ = _import_gym()
    try:
        with _seeded_numpy(goal_seed), _prints_to_stderr():
            return gym.make(name)
    except Exception as error:  # gym and d4rl raise many classes
        reason = reason_of(error)
        raise D4RLTaskError(f"gym cannot make {name} ({reason})") from error


@cache
def _environment(name: str):
    """One for a task's spaces, dataset and scores."""
    return make(name)


def _seeded_numpy(seed: int) -> contextlib.AbstractContextManager:
    """d4rl draws from NumPy's global generator."""
    return global_draws_from(np.random.RandomState(seed))


def _prints_to_stderr() -> contextlib.AbstractContextManager:
    """d4rl prints every goal that it draws."""
    return contextlib.redirect_stdout(sys.stderr)


def load_dataset(name: str, source: str | Path = "auto") -> Dataset:
    """Load a task's transitions by `d4rl.qlearning_dataset`.

    A file of one of this package's tasks is found, downloaded or generated as
    `d4rl_tasks.load_dataset` does it; that of any other task d4rl downloads, or it is a path.

    Raises:
        D4RLTaskError: as `d4rl_tasks.load_dataset`, or d4rl cannot get or read the file.
    """
    task, source = get_task(name), str(source)
    if source.startswith("minari:"):
        raise D4RLTaskError(f"d4rl cannot read {source}: choose auto, d4rl, synthetic or a path")
    if name in tasks.task_names():
        found = datasets.load_dataset(name, source)
        arrays: dict[str, Any] = _transitions(name, found.path)
        return dataclasses.replace(found, **arrays)
    if source in ("auto", "d4rl"):
        return _load_file(task, _download(name), "d4rl")
    if source == "synthetic":
        raise D4RLTaskError(f"{name} cannot be generated: get D4RL's own file from {task.url}")
    return _load_file(task, in_home(source, "give the full path of the dataset"), "file")


def _download(name: str) -> Path:
    d4rl = importlib.import_module("d4rl.offline_env")
    url = _environment(name).dataset_url
    path = Path(d4rl.filepath_from_url(url))
    if path.exists():
        return path
    try:
        with _prints_to_stderr():
            d4rl.download_dataset_from_url(url)
    except BaseException as error:
        path.unlink(missing_ok=True)  # a part would pass for the whole the next time
        if not isinstance(error, OSError):
            raise
        reason = reason_of(getattr(error, "reason", error))
        raise D4RLTaskError(
            f"d4rl cannot download {url} ({reason}): put the file into {path.parent}, or give its "
            "path as the source"
        ) from error
    return path


def _load_file(task: Task, path: Path, source: str) -> Dataset:
    with read_errors(path):
        content = checksum(path)
    return Dataset(
        **_transitions(task.name, path),
        name=task.name,
        source=source,
        path=path,
        synthetic=False,
        sha256=content.sha256,
        size=content.size,
    )


def _transitions(name: str, path: Path) -> dict[str, np.ndarray]:
    d4rl = importlib.import_module("d4rl")
    environment = _environment(name)
    # d4rl asserts, and passes on what h5py raises.
    with foreign_errors(lambda why: D4RLTaskError(f"d4rl cannot read {path} for {name} ({why})")):
        rows = environment.get_dataset(h5path=str(path))
        arrays = d4rl.qlearning_dataset(environment, dataset=rows)
    return {key: values.astype(np.float32, copy=False) for key, values in arrays.items()}


def versions() -> dict[str, str]:
    """Versions of the packages. mujoco-py's 2.0.2.13 and free-mujoco-py bring MuJoCo 2.1.0."""
    _import_gym()
    mujoco_py = importlib.import_module("mujoco_py")
    numbers = {name: importlib.metadata.version(name) for name in ("gym", "d4rl")}
    return numbers | {"mujoco_py": mujoco_py.get_version()}


def normalized_score(name: str, returns: float | np.ndarray) -> np.ndarray:
    """`env.get_normalized_score` of undiscounted returns, any shape; 1 for the reference expert."""
    return _environment(name).get_normalized_score(np.asarray(returns, dtype=np.float64))


class OriginalEpisodes(ReusingEpisodes):
    """Episodes of one of d4rl's tasks.

    Args:
        name: a task's name.
        num_envs: how many episodes.
        goal_seed: as `make`'s; all episodes of antmaze v0 and v1 share that goal.
    """

    def __init__(self, name: str, num_envs: int, goal_seed: int = 0):
        key = (name, goal_seed)
        super().__init__(get_task(name), lambda: make(name, goal_seed), key, num_envs)

    def scores(self, returns: np.ndarray) -> np.ndarray:
        """d4rl's own scores."""
        return normalized_score(self.task.name, returns)

    def _reset_one(self, environment: Any, seed: int) -> np.ndarray:
        # The innermost: antmaze's wrapper keeps a seed to itself.
        unwrapped = environment.unwrapped
        getattr(unwrapped, "wrapped_env", unwrapped).seed(seed)
        # antmaze v2 and others draw from the global generator.
        with _seeded_numpy(seed), _prints_to_stderr():
            return environment.reset()

    def _step_one(
        self, environment: Any, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool]:
        # In float32 d4rl would round every action when it scales it to the actuator's range.
        observation, reward, done, info = environment.step(action.astype(np.float64))
        truncated = info.get("TimeLimit.truncated", False)
        return observation, reward, done and not truncated, truncated


def make_vec(name: str, num_envs: int, goal_seed: int = 0) -> OriginalEpisodes:
    """Make `num_envs` episodes of a task."""
    check_count(num_envs)
    return OriginalEpisodes(name, num_envs, goal_seed)
