"""Values: of DMPO_ant, of critics that bootstrap from V(s), and the rewards behind them."""

import formulas
import numpy as np
import pytest
import torch
from helpers import (
    DISCOUNT,
    MODULES,
    best_component,
    close,
    make_batch,
    make_scattered_policy,
    scale_output,
    to_numpy,
)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("value_range", [(0.0, 100.0), (-50.0, 20.0)])
def test_dmpo_ant_value_loss(value_range):
    rewards = (value_range[0] * (1 - DISCOUNT), value_range[1] * (1 - DISCOUNT))
    is_antmaze = value_range == (0.0, 100.0)
    policy = make_scattered_policy("DMPO_ant", reward_range=rewards, is_antmaze=is_antmaze)
    assert policy.value_range == pytest.approx(value_range)
    assert policy.target_range == pytest.approx(value_range)
    for q in (policy.critic_target.q1, policy.critic_target.q2):
        scale_output(q, 200)
    batch = make_batch()
    state = batch.state
    action, _, _ = best_component(policy, policy.actor_target, state.numpy())
    target = formulas.soft_minimum(formulas.twins(policy.critic_target, state.numpy(), action))
    low, high = value_range
    is_inside = (target > low) & (target < high)
    assert (target < low).any() and (target > high).any() and is_inside.any()
    expected = formulas.value(policy.value, state.numpy()) - target.clip(*value_range)
    close(policy.value_loss(batch), (expected**2).mean())


@pytest.mark.usefixtures("float64")
def test_dmpo_ant_takes_its_share_of_the_lower_twin_from_the_options():
    policy = make_scattered_policy("DMPO_ant", doubleq_min=0.9)
    values = torch.tensor([[1.0, 5.0], [3.0, 4.0]])
    close(policy.pessimistic(values), [0.9 * 1 + 0.1 * 3, 0.9 * 4 + 0.1 * 5])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["DMPO_ant", "IQL", "LP_AWAC"])
def test_critic_loss_of_policies_with_a_value_function(name):
    policy, batch = make_scattered_policy(name), make_batch()
    state, action, next_state, reward, not_done = to_numpy(batch)
    target = reward + DISCOUNT * not_done * formulas.value(policy.value, next_state)
    expected = formulas.td_loss(formulas.twins(policy.critic, state, action), target)
    close(policy.critic_loss(batch), expected)


def test_rewards_that_policies_train_on():
    rewards = np.array([0, 1], dtype=np.float32)
    for name, module in MODULES.items():
        policy = getattr(module, name)
        expected = [0, 100] if name == "DMPO_ant" else [-1, 0]
        assert policy.training_rewards(rewards, is_antmaze=True).tolist() == expected
        assert policy.training_rewards(rewards, is_antmaze=False).tolist() == [0, 1]
