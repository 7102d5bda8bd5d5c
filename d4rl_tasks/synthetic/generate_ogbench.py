"""Generate a synthetic dataset for OGBench, by the oracles of the package ogbench.

A point moves to one random goal of its maze after the other, or an arm carries a cube to one random
place after the other, with noise, as in OGBench's own datasets (Park et al., 2025,
https://arxiv.org/abs/2410.20092).
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
from tqdm import tqdm

from d4rl_tasks.episodes import global_draws_from
from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.files import atomic_path
from d4rl_tasks.ogbench_tasks import make_environment

DEFAULT_TRANSITIONS = 100_000
EPISODE_STEPS = 1_000  # as OGBench's own
POINT_NOISE = 0.5  # standard deviation, of each coordinate of an action; a step has length 1

Row = dict[str, Any]


def generate(
    dataset: str, out: Path, transitions: int = DEFAULT_TRANSITIONS, seed: int = 0
) -> None:
    """Write a dataset, which depends on these arguments alone, in OGBench's layout.

    Args:
        dataset: one of `ORACLES`.
        transitions: at least so many, in whole episodes of 1,000.

    Raises:
        D4RLTaskError: there is no oracle for this dataset, or the file cannot be written.
    """
    if dataset not in ORACLES:
        raise D4RLTaskError(
            f"{dataset} cannot be generated: there are oracles for {', '.join(ORACLES)}"
        )
    with atomic_path(out) as temporary, global_draws_from(np.random.RandomState(seed)):
        rows = _record(dataset, transitions, seed)
        with temporary.open("wb") as file:  # np.savez would add a suffix to a path
            np.savez(file, **rows)


def _record(dataset: str, transitions: int, seed: int) -> Row:
    episodes = ORACLES[dataset](dataset, seed)
    needed = -(-transitions // EPISODE_STEPS)
    progress = tqdm(
        range(needed),
        desc="generate",
        unit="episode",
        mininterval=0.5 if sys.stderr.isatty() else 10,  # seconds; a log needs few
    )
    rows = [row for _ in progress for row in next(episodes)]
    arrays = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    for key in ("observations", "actions"):
        arrays[key] = arrays[key].astype(np.float32)
    # The last row of an episode is not a transition: it holds the last observation.
    ends = np.arange(len(rows)) % (EPISODE_STEPS + 1) == EPISODE_STEPS
    return arrays | {"terminals": ends, "synthetic": np.array(True)}


def _environment(dataset: str, **options) -> contextlib.closing[gymnasium.Env]:
    """The environment of a dataset, which reaching a goal does not end."""
    robot, kind, _, version = dataset.split("-")
    environment = make_environment(
        f"{robot}-{kind}-{version}",
        terminate_at_goal=False,
        max_episode_steps=EPISODE_STEPS + 1,
        **options,
    )
    return contextlib.closing(environment)


def _row(observation: np.ndarray, action: np.ndarray, info: dict) -> Row:
    return {
        "observations": observation,
        "actions": action,
        "qpos": info["prev_qpos"],
        "qvel": info["prev_qvel"],
    }


def _point_episodes(dataset: str, seed: int) -> Iterator[list[Row]]:
    """A point in a maze moves to the next cell on its way to the goal, and then to another goal."""
    with _environment(dataset) as environment:
        maze: Any = environment.unwrapped
        maze.action_space.seed(seed)
        cells = np.argwhere(maze.maze_map == 0)

        def random_cell() -> tuple[int, int]:
            return tuple(cells[np.random.randint(len(cells))])  # noqa: NPY002 (seeded by `generate`)

        for number in count():
            ends = {"init_ij": random_cell(), "goal_ij": random_cell()}
            observation, info = environment.reset(seed=seed + number, options={"task_info": ends})
            rows = []
            for _ in range(EPISODE_STEPS + 1):
                subgoal, _ = maze.get_oracle_subgoal(maze.get_xy(), maze.cur_goal_xy)
                step = subgoal - maze.get_xy()
                step = step / (np.linalg.norm(step) + 1e-6)
                noise = np.random.normal(0, POINT_NOISE, step.shape)  # noqa: NPY002
                action = np.clip(step + noise, -1, 1)
                following, _, _, _, info = environment.step(action)
                rows.append(_row(observation, action, info))
                observation = following
                if info["success"]:
                    maze.set_goal(goal_xy=maze.add_noise(maze.ij_to_xy(random_cell())))
            yield rows


def _cube_episodes(dataset: str, seed: int) -> Iterator[list[Row]]:
    """An arm carries a cube to one random place after the other."""
    oracles = importlib.import_module("ogbench.manipspace.oracles.plan.cube_plan")
    with _environment(dataset, mode="data_collection") as environment:
        oracle, scene = oracles.CubePlanOracle(environment), cast(Any, environment.unwrapped)
        for number in count():
            observation, info = environment.reset(seed=seed + number)
            oracle.reset(observation, info)
            rows = []
            for _ in range(EPISODE_STEPS + 1):
                action = np.clip(oracle.select_action(observation, info), -1, 1)
                following, _, _, _, info = environment.step(action)
                rows.append(_row(observation, action, info))
                observation = following
                if oracle.done:
                    observation, info = scene.set_new_target()
                    oracle.reset(observation, info)
            yield rows


ORACLES: dict[str, Callable[[str, int], Iterator[list[Row]]]] = {
    "pointmaze-medium-navigate-v0": _point_episodes,
    "pointmaze-large-navigate-v0": _point_episodes,
    "cube-single-play-v0": _cube_episodes,
}
