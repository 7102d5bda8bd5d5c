"""mixAWAC against its formulas, and what it draws."""

import formulas
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    ACTIONS,
    COMPONENTS,
    DISCOUNT,
    SIGNIFICANCE,
    capture_latents,
    close,
    gumbel,
    make_batch,
    make_policy,
    make_scattered_policy,
    normal,
    one_hot,
    scale_output,
    to_numpy,
)
from scipy import stats

from utils import Batch


def drawn_actions(actor, state, component_noise, action_noise):
    """A component by the Gumbel trick, then its Normal."""
    logits = formulas.mlp(actor.gate, state)
    latent = one_hot((logits + component_noise).argmax(axis=-1))
    mean, std = formulas.mixture_component(actor, state, latent)
    return mean + std * action_noise


@pytest.mark.usefixtures("float64")
def test_mixture_log_likelihood_is_torchs():
    policy, batch = make_scattered_policy("mixAWAC"), make_batch()
    actor = policy.actor
    components = torch.distributions.Independent(actor(batch.state, actor.components), 1)
    components = torch.distributions.Normal(
        components.base_dist.mean.transpose(0, 1), components.base_dist.stddev.transpose(0, 1)
    )
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=actor.gate(batch.state)),
        torch.distributions.Independent(components, 1),
    )
    torch.testing.assert_close(
        actor.log_prob(batch.state, batch.action), mixture.log_prob(batch.action)
    )


def test_mixture_log_likelihood_survives_actions_far_from_every_component():
    # exp of a log density below -103 is 0 in float32.
    policy, batch = make_policy("mixAWAC"), make_batch()
    log_likelihood = policy.actor.log_prob(batch.state, 100 * torch.ones_like(batch.action))
    assert log_likelihood.isfinite().all()
    assert log_likelihood.max() < -1_000


@pytest.mark.usefixtures("float64")
def test_mixawac_critic_loss():
    policy, batch = make_scattered_policy("mixAWAC"), make_batch()
    torch.manual_seed(1)
    loss = policy.critic_loss(batch)

    torch.manual_seed(1)
    noise = gumbel(256, COMPONENTS), normal(256, ACTIONS)
    state, action, next_state, reward, not_done = to_numpy(batch)
    next_action = drawn_actions(policy.actor_target, next_state, *noise)
    next_value = formulas.twins(policy.critic_target, next_state, next_action).min(axis=0)
    target = reward + DISCOUNT * not_done * next_value
    close(loss, formulas.td_loss(formulas.twins(policy.critic, state, action), target))


@pytest.mark.usefixtures("float64")
def test_mixawac_advantage_is_over_one_action_by_the_target_critic():
    policy, batch = make_scattered_policy("mixAWAC"), make_batch()
    torch.manual_seed(1)
    advantage = policy.advantage(batch)

    torch.manual_seed(1)
    noise = gumbel(256, COMPONENTS), normal(256, ACTIONS)
    state, action = to_numpy(batch)[:2]
    policy_action = drawn_actions(policy.actor_target, state, *noise)
    own, policy_value = (
        formulas.twins(policy.critic_target, state, a).min(axis=0) for a in (action, policy_action)
    )
    close(advantage, own - policy_value)


@pytest.mark.parametrize("loss", ["critic_loss", "actor_loss"])
def test_mixawac_trains_on_components_drawn_from_the_gate(loss):
    policy = make_scattered_policy("mixAWAC")
    scale_output(policy.actor_target.gate, 0.2)
    count = 20_000
    batch = Batch(*(column[:1].expand(count, *column.shape[1:]) for column in make_batch()))
    latents = capture_latents(policy.actor_target.embedding, lambda: getattr(policy, loss)(batch))
    (latent,) = latents
    state = batch.next_state if loss == "critic_loss" else batch.state
    probability = policy.actor_target.gate(state[:1]).softmax(-1)[0].detach().double().numpy()
    assert probability.max() < 0.9, "one component has all the probability: this would show nothing"

    component = latent.argmax(-1)
    torch.testing.assert_close(latent, F.one_hot(component, COMPONENTS).float())
    frequencies = np.bincount(component, minlength=COMPONENTS)
    expected = probability / probability.sum() * count
    assert stats.chisquare(frequencies, expected).pvalue > SIGNIFICANCE
