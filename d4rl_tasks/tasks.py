"""The 106 tasks: their names, robots, datasets' addresses and reference scores."""

import difflib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from d4rl_tasks.errors import D4RLTaskError


@dataclass(frozen=True)
class Task:
    """One D4RL task.

    Attributes:
        name: D4RL's name, e.g. "walker2d-medium-expert-v2".
        robot: "halfcheetah", "hopper", "walker2d", "ant", "antmaze" or "maze2d".
        quality: what collected the data: "random", "medium", "expert", "medium-replay",
            "full-replay", "medium-expert"; for antmaze the starts and goals: "" (one of each),
            "play" or "diverse"; for maze2d the reward: "" (sparse) or "dense".
        url: where D4RL publishes the dataset.
        ref_min_score, ref_max_score: returns that score 0 and 1 (`infos.py` and `pointmaze/` of
            D4RL's code).
        max_episode_steps: time limit in environment steps.
        maze: "umaze", "medium", "large" and others (`mazes.py`); "" for robots without one.
        goal_resampled_each_episode: antmaze: a new goal at every reset, not a fixed one.
    """

    name: str
    robot: str
    quality: str
    url: str
    ref_min_score: float
    ref_max_score: float
    max_episode_steps: int
    maze: str = ""
    goal_resampled_each_episode: bool = False

    @property
    def file_name(self) -> str:
        """Name of the dataset file, as D4RL saves it."""
        return self.url.rsplit("/", 1)[1]

    def normalized_score(self, returns: float | np.ndarray) -> np.ndarray:
        """See the function of that name."""
        span = self.ref_max_score - self.ref_min_score
        return (np.asarray(returns, dtype=np.float64) - self.ref_min_score) / span


@cache
def _table() -> dict[str, Task]:
    entries = json.loads((Path(__file__).parent / "tasks.json").read_text())
    return {name: _task(name, entry) for name, entry in entries.items()}


def _task(name: str, entry: dict) -> Task:
    robot, _, quality = name.rpartition("-v")[0].partition("-")
    if "maze" in entry:
        quality = quality.removeprefix(entry["maze"]).removeprefix("-")
    return Task(name=name, robot=robot, quality=quality, **entry)


# How D4RL's other tasks begin.
BEYOND = (
    *("pen", "hammer", "door", "relocate", "kitchen", "flow", "carla", "minigrid", "bullet-"),
    *("antmaze-eval", "ant-random-expert"),
)


def task_names() -> list[str]:
    """Names of all tasks, sorted."""
    return sorted(_table())


def get_task(name: str) -> Task:
    """Look a task up by D4RL's name.

    Raises:
        D4RLTaskError: the task is unknown; the message suggests similar names.
    """
    short = name.removeprefix("d4rl/")
    task = _table().get(short)
    if task is not None:
        return task
    if short.startswith(BEYOND):
        raise D4RLTaskError(
            f"{name} is not among the {len(_table())} tasks here: main_training.py --backend "
            "d4rl has it"
        )
    if "/" in short:
        raise D4RLTaskError(
            f"unknown task {name!r}: a Minari dataset needs main_training.py --backend minari"
        )
    near = difflib.get_close_matches(short, task_names(), n=3, cutoff=0.5)
    hint = "python -m d4rl_tasks.download --list lists all"
    if near:
        hint = f"did you mean {', '.join(near)}?"
    raise D4RLTaskError(f"unknown task {name!r}: {hint}")


def normalized_score(name: str, returns: float | np.ndarray) -> np.ndarray:
    """D4RL's normalised score: 0 for a random policy, 1 for the reference expert (not times 100).

    Args:
        name: a task's name.
        returns: undiscounted returns of episodes, any shape.

    Returns:
        float64 array of the same shape, `(returns - ref_min) / (ref_max - ref_min)`
        (Fu et al., D4RL, section 4: https://arxiv.org/abs/2004.07219).
    """
    return get_task(name).normalized_score(returns)
