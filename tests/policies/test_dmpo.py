"""DMPO, and what DMPO_ant shares with it, against the formulas of the paper."""

import formulas
import numpy as np
import pytest
import torch
from helpers import (
    ACTIONS,
    COMPONENTS,
    DISCOUNT,
    MAX_ACTION,
    MIXTURES,
    SIGNIFICANCE,
    TEMPERATURE,
    best_component,
    capture_latents,
    close,
    component_values,
    expected_advantage,
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


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("actor", ["actor", "actor_target"])
def test_the_gate_picks_the_component_that_the_online_critic_values_most(name, actor):
    policy, state = make_scattered_policy(name), make_batch().state
    action, value = policy.best_component(getattr(policy, actor), state)
    expected_action, expected_value, best = best_component(
        policy, getattr(policy, actor), state.numpy()
    )
    assert len(set(best)) > 1, "one component is best everywhere: this would show nothing"
    close(action, expected_action)
    close(value, expected_value)


@pytest.mark.usefixtures("float64")
def test_dmpo_critic_loss():
    # So many transitions that each of the four bounds shows, though the other clip may hide it.
    count = 4_096
    policy, batch = make_scattered_policy("DMPO"), make_batch(count)
    torch.manual_seed(1)
    loss = policy.critic_loss(batch)

    torch.manual_seed(1)
    noise = 0.2 * normal(count, ACTIONS)
    state, action, next_state, reward, not_done = to_numpy(batch)
    best_action = best_component(policy, policy.actor_target, next_state)[0]

    def expected_loss(noise_bounds=(-0.5, 0.5), action_bounds=(-MAX_ACTION, MAX_ACTION)):
        next_action = (best_action + noise.clip(*noise_bounds)).clip(*action_bounds)
        next_value = formulas.twins(policy.critic_target, next_state, next_action).min(axis=0)
        target = reward + DISCOUNT * not_done * next_value
        return formulas.td_loss(formulas.twins(policy.critic, state, action), target)

    close(loss, expected_loss())
    for unbounded in [(-np.inf, 0.5), (-0.5, np.inf)]:
        assert abs(expected_loss(noise_bounds=unbounded) / loss.item() - 1) > 1e-7
    for unbounded in [(-np.inf, MAX_ACTION), (-MAX_ACTION, np.inf)]:
        assert abs(expected_loss(action_bounds=unbounded) / loss.item() - 1) > 1e-7


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize(
    "options", [{}, {"scale": 3.0, "weight_type": "clamp", "kl_weight": 0.3}, {"scale": 0.0}]
)
def test_dmpo_actor_loss(name, options):
    policy, batch = make_scattered_policy(name, **options), make_batch()
    torch.manual_seed(1)
    loss = policy.actor_loss(batch)

    torch.manual_seed(1)
    noise = gumbel(256, COMPONENTS)
    state, action = to_numpy(batch)[:2]
    weight = formulas.advantage_weight(
        expected_advantage(policy, state, action),
        options.get("scale", policy.hp.scale),
        options.get("weight_type", ""),
    )
    logits = formulas.mlp(policy.posterior, state, action)
    latent = np.exp(formulas.log_softmax((logits + noise) / TEMPERATURE))
    squared_error = (formulas.latent_action(policy.actor, state, latent) - action) ** 2
    regression = (weight[:, None] * squared_error).mean() * ACTIONS
    log_posterior = formulas.log_softmax(logits)
    log_prior = formulas.log_softmax(component_values(policy, policy.actor, state)[1].T)
    kl = (np.exp(log_posterior) * (log_posterior - log_prior)).sum(axis=-1)
    close(loss, regression + options.get("kl_weight", 1.0) * (weight * kl).mean())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", MIXTURES)
def test_dmpo_advantage(name):
    policy, batch = make_scattered_policy(name), make_batch()
    expected = expected_advantage(policy, batch.state.numpy(), batch.action.numpy())
    close(policy.advantage(batch), expected)


@pytest.mark.usefixtures("float64")
def test_dmpo_losses_stay_finite_where_the_prior_is_certain():
    # Values of MuJoCo tasks go to thousands; their softmax is 0 for all components but one.
    policy, batch = make_scattered_policy("DMPO"), make_batch()
    for q in (policy.critic.q1, policy.critic.q2):
        scale_output(q, 1e4)
    loss = policy.actor_loss(batch)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in policy.posterior.parameters())


@pytest.mark.parametrize("name", MIXTURES)
def test_dmpo_latents_are_relaxed_draws_from_the_posterior(name):
    policy = make_scattered_policy(name)
    scale_output(policy.posterior, 0.2)
    count = 20_000
    batch = Batch(*(column[:1].expand(count, *column.shape[1:]) for column in make_batch()))
    (latent,) = capture_latents(policy.actor.embedding, lambda: policy.actor_loss(batch))
    probability = policy.posterior(batch.state[:1], batch.action[:1]).softmax(-1)[0]
    assert probability.max() < 0.9, "one component has all the probability: this would show nothing"

    torch.testing.assert_close(latent.sum(-1), torch.ones(count))
    assert latent.max(-1).values.median() < 0.999, "not relaxed"
    frequencies = np.bincount(latent.argmax(-1), minlength=COMPONENTS)
    expected = count * probability.detach().double().numpy()
    assert stats.chisquare(frequencies, expected * count / expected.sum()).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("name", MIXTURES)
def test_info_loss_is_the_cross_entropy_of_all_components(name):
    policy = make_scattered_policy(name, info_reg=True)
    batch = make_batch(20_000)
    torch.manual_seed(1)
    losses = []
    (latent,) = capture_latents(
        policy.actor.embedding, lambda: losses.append(policy.info_loss(batch))
    )
    assert set(latent.unique().tolist()) == {0, 1}
    assert (latent.sum(-1) == 1).all()
    component = latent.argmax(-1).numpy()
    frequencies = np.bincount(component, minlength=COMPONENTS)
    assert stats.chisquare(frequencies).pvalue > SIGNIFICANCE

    state = batch.state.double().numpy()
    action = formulas.latent_action(policy.actor, state, one_hot(component))
    log_posterior = formulas.log_softmax(formulas.mlp(policy.info_posterior, state, action))
    expected = -log_posterior[np.arange(len(state)), component].mean()
    close(losses[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_info_loss_reaches_every_component(name):
    policy = make_scattered_policy(name, info_reg=True)
    policy.actor.embedding.linear.bias.data.fill_(2)  # so that no ReLU hides a component
    policy.info_loss(make_batch()).backward()
    assert (policy.actor.embedding.linear.weight.grad != 0).any(dim=0).all()


@pytest.mark.parametrize("name", MIXTURES)
def test_the_prior_passes_no_gradient(name):
    # Without one, KL(q || p) moves the posterior only.
    gradients = {}
    for kl_weight in (0.0, 1.0):
        policy, batch = make_scattered_policy(name, kl_weight=kl_weight), make_batch()
        torch.manual_seed(1)
        policy.actor_loss(batch).backward()
        gradients[kl_weight] = [
            torch.cat([p.grad.flatten() for p in network.parameters()])
            for network in (policy.actor, policy.posterior)
        ]
    (actor, posterior), (actor_with_kl, posterior_with_kl) = gradients.values()
    torch.testing.assert_close(actor_with_kl, actor)
    assert actor.norm() > 0
    assert posterior.norm() > 0, "the regression does not reach the posterior"
    assert (posterior_with_kl - posterior).norm() > 1e-3 * posterior.norm()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", MIXTURES)
def test_floor_and_quantile_reach_the_weights(name):
    policy, batch = (
        make_scattered_policy(name, weight_floor=0.3, advantage_quantile=0.1),
        make_batch(),
    )
    advantage = expected_advantage(policy, batch.state.numpy(), batch.action.numpy())
    low, high = np.quantile(advantage, [0.1, 0.9])
    weight = np.exp(policy.hp.scale * (advantage.clip(low, high) - high) / (high - low)).clip(0.3)
    close(policy.weight(batch), weight / weight.mean())
    assert (weight == 0.3).any() and (weight == 1).sum() > 10


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("kind", "bounds"), [("rewards", (-50.0, 20.0)), ("data", (-3.0, 2.0))])
def test_dmpo_clips_its_targets_to_possible_or_found_returns(kind, bounds):
    spec = {"reward_range": (-5.0, 2.0), "return_range": (-3.0, 2.0)}
    policy = make_scattered_policy("DMPO", target_clip=kind, target_noise=0.0, **spec)
    for q in (policy.critic_target.q1, policy.critic_target.q2):
        scale_output(q, 200)
    batch = make_batch()
    state, action, next_state, reward, not_done = to_numpy(batch)
    next_action = best_component(policy, policy.actor_target, next_state)[0]
    next_value = formulas.twins(policy.critic_target, next_state, next_action).min(axis=0)
    target = reward + DISCOUNT * not_done * next_value
    assert (target < bounds[0]).any() and (target > bounds[1]).any()
    expected = formulas.td_loss(formulas.twins(policy.critic, state, action), target.clip(*bounds))
    close(policy.critic_loss(batch), expected)


@pytest.mark.parametrize(
    ("rewards", "expected"), [((1.0, 5.0), (1.0, 50.0)), ((-5.0, -1.0), (-50.0, -1.0))]
)
def test_an_episode_that_ends_at_once_is_a_possible_return(rewards, expected):
    policy = make_policy("DMPO", target_clip="rewards", discount=0.9, reward_range=rewards)
    assert policy.value_range == pytest.approx(expected)
    ended = torch.tensor([rewards[0], rewards[1]])
    assert torch.equal(policy.clip(ended), ended)


def test_layer_norm_stands_before_each_relu_of_the_critics():
    policy = make_policy("DMPO", layer_norm=True)
    for q in (policy.critic.q1, policy.critic.q2):
        kinds = [type(layer).__name__ for layer in q.rest]
        assert kinds == ["LayerNorm", "ReLU", "Linear", "LayerNorm", "ReLU", "Linear"]
    assert not any("LayerNorm" in type(part).__name__ for part in policy.actor.modules())
