"""Rollouts of a policy: evaluations, and the episodes that reports show."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

import d4rl_tasks
from utils import Policy

EVAL_EPISODES = 10  # of an evaluation
LAST_EVAL_EPISODES = {"antmaze": 100}  # of a run's last one, by robot
EVAL_SEED_OFFSET = 100


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Policies see states as (observation - mean) / std; (S,) float32 each."""

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """(..., S) observations -> (..., S) states."""
        return (observations - self.mean) / self.std

    def is_as(self, other: "Normalizer") -> bool:
        """Whether both make the same states."""
        return np.array_equal(self.mean, other.mean) and np.array_equal(self.std, other.std)


class Outcome(NamedTuple):
    """The results of an evaluation's N episodes: (N,) float64 each.

    Attributes:
        returns: undiscounted.
        scores: normalised; with OGBench 1 for success, else 0.
    """

    returns: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True, eq=False)
class Step:
    """One step of N episodes in lockstep; rows of episodes that have ended repeat.

    Attributes:
        active: (N,) bool, the episodes that took this step.
        states: (N, S), normalised, as the policy saw them.
        actions: (N, A).
        rewards: (N,).
        watched: whatever `watch` returned before the step.
    """

    active: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    watched: Any


def rollout(
    policy: Policy,
    normalizer: Normalizer,
    environment: d4rl_tasks.LockstepVectorEnv,
    seeds: Sequence[int],
    watch: Callable[[Any], Any] = lambda environment: None,
) -> Iterator[Step]:
    """Play one episode from each seed, in lockstep, until the last has ended.

    Args:
        environment: of as many environments as there are seeds.
        watch: called with the environment before each step.
    """
    observations, _ = environment.reset(seed=list(seeds))
    while environment.active.any():
        active, watched = environment.active.copy(), watch(environment)
        states = normalizer(observations)
        actions = policy.select_action(states)
        observations, rewards, _, _, _ = environment.step(actions)
        yield Step(active, states, actions, rewards, watched)


def episode_seeds(seed: int, episodes: int) -> list[int]:
    """Seeds of the episodes that a run is evaluated on; other seeds share none of them.

    The first ones are the same however many are asked for.
    """
    return np.random.SeedSequence(seed + EVAL_SEED_OFFSET).generate_state(episodes).tolist()


def evaluate(
    policy: Policy,
    normalizer: Normalizer,
    env: str,
    episodes: int,
    seed: int,
    is_stopped: Callable[[], bool] = lambda: False,
    show: Callable[[int], None] = lambda finished: None,
    backend: ModuleType = d4rl_tasks,
) -> Outcome | None:
    """Returns and scores of episodes run in lockstep.

    Args:
        env: a task's name.
        seed: of the run; see `episode_seeds`.
        is_stopped: asked at every step; True ends the evaluation, and None is returned.
        show: called at every step with the number of episodes that have ended.
        backend: makes the environment, by `make_vec`.
    """
    returns = np.zeros(episodes)
    with contextlib.closing(backend.make_vec(env, episodes)) as environment, one_torch_thread():
        seeds = episode_seeds(seed, episodes)
        for step in rollout(policy, normalizer, environment, seeds):
            returns += step.rewards
            show(episodes - int(environment.active.sum()))
            if is_stopped():
                return None
        return Outcome(returns, environment.scores(returns))


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """PyTorch with one thread on the CPU, as the environments take all cores.

    Its other threads would keep spinning for a while after every product, against those of the
    environments; and the products of a few states hardly gain from them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
