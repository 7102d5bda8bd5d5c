"""AWAC, and the weighted log-likelihood that IQL and mixAWAC share with it."""

import formulas
import numpy as np
import pytest
import torch
from helpers import (
    ACTIONS,
    COMPONENTS,
    DISCOUNT,
    close,
    loss_of,
    make_batch,
    make_scattered_policy,
    normal,
    one_hot,
    to_numpy,
)

import IQL


@pytest.mark.usefixtures("float64")
def test_awac_critic_loss():
    policy, batch = make_scattered_policy("AWAC"), make_batch()
    torch.manual_seed(1)
    loss = policy.critic_loss(batch)

    torch.manual_seed(1)
    noise = normal(256, ACTIONS)
    state, action, next_state, reward, not_done = to_numpy(batch)
    mean, std = formulas.gaussian(policy.actor, next_state)
    next_value = formulas.twins(policy.critic_target, next_state, mean + std * noise).min(axis=0)
    target = reward + DISCOUNT * not_done * next_value
    close(loss, formulas.td_loss(formulas.twins(policy.critic, state, action), target))


@pytest.mark.usefixtures("float64")
def test_awac_advantage_is_over_the_mean_value_of_five_actions():
    policy, batch = make_scattered_policy("AWAC"), make_batch()
    torch.manual_seed(1)
    advantage = policy.advantage(batch)

    torch.manual_seed(1)
    noise = normal(5, 256, ACTIONS)
    state, action = to_numpy(batch)[:2]
    mean, std = formulas.gaussian(policy.actor_target, state)
    values = [formulas.twins(policy.critic, state, mean + std * n).min(axis=0) for n in noise]
    own = formulas.twins(policy.critic, state, action).min(axis=0)
    close(advantage, own - np.mean(values, axis=0))


@pytest.mark.usefixtures("float64")
def test_awac_with_another_score_type_weights_by_the_value_itself():
    policy, batch = make_scattered_policy("AWAC", score_type="q"), make_batch()
    expected = formulas.twins(policy.critic, batch.state.numpy(), batch.action.numpy()).min(axis=0)
    close(policy.advantage(batch), expected)


def expected_log_likelihood(policy, state, action):
    actor = policy.actor
    if type(policy).__name__ != "mixAWAC":
        return formulas.normal_log_density(action, *formulas.gaussian(actor, state))
    log_gate = formulas.log_softmax(formulas.mlp(actor.gate, state))
    log_densities = []
    for k in range(COMPONENTS):
        component = formulas.mixture_component(actor, state, np.tile(one_hot(k), (len(state), 1)))
        log_densities.append(formulas.normal_log_density(action, *component))
    return formulas.logsumexp(log_gate + np.array(log_densities).T)


def advantage_of(policy, batch):
    if isinstance(policy, IQL.IQL):
        return policy.target_value(batch) - policy.value(batch.state)
    return policy.advantage(batch)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["AWAC", "IQL", "mixAWAC"])
@pytest.mark.parametrize("options", [{}, {"scale": 3.0, "weight_type": "raw"}, {"scale": 0.0}])
def test_actor_loss_is_the_weighted_log_likelihood(name, options):
    policy, batch = make_scattered_policy(name, **options), make_batch()
    torch.manual_seed(1)
    loss = loss_of(policy, "actor_loss", batch)

    # The advantage draws from the policy; its own formula has its own test.
    torch.manual_seed(1)
    advantage = advantage_of(policy, batch).detach().numpy()
    scale, weight_type = options.get("scale", 10.0), options.get("weight_type", "")
    weight = formulas.advantage_weight(advantage, scale, weight_type)
    state, action = to_numpy(batch)[:2]
    close(loss, -(weight * expected_log_likelihood(policy, state, action)).mean())
