"""Trained policies and the episodes they act out."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import d4rl_tasks
from d4rl_tasks.command_line import printable
from DMPO import DMPO
from experiment.evaluation import Normalizer, Step, episode_seeds, one_torch_thread, rollout
from experiment.models import load_policy, read_model_info
from reports.errors import ReportError
from reports.schema import check_config
from utils import Policy


@dataclass(frozen=True)
class Model:
    """A trained policy, the task it was trained for and how it sees states.

    Attributes:
        seed: of the run that trained it.
    """

    name: str
    policy: Policy
    normalizer: Normalizer
    env: str
    seed: int

    @property
    def components(self) -> int:
        """How many components the policy chooses among by their value; 0 if it has none."""
        has_values = isinstance(self.policy, DMPO)
        return self.policy.hp.latent_disc_dim if has_values else 0

    @property
    def policy_name(self) -> str:
        return type(self.policy).__name__


@dataclass(frozen=True, eq=False)
class Episode:
    """T steps of one episode.

    Attributes:
        states: (T, S) float32, as the policy saw them (normalised) when it acted.
        qpos, qvel: (T, nq) and (T, nv) float64, the simulator's state at the same time.
        returns: (T,) float64, the sum of rewards up to and with each step.
        values: (T, K) float32, the value of each component; K is 0 without components.
        goal: (2,) float64, in the coordinates of qpos, metres; None outside a maze.
    """

    states: np.ndarray
    qpos: np.ndarray
    qvel: np.ndarray
    returns: np.ndarray
    values: np.ndarray
    goal: np.ndarray | None

    @property
    def components(self) -> np.ndarray:
        """(T,) int64, the component that acted."""
        return self.values.argmax(1)


def is_playable(task: str) -> bool:
    """Whether a task is one of `d4rl_tasks`' own, and not another backend's."""
    return task.removeprefix("d4rl/") in d4rl_tasks.task_names()


def read_model(path: Path) -> Model:
    """Load models/<run>.safetensors onto the CPU. Nothing in the file is executed.

    Raises:
        RunError, ReportError: it is not there, not ours, damaged, of another version of the policy,
            or of a task that `d4rl_tasks` does not have.
    """
    policy, normalizer = load_policy(path)
    info = read_model_info(path)
    check_config(info, path.name)
    env = info["settings"]["env"]
    if not is_playable(env):
        raise ReportError(
            f"{printable(path)} was trained on {printable(env)}, a task of another backend: such "
            "models cannot be played"
        )
    env = d4rl_tasks.get_task(env).name
    return Model(printable(path.stem), policy, normalizer, env, int(info["settings"]["seed"]))


def play(model: Model, episodes: int, seed: int) -> list[Episode]:
    """Act out the episodes that the run with that seed was evaluated on.

    Raises:
        ReportError: the task has other states or actions than the model.
    """
    with contextlib.closing(d4rl_tasks.make_vec(model.env, episodes)) as environment:
        _check_sizes(model, environment)
        with one_torch_thread():
            seeds = episode_seeds(seed, episodes)
            steps = [
                (step, _values(model, step.states))
                for step in rollout(model.policy, model.normalizer, environment, seeds, _watch)
            ]
        goals = environment.target_goals
    return [_episode(steps, index, goals) for index in range(episodes)]


def _check_sizes(model: Model, environment: d4rl_tasks.LockstepVectorEnv) -> None:
    task = len(environment.observations()[0]), environment.model.nu
    own = model.policy.spec.state_dim, model.policy.spec.action_dim
    if own != task:
        raise ReportError(
            f"{model.name} has {own[0]} state and {own[1]} action coordinates, {model.env} has "
            f"{task[0]} and {task[1]}: it is a model of another task"
        )


def _watch(environment: d4rl_tasks.LockstepVectorEnv) -> tuple[np.ndarray, np.ndarray]:
    """The simulator's state."""
    return environment.qpos.copy(), environment.qvel.copy()


def _episode(steps: list[tuple[Step, np.ndarray]], index: int, goals: np.ndarray | None) -> Episode:
    """The steps of one of the episodes that were played in lockstep."""
    own = [(step, values) for step, values in steps if step.active[index]]
    return Episode(
        states=np.stack([step.states[index] for step, _ in own]).astype(np.float32),
        qpos=np.stack([step.watched[0][index] for step, _ in own]),
        qvel=np.stack([step.watched[1][index] for step, _ in own]),
        returns=np.cumsum([step.rewards[index] for step, _ in own]),
        values=np.stack([values[index] for _, values in own]),
        goal=None if goals is None else goals[index],
    )


def _values(model: Model, states: np.ndarray) -> np.ndarray:
    """Value of every component at every state, (n, K); K is 0 without components."""
    if isinstance(model.policy, DMPO):
        return model.policy.values_of_components(states)
    return np.zeros((len(states), 0), np.float32)
