"""LP_AWAC against its formulas."""

import formulas
import numpy as np
import pytest
import torch
from helpers import (
    DISCOUNT,
    LATENTS,
    close,
    decoded,
    make_batch,
    make_scattered_policy,
    normal,
    to_numpy,
)

import LP_AWAC


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("no_noise", [False, True])
def test_lp_awac_value_loss(no_noise):
    policy, batch = make_scattered_policy("LP_AWAC", no_noise=no_noise), make_batch()
    torch.manual_seed(1)
    loss = policy.value_loss(batch)

    torch.manual_seed(1)
    noise = 0.0 if no_noise else (0.1 * normal(256, LATENTS)).clip(-0.2, 0.2)
    state = batch.state.numpy()
    action = decoded(policy, policy.actor_target, state, noise)
    target = formulas.twins(policy.critic_target, state, action).min(axis=0)
    close(loss, ((formulas.value(policy.value, state) - target) ** 2).mean())


@pytest.mark.usefixtures("float64")
def test_lp_awac_advantage():
    policy, batch = make_scattered_policy("LP_AWAC", max_latent_action=1.5), make_batch()
    state, _, next_state, reward, not_done = to_numpy(batch)
    next_action = decoded(policy, policy.actor_target, next_state)
    next_value = formulas.twins(policy.critic_target, next_state, next_action).min(axis=0)
    expected = reward + DISCOUNT * not_done * next_value - formulas.value(policy.value, state)
    close(policy.advantage(batch), expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("options", [{}, {"scale": 3.0, "weight_type": "clamp"}, {"scale": 0.0}])
def test_lp_awac_cvae_loss(options):
    policy, batch = make_scattered_policy("LP_AWAC", **options), make_batch()
    torch.manual_seed(1)
    loss = policy.cvae_loss(batch)

    torch.manual_seed(1)
    noise = normal(256, LATENTS)
    state, action = to_numpy(batch)[:2]
    scale, weight_type = options.get("scale", 10.0), options.get("weight_type", "")
    weight = formulas.advantage_weight(policy.advantage(batch).detach().numpy(), scale, weight_type)
    mean, log_var = np.split(formulas.mlp(policy.cvae.encoder, state, action), 2, axis=-1)
    latent = mean + np.exp(log_var / 2) * noise
    error = ((formulas.mlp(policy.cvae.decoder, state, latent) - action) ** 2).sum(axis=-1)
    kl = (mean**2 + np.exp(log_var) - 1 - log_var).sum(axis=-1) / 2
    close(loss, (weight * (error + kl)).mean())


def test_lp_awac_kl_is_torchs():
    torch.manual_seed(0)
    mean, log_var = torch.randn(2, 9, LATENTS)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_var / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    ).sum(-1)
    torch.testing.assert_close(LP_AWAC.kl_to_standard_normal(mean, log_var), expected)


@pytest.mark.usefixtures("float64")
def test_lp_awac_latent_actor_maximises_the_first_twin():
    policy, batch = make_scattered_policy("LP_AWAC"), make_batch()
    state = batch.state.numpy()
    action = decoded(policy, policy.actor, state)
    value = formulas.twins(policy.critic, state, action)[0]
    close(policy.actor_loss(batch), -value.mean())
