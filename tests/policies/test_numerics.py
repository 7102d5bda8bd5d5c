"""Data at the edge of what the formulas are defined on: every policy trains without NaN."""

import numpy as np
import pytest
import torch
from helpers import is_finite

from experiment.options import POLICIES, policy_module
from utils import ReplayBuffer, RunSpec

STATES, ACTIONS, COUNT, STEPS = 4, 2, 200, 200
BATCH = 32


def ordinary_data():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(COUNT, STATES)).astype(np.float32)
    return {
        "states": states,
        "actions": rng.uniform(-1, 1, (COUNT, ACTIONS)).astype(np.float32),
        "next_states": np.roll(states, -1, axis=0),
        "rewards": rng.normal(size=COUNT).astype(np.float32),
        "terminals": (np.arange(COUNT) % 20 == 19).astype(np.float32),
    }


def edge_data(kind):
    data = ordinary_data()
    if kind == "constant rewards":
        data["rewards"][:] = 1
    elif kind == "one episode":
        data["terminals"] = (np.arange(COUNT) == COUNT - 1).astype(np.float32)
    elif kind == "one distinct state":
        data["states"][:] = data["next_states"][:] = [0.1, -3.0, 1000.0, 0.0]
    elif kind == "one distinct transition":
        data = {name: np.repeat(column[:1], COUNT, axis=0) for name, column in data.items()}
    elif kind == "actions at the bounds":
        data["actions"] = np.sign(data["actions"])
    elif kind == "rewards of 1e6":
        data["rewards"] *= 1e6
    return data


def make(policy, data, **options):
    """A small policy and the buffer of its data, states normalised."""
    torch.manual_seed(0)
    module = policy_module(policy)
    hp = module.Hyperparameters()
    hp.hidden = (16,) * len(hp.hidden)
    for name, value in options.items():
        setattr(hp, name, value)
    buffer = ReplayBuffer(**data)
    buffer.normalize_states()
    rewards = float(data["rewards"].min()), float(data["rewards"].max())
    spec = RunSpec(STATES, ACTIONS, reward_range=rewards)
    return getattr(module, policy)(spec, hp), buffer


def check_training(policy, buffer):
    losses = []
    for _ in range(STEPS):
        losses += policy.train(buffer, BATCH).values()
    assert torch.stack(losses).isfinite().all()
    assert is_finite(policy)
    states = buffer.sample(50).state.numpy()
    assert np.isfinite(states).all()
    actions = policy.select_action(states)
    assert actions.shape == (50, ACTIONS) and np.isfinite(actions).all()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "kind",
    [
        *("constant rewards", "one episode", "one distinct state", "one distinct transition"),
        *("actions at the bounds", "rewards of 1e6"),
    ],
)
def test_edge_data(policy, kind):
    check_training(*make(policy, edge_data(kind)))


@pytest.mark.parametrize("weight_type", ["clamp", "raw"])
@pytest.mark.parametrize("policy", POLICIES)
def test_large_rewards_with_the_other_weights(policy, weight_type):
    check_training(*make(policy, edge_data("rewards of 1e6"), weight_type=weight_type))


@pytest.mark.parametrize("info_reg", [False, True])
@pytest.mark.parametrize("policy", ["DMPO", "DMPO_ant"])
def test_one_component(policy, info_reg):
    check_training(*make(policy, ordinary_data(), latent_disc_dim=1, info_reg=info_reg))


def test_one_component_of_gaussians():
    check_training(*make("mixAWAC", ordinary_data(), latent_disc_dim=1))


def test_a_coordinate_that_never_changes_becomes_zero():
    data = edge_data("one distinct state")
    buffer = ReplayBuffer(**data)
    mean, std = buffer.normalize_states()
    np.testing.assert_allclose(mean, data["states"][0], rtol=1e-6)
    np.testing.assert_allclose(std, 1e-3, rtol=1e-6)
    assert buffer.sample(50).state.abs().max() < 0.1
