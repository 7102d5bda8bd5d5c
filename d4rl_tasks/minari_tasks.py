"""Minari's datasets behind the same functions as this package's own tasks.

    from d4rl_tasks import minari_tasks

    dataset = minari_tasks.load_dataset("mujoco/walker2d/expert-v0")
    episodes = minari_tasks.make_vec("mujoco/walker2d/expert-v0", 10)

A task's name is a dataset's; the environment is the one that the dataset names for evaluations.
Actions are scaled to [-1, 1].

A score is 0 for the dataset's `ref_min_score` and 1 for its `ref_max_score`. Minari's own datasets
of MuJoCo have neither (https://github.com/Farama-Foundation/Minari/issues/323): then 0 is the mean
return of a random policy, and 1 the highest return of an episode in the dataset.
"""

import contextlib
import dataclasses
import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from d4rl_tasks.command_line import printable
from d4rl_tasks.datasets import Dataset, minari_dataset
from d4rl_tasks.episodes import Episodes, check_count
from d4rl_tasks.errors import D4RLTaskError, foreign_errors
from d4rl_tasks.hdf5 import clip_actions
from d4rl_tasks.tasks import Task

RANDOM_EPISODES = 20
# These register environments of Minari's own datasets when they are imported.
PACKAGES = ("gymnasium_robotics", "minigrid")


def _minari_errors(name: str) -> contextlib.AbstractContextManager:
    """Neither Minari nor environments have an exception class of their own."""
    return foreign_errors(
        lambda reason: D4RLTaskError(
            f"Minari dataset {name} cannot be used ({reason}): 'minari list local' lists those on "
            "this machine, 'minari list remote' those to download"
        )
    )


def _unusable(name: str, problem: str) -> D4RLTaskError:
    return D4RLTaskError(f"Minari dataset {name} {problem}: give another one")


@cache
def _stored(name: str) -> Any:
    """The dataset, downloaded by Minari if it is not on this machine."""
    try:
        minari = importlib.import_module("minari")
    except ImportError as error:
        raise D4RLTaskError(
            f"--backend minari needs Minari ({error}): pip install 'minari[hdf5]'"
        ) from error
    with _minari_errors(name):
        stored = minari.load_dataset(name, download=True)
        spaces = {"observations": stored.observation_space, "actions": stored.action_space}
    for key, space in spaces.items():
        if not (isinstance(space, Box) and len(space.shape) == 1):
            raise _unusable(name, f"has {key} in {space}: a flat Box is needed")
    if not spaces["actions"].is_bounded():
        raise _unusable(name, "has actions without bounds, which cannot be scaled")
    return stored


def _environment_spec(name: str) -> EnvSpec:
    """The environment's spec, if it is one that an installed package has registered.

    A spec names any function and its arguments: one that is only in a file is not called.
    """
    stored = _stored(name)
    with _minari_errors(name):
        of_evaluations = stored.storage.metadata.get("eval_env_spec")
        spec = EnvSpec.from_json(of_evaluations) if of_evaluations else stored.env_spec
    if spec is None:
        raise _unusable(name, "names no environment, so nothing can be evaluated")
    for package in PACKAGES:
        with contextlib.suppress(ImportError):
            gymnasium.register_envs(importlib.import_module(package))
    registered = gymnasium.registry.get(spec.id)
    if registered is None or registered.entry_point != spec.entry_point or spec.additional_wrappers:
        problem = f"names an environment, {spec.id}, that no installed package registers like this"
        raise _unusable(name, problem)
    return spec


def make(name: str, **kwargs) -> gymnasium.Env:
    """The dataset's environment, with its time limit, in its own range of actions.

    Args:
        name: a Minari dataset.
        kwargs: for `gymnasium.make`, such as `render_mode="rgb_array"`.

    Raises:
        D4RLTaskError: the dataset does not exist, or its environment cannot be made.
    """
    spec = _environment_spec(name)
    with _minari_errors(name):
        return gymnasium.make(spec, **kwargs)


def _scaled(actions: np.ndarray, space: Box) -> np.ndarray:
    """Actions of a space, (..., A) float32, in [-1, 1]."""
    if (space.low == -1).all() and (space.high == 1).all():
        return actions
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    width = np.where(high > low, high - low, 1)  # 0 where an action has one value only
    return (2 * (actions - low) / width - 1).astype(np.float32)


def _unscaled(actions: np.ndarray, space: Box) -> np.ndarray:
    """The inverse of `_scaled`, in the dtype of the space."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    scaled = np.clip(actions, -1, 1).astype(np.float64)
    if not ((low == -1).all() and (high == 1).all()):
        scaled = low + (scaled + 1) / 2 * (high - low)
    return scaled.astype(space.dtype)


@cache
def get_task(name: str) -> Task:
    """A dataset as a task: its time limit and reference returns.

    Raises:
        D4RLTaskError: Minari or the dataset is missing, or it cannot be used: its observations or
            actions are not flat and continuous, or it names no registered environment.
    """
    spec = _environment_spec(name)
    if spec.max_episode_steps is None:
        raise _unusable(name, f"names an environment, {spec.id}, without a time limit")
    low, high = _reference_returns(name)
    return Task(
        name=name,
        robot=spec.id,
        quality="",
        url="",
        ref_min_score=low,
        ref_max_score=high,
        max_episode_steps=spec.max_episode_steps,
    )


def _reference_returns(name: str) -> tuple[float, float]:
    stored = _stored(name)
    with _minari_errors(name):
        stated = [stored.storage.metadata.get(f"ref_{one}_score") for one in ("min", "max")]
    if None not in stated:
        low, high = map(float, stated)
    else:
        low, high = _random_return(name), _best_return(name)
        print(
            f"NOTE: {printable(name)} has no reference returns: a score of 0 is the mean return of "
            f"a random policy ({low:.1f}, {RANDOM_EPISODES} episodes), 1 the highest in the "
            f"dataset ({high:.1f})",
            file=sys.stderr,
        )
    if not low < high:
        problem = f"has no return above {low:.1f}, a score of 0: scores cannot be computed"
        raise _unusable(name, problem)
    return low, high


def _random_return(name: str) -> float:
    """Mean return of uniformly random actions: the same for every run."""
    returns = []
    with contextlib.closing(make(name)) as environment, _minari_errors(name):
        environment.action_space.seed(0)
        for seed in range(RANDOM_EPISODES):
            environment.reset(seed=seed)
            returns.append(0.0)
            is_over = False
            while not is_over:
                _, reward, terminated, truncated, _ = environment.step(
                    environment.action_space.sample()
                )
                returns[-1] += float(reward)
                is_over = terminated or truncated
    return float(np.mean(returns))


def _best_return(name: str) -> float:
    """The highest return of an episode in the dataset."""
    with _minari_errors(name):
        episodes = _stored(name).iterate_episodes()
        return max((float(one.rewards.sum()) for one in episodes), default=0.0)


def load_dataset(name: str, source: str | Path = "auto") -> Dataset:
    """Load a dataset's transitions.

    Args:
        name: a Minari dataset, such as "mujoco/walker2d/expert-v0".
        source: "auto" is the only one.

    Raises:
        D4RLTaskError: as `get_task`, or the dataset is empty or holds values that are not finite.
    """
    if str(source) != "auto":
        raise D4RLTaskError(f"--backend minari takes the dataset of its task: omit source {source}")
    stored = _stored(name)
    with _minari_errors(name):
        found = minari_dataset(name, f"minari:{name}", stored)
        scaled = _scaled(found.actions, stored.action_space)
        return dataclasses.replace(found, actions=clip_actions(name, scaled))


def normalized_score(name: str, returns: float | np.ndarray) -> np.ndarray:
    """Scores of undiscounted returns, any shape: see the module's docstring."""
    return get_task(name).normalized_score(returns)


class MinariEpisodes(Episodes):
    """Episodes of one dataset's environment; actions are in [-1, 1].

    Args:
        name: a Minari dataset.
        num_envs: how many episodes.
    """

    def __init__(self, name: str, num_envs: int):
        self._actions = _stored(name).action_space
        (size,) = _stored(name).observation_space.shape
        super().__init__(get_task(name), [make(name) for _ in range(num_envs)], size)

    def _reset_one(self, environment: gymnasium.Env, seed: int) -> np.ndarray:
        return environment.reset(seed=seed)[0]

    def _step_one(
        self, environment: gymnasium.Env, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool]:
        observation, reward, terminated, truncated, _ = environment.step(
            _unscaled(action, self._actions)
        )
        return observation, float(reward), terminated, truncated


def make_vec(name: str, num_envs: int) -> MinariEpisodes:
    """Make `num_envs` episodes of a dataset's environment."""
    check_count(num_envs)
    return MinariEpisodes(name, num_envs)
