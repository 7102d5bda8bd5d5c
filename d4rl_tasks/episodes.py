"""Episodes whose environments step one after the other, used as `LockstepVectorEnv` is."""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from d4rl_tasks.errors import D4RLTaskError
from d4rl_tasks.tasks import Task


class Episodes:
    """Episodes of one task side by side; subclasses say how one environment resets and steps.

    A finished episode stands still (its reward is 0, its last observation stays) until `reset`.

    Args:
        task: of all episodes.
        environments: one for each episode.
        observation_size: S.

    Attributes:
        active: (num_envs,) bool, the episodes that still run.
        terminated: (num_envs,) bool, those that have ended, and not by a time limit.
    """

    def __init__(self, task: Task, environments: Sequence[Any], observation_size: int):
        self.task = task
        self.environments = list(environments)
        self.num_envs = len(self.environments)
        self.active, self.terminated = np.zeros((2, self.num_envs), dtype=bool)
        self._observations = np.zeros((self.num_envs, observation_size))

    def reset(self, *, seed: Sequence[int]) -> tuple[np.ndarray, dict]:
        """Reset all episodes, each from its seed.

        Returns:
            observations (num_envs, S) float64, and an empty dict.
        """
        for index, (environment, one) in enumerate(zip(self.environments, seed, strict=True)):
            self._observations[index] = self._reset_one(environment, one)
        self.active[:], self.terminated[:] = True, False
        return self._observations.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Apply actions, (num_envs, A), for one environment step; as `LockstepVectorEnv.step`."""
        actions, rewards = np.asarray(actions), np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=bool)
        for index in np.flatnonzero(self.active):
            self._observations[index], rewards[index], terminated[index], truncated[index] = (
                self._step_one(self.environments[index], actions[index])
            )
        self.active &= ~(terminated | truncated)
        self.terminated |= terminated
        return self._observations.copy(), rewards, terminated, truncated, {}

    def scores(self, returns: np.ndarray) -> np.ndarray:
        """Scores of the episodes that have been played, (num_envs,), from their returns."""
        return self.task.normalized_score(returns)

    def close(self) -> None:
        """Close all environments."""
        for environment in self.environments:
            environment.close()

    def _reset_one(self, environment: Any, seed: int) -> np.ndarray:
        """Reset one environment; returns its observation, (S,)."""
        raise NotImplementedError

    def _step_one(
        self, environment: Any, action: np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool]:
        """Step one environment; returns observation, reward, terminated, truncated."""
        raise NotImplementedError


@cache
def _idle_environments(key: Hashable) -> list[Any]:
    return []


class ReusingEpisodes(Episodes):
    """Episodes whose environments are used again: making one takes long or leaves a file open.

    `close` keeps the environments for the next episodes.

    Args:
        task: of all episodes.
        make: makes an environment.
        key: episodes with the same key share their environments.
        num_envs: how many episodes.
    """

    def __init__(self, task: Task, make: Callable[[], Any], key: Hashable, num_envs: int):
        self._idle = _idle_environments(key)
        environments = [self._idle.pop() if self._idle else make() for _ in range(num_envs)]
        super().__init__(task, environments, environments[0].observation_space.shape[0])

    def close(self) -> None:
        """Give the environments back."""
        self._idle += self.environments
        self.environments = []


@contextlib.contextmanager
def global_draws_from(generator: np.random.RandomState) -> Iterator[None]:
    """NumPy's global generator draws what this one would; afterwards it is as before.

    Some environments draw from the global one; a run's own draws must not change with that.
    """
    before = np.random.get_state()  # noqa: NPY002
    np.random.set_state(generator.get_state())  # noqa: NPY002
    try:
        yield
    finally:
        generator.set_state(np.random.get_state())  # noqa: NPY002
        np.random.set_state(before)  # noqa: NPY002


def check_count(num_envs: int) -> None:
    """Check how many environments are asked for.

    Raises:
        D4RLTaskError: none.
    """
    if num_envs < 1:
        raise D4RLTaskError(f"num_envs is {num_envs}: at least one environment is needed")
