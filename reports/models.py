"""Trained policies and the episodes they act out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import d4rl_tasks
from d4rl_tasks.errors import D4RLTaskError
from DMPO import DMPO
from main_training import (
    EVAL_SEED_OFFSET,
    MAX_ACTION,
    POLICIES,
    RunError,
    Scaling,
    load_model,
    policy_module,
)
from reports.errors import ReportError
from utils import Policy


@dataclass(frozen=True)
class Model:
    """A trained policy, the task it was trained for and how it sees states."""

    name: str
    policy: Policy
    env: str
    scaling: Scaling

    @property
    def components(self) -> int:
        """How many components the policy has: K of DMPO and DMPO_ant, else 0."""
        return self.policy.hp.latent_disc_dim if isinstance(self.policy, DMPO) else 0


@dataclass(frozen=True, eq=False)
class Episode:
    """T steps of one episode.

    Attributes:
        states: (T, S) float32, as the policy saw them (normalised) when it acted.
        qpos, qvel: (T, nq) and (T, nv) float64, the simulator's state at the same time.
        returns: (T,) float64, the sum of rewards up to and with each step.
        values: (T, K) float32, the value of each component; K is 0 for other policies than DMPO's.
        goal: (2,) float64, metres; None outside a maze.
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


def read_model(path: Path) -> Model:
    """Load models/<run>.pt onto the CPU. Nothing in the file is executed.

    Raises:
        ReportError: it is not there, not ours, damaged, or of another version of the policy.
    """
    if not path.is_file():
        raise ReportError(f"there is no model {path}: main_training.py writes models/<run>.pt")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        name, env, given = content["policy"], content["env"], content["hyperparameters"]
        state_dim = len(content["mean"])
    except Exception as error:  # torch.load raises whatever the damage leads it to
        raise ReportError(f"{path} is no model of main_training.py's, or is damaged") from error
    if name not in POLICIES:
        raise ReportError(f"{path} is of policy {name!r}: there are {', '.join(POLICIES)}")
    try:
        module = policy_module(name)
        hyperparameters = module.Hyperparameters(**given)
        with_one = d4rl_tasks.make_vec(env, 1)
        action_dim = with_one.single_action_space.shape[0]
        with_one.close()
        policy = getattr(module, name)(state_dim, action_dim, MAX_ACTION, hyperparameters)
        blank = Scaling(np.zeros(state_dim, np.float32), np.ones(state_dim, np.float32))
        scaling = load_model(path, policy, blank)
    except (RunError, D4RLTaskError) as error:
        raise ReportError(str(error)) from error
    except TypeError as error:
        raise ReportError(f"{path} does not fit this version of {name}: {error}") from error
    return Model(path.stem, policy, env, scaling)


def play(model: Model, episodes: int, seed: int) -> list[Episode]:
    """Act out episodes in lockstep; they start as those of an evaluation with that seed."""
    environment = d4rl_tasks.make_vec(model.env, episodes)
    first = seed + EVAL_SEED_OFFSET
    observations, _ = environment.reset(seed=list(range(first, first + episodes)))
    records: list[list[tuple]] = [[] for _ in range(episodes)]
    returns = np.zeros(episodes)
    while environment.active.any():
        active = np.flatnonzero(environment.active)
        states = ((observations - model.scaling.mean) / model.scaling.std).astype(np.float32)
        qpos, qvel = environment.qpos.copy(), environment.qvel.copy()
        values = values_of(model, states)
        observations, rewards, _, _, _ = environment.step(model.policy.select_action(states))
        returns += rewards
        for index in active:
            row = states[index], qpos[index], qvel[index], returns[index], values[index]
            records[index].append(row)
    environment.close()
    goals = environment.target_goals
    return [
        Episode(*map(np.stack, zip(*record, strict=True)), None if goals is None else goals[index])
        for index, record in enumerate(records)
    ]


def values_of(model: Model, states: np.ndarray) -> np.ndarray:
    """Value of every component at every state, (n, K); K is 0 for other policies than DMPO's."""
    if not model.components:
        return np.zeros((len(states), 0), np.float32)
    return model.policy.values_of_components(states)
