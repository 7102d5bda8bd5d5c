"""IQL against the formulas of its paper."""

import math

import formulas
import numpy as np
import pytest
import torch
from helpers import (
    ACTIONS,
    close,
    loss_of,
    make_batch,
    make_buffer,
    make_policy,
    make_scattered_policy,
    to_numpy,
)
from scipy import stats

import IQL


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_iql_value_loss(expectile):
    policy, batch = make_scattered_policy("IQL", expectile=expectile), make_batch()
    state, action = to_numpy(batch)[:2]
    target = formulas.twins(policy.critic_target, state, action).min(axis=0)
    error = target - formulas.value(policy.value, state)
    weight = np.abs(expectile - (error < 0))
    close(loss_of(policy, "value_loss", batch), (weight * error**2).mean())


def test_expectile_loss():
    error = torch.tensor([-2.0, -1.0, 3.0])
    close(IQL.expectile_loss(error, 0.5), (4 + 1 + 9) / 3 / 2, rtol=1e-6)
    close(IQL.expectile_loss(error, 0.9), (0.1 * 4 + 0.1 * 1 + 0.9 * 9) / 3, rtol=1e-6)
    # The smallest loss over constants is at the expectile: 0.9 E(x - v)+ = 0.1 E(v - x)+.
    sample = torch.randn(2_000, generator=torch.Generator().manual_seed(0))
    constants = torch.linspace(-2, 2, 401)
    losses = torch.stack([IQL.expectile_loss(sample - v, 0.9) for v in constants])
    expected = stats.expectile(sample.numpy(), 0.9)
    assert constants[losses.argmin()].item() == pytest.approx(expected, abs=0.011)


@pytest.mark.usefixtures("float64")
def test_iql_target_value_is_the_lower_target_twin():
    policy, batch = make_scattered_policy("IQL"), make_batch()
    state, action = to_numpy(batch)[:2]
    value = formulas.twins(policy.critic_target, state, action).min(axis=0)
    close(policy.target_value(batch), value)


def actor_learning_rate(policy):
    (group,) = policy.actor_optimizer.param_groups
    return group["lr"]


@pytest.mark.parametrize("max_timesteps", [1, 7, 40])
@pytest.mark.parametrize("policy_freq", [1, 2, 3])
def test_iql_learning_rate_falls_by_a_cosine_to_zero_at_the_end_of_the_run(
    max_timesteps, policy_freq
):
    policy = make_policy("IQL", train_steps=max_timesteps, policy_freq=policy_freq)
    updates = max_timesteps // policy_freq
    buffer = make_buffer()
    for step in range(1, max_timesteps + 1):
        policy.train(buffer, 8)
        progress = (step // policy_freq) / max(updates, 1)
        expected = 3e-4 * (1 + math.cos(math.pi * progress)) / 2
        assert actor_learning_rate(policy) == pytest.approx(expected, rel=1e-6, abs=1e-18)
    assert actor_learning_rate(policy) == (0 if updates else 3e-4)
    assert policy.critic_optimizer.param_groups[0]["lr"] == 3e-4
    assert policy.value_optimizer.param_groups[0]["lr"] == 3e-4


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["state", "global", "release"])
def test_the_log_std_is_of_each_state_or_one_for_all_or_clamped_twice(kind):
    policy, state = make_scattered_policy("IQL", log_std=kind), make_batch().state
    std = policy.actor(state).stddev.detach().numpy()
    clamp = lambda x: -2.5 + 2.5 * np.tanh(x)  # noqa: E731
    if kind == "global":
        expected = np.exp(-5 + 7 / (1 + np.exp(-policy.actor.log_std.detach().numpy())))
        close(policy.actor(state).stddev, np.broadcast_to(expected, (256, ACTIONS)))
        return
    head = formulas.mlp(policy.actor.network, state.numpy())[:, ACTIONS:]
    once = clamp(np.tanh(head))
    close(policy.actor(state).stddev, np.exp(once if kind == "state" else clamp(once)))
    low, high = {"state": (0.0122, 0.551), "release": (0.0067, 0.0216)}[kind]
    assert low <= std.min() < std.max() <= high
