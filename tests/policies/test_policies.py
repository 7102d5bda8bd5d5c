"""Each policy against the formulas of the paper, and what a run needs of every policy."""

import copy
import io
import math

import formulas
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

import AWAC
import DMPO
import DMPO_ant
import IQL
import LP_AWAC
import mixAWAC
from utils import Batch, ReplayBuffer

MODULES = {module.__name__: module for module in (DMPO, DMPO_ant, AWAC, IQL, mixAWAC, LP_AWAC)}
MIXTURES = ["DMPO", "DMPO_ant"]
# With the mutual information, DMPO and DMPO_ant have one more network and optimiser.
VARIANTS = [
    pytest.param(name, {"info_reg": True} if info else {}, id=f"{name}-info" if info else name)
    for name in MODULES
    for info in ([False, True] if name in MIXTURES else [False])
]

STATES, ACTIONS, COMPONENTS, LATENTS = 4, 2, 5, 4
MAX_ACTION = 0.8
DISCOUNT, TEMPERATURE = 0.99, 0.67

# Draws of the right distribution fail a chi-square test at this level once in a million seeds.
SIGNIFICANCE = 1e-6


def make_policy(name, max_action=MAX_ACTION, seed=0, **options):
    """A small policy as it is before training."""
    torch.manual_seed(seed)
    defaults = {"hidden": (16, 14, 12) if name == "DMPO_ant" else (16, 14)}
    if name in (*MIXTURES, "mixAWAC"):
        defaults["latent_disc_dim"] = COMPONENTS
    hyperparameters = MODULES[name].Hyperparameters(**(defaults | options))
    return getattr(MODULES[name], name)(STATES, ACTIONS, max_action, hyperparameters)


def make_scattered_policy(name, **options):
    """A small policy whose networks, twins and targets have nothing in common."""
    policy = make_policy(name, **options)
    for network in policy.networks().values():
        for parameter in network.parameters():
            size = 2 / math.sqrt(parameter.shape[1]) if parameter.ndim == 2 else 0.3
            parameter.data = size * torch.randn_like(parameter)
    # Values around 0: either twin is the lower one somewhere, and V's targets have both signs.
    batch = make_batch()
    for critic in (policy.critic, policy.critic_target):
        for q in (critic.q1, critic.q2):
            list(q.parameters())[-1].data -= q(batch.state, batch.action).detach().median()
    return policy


def arrays(count=256, seed=0):
    """States, actions, next states, rewards and terminals."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(count, STATES)),
        rng.uniform(-1, 1, (count, ACTIONS)),
        rng.normal(size=(count, STATES)),
        rng.normal(size=count),
        (rng.random(count) < 0.3).astype(np.float64),
    )


def make_buffer(seed=0, **replaced):
    names = ("states", "actions", "next_states", "rewards", "terminals")
    return ReplayBuffer(**(dict(zip(names, arrays(), strict=True)) | replaced), seed=seed)


def make_batch(count=256):
    *columns, terminal = (torch.tensor(a, dtype=torch.get_default_dtype()) for a in arrays(count))
    return Batch(*columns, 1 - terminal)


def to_numpy(batch):
    return Batch(*(column.double().numpy() for column in batch))


def one_hot(component, latents=COMPONENTS):
    return np.eye(latents)[component]


def parameters_of(policy):
    """Copies of all parameters: network -> parameter -> tensor."""
    return {
        network: {key: p.detach().clone() for key, p in module.named_parameters()}
        for network, module in policy.networks().items()
    }


def changed(before, after):
    """The networks of which a parameter changed."""
    return {
        network
        for network in before
        if any(
            not torch.equal(before[network][key], after[network][key]) for key in before[network]
        )
    }


def scale_output(network, factor):
    for parameter in list(network.parameters())[-2:]:
        parameter.data *= factor


@pytest.fixture
def float64():
    """Networks, batches and noise in double precision, to agree with NumPy to the last digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(tensor, expected, rtol=1e-9):
    np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=rtol, atol=1e-12)


# The noise of a policy, drawn again from the same seed.


def gumbel(*shape):
    return -torch.empty(*shape).exponential_().log().numpy()


def normal(*shape):
    return torch.randn(*shape).numpy()


# DMPO and DMPO_ant

TWIN_VALUE = {"DMPO": formulas.minimum, "DMPO_ant": formulas.soft_minimum}


def component_values(policy, actor, state):
    """Actions (K, B, A) and values (K, B) of all components, one at a time."""
    pessimistic = TWIN_VALUE[type(policy).__name__]
    actions, values = [], []
    for k in range(COMPONENTS):
        action = formulas.latent_action(actor, state, np.tile(one_hot(k), (len(state), 1)))
        actions.append(action)
        values.append(pessimistic(formulas.twins(policy.critic, state, action)))
    return np.array(actions), np.array(values)


def best_component(policy, actor, state):
    actions, values = component_values(policy, actor, state)
    best = values.argmax(axis=0)
    return actions[best, np.arange(len(state))], values.max(axis=0), best


def expected_advantage(policy, state, action):
    own = formulas.twins(policy.critic, state, action)
    if type(policy).__name__ == "DMPO_ant":
        return formulas.soft_minimum(own) - formulas.value(policy.value, state)
    return own.min(axis=0) - best_component(policy, policy.actor_target, state)[1]


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
        options.get("scale", 10.0),
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
    close(policy.advantage(batch.state, batch.action), expected)


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


def capture_latents(embedding, run):
    """The 2-d latents that enter an actor while `run()`."""
    seen = []
    hook = embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    run()
    hook.remove()
    return [latent for latent in seen if latent.ndim == 2]


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
    state = make_batch(20_000).state
    torch.manual_seed(1)
    losses = []
    (latent,) = capture_latents(
        policy.actor.embedding, lambda: losses.append(policy.info_loss(state))
    )
    assert set(latent.unique().tolist()) == {0, 1}
    assert (latent.sum(-1) == 1).all()
    component = latent.argmax(-1).numpy()
    frequencies = np.bincount(component, minlength=COMPONENTS)
    assert stats.chisquare(frequencies).pvalue > SIGNIFICANCE

    state = state.double().numpy()
    action = formulas.latent_action(policy.actor, state, one_hot(component))
    log_posterior = formulas.log_softmax(formulas.mlp(policy.info_posterior, state, action))
    expected = -log_posterior[np.arange(len(state)), component].mean()
    close(losses[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_info_loss_reaches_every_component(name):
    policy = make_scattered_policy(name, info_reg=True)
    policy.actor.embedding.linear.bias.data.fill_(2)  # so that no ReLU hides a component
    policy.info_loss(make_batch().state).backward()
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
@pytest.mark.parametrize("value_range", [(0.0, 100.0), (-50.0, 20.0)])
def test_dmpo_ant_value_loss(value_range):
    policy = make_scattered_policy("DMPO_ant", value_range=value_range)
    for q in (policy.critic_target.q1, policy.critic_target.q2):
        scale_output(q, 200)
    state = make_batch().state
    action, _, _ = best_component(policy, policy.actor_target, state.numpy())
    target = formulas.soft_minimum(formulas.twins(policy.critic_target, state.numpy(), action))
    low, high = value_range
    is_inside = (target > low) & (target < high)
    assert (target < low).any() and (target > high).any() and is_inside.any()
    expected = formulas.value(policy.value, state.numpy()) - target.clip(*value_range)
    close(policy.value_loss(state), (expected**2).mean())


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


# AWAC


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
    advantage = policy.advantage(batch.state, batch.action)

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
    close(policy.advantage(batch.state, batch.action), expected)


# AWAC, IQL and mixAWAC: weighted log-likelihood


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
        return policy.target_value(batch.state, batch.action) - policy.value(batch.state)
    return policy.advantage(batch.state, batch.action)


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


# IQL


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_iql_value_loss(expectile):
    policy, batch = make_scattered_policy("IQL", expectile=expectile), make_batch()
    state, action = to_numpy(batch)[:2]
    target = formulas.twins(policy.critic_target, state, action).min(axis=0)
    error = target - formulas.value(policy.value, state)
    weight = np.abs(expectile - (error < 0))
    # PyTorch rounds the two weights to float32.
    close(loss_of(policy, "value_loss", batch), (weight * error**2).mean(), rtol=1e-6)


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
    close(policy.target_value(batch.state, batch.action), value)


def train(policy, steps, buffer=None):
    buffer = buffer or make_buffer()
    for _ in range(steps):
        policy.train(buffer, 8)


def actor_learning_rate(policy):
    (group,) = policy.actor_optimizer.param_groups
    return group["lr"]


@pytest.mark.parametrize("max_timesteps", [1, 7, 40])
@pytest.mark.parametrize("policy_freq", [1, 2, 3])
def test_iql_learning_rate_falls_by_a_cosine_to_zero_at_the_end_of_the_run(
    max_timesteps, policy_freq
):
    policy = make_policy("IQL", max_timesteps=max_timesteps, policy_freq=policy_freq)
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


def test_iql_learning_rate_reaches_zero_at_the_end_of_a_run_that_goes_on_longer():
    # --load_model with a larger --max_timesteps.
    policy = make_policy("IQL", max_timesteps=20)
    train(policy, 20)
    longer = make_policy("IQL", max_timesteps=40)
    longer.load_state_dict(policy.state_dict())
    train(longer, 20)
    assert actor_learning_rate(longer) == pytest.approx(0, abs=1e-9)


# mixAWAC


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
    advantage = policy.advantage(batch.state, batch.action)

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


# LP_AWAC


def decoded(policy, actor, state, noise=0.0):
    latent = policy.hp.max_latent_action * np.tanh(formulas.mlp(actor, state)) + noise
    return formulas.mlp(policy.cvae_target.decoder, state, latent)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("no_noise", [False, True])
def test_lp_awac_value_loss(no_noise):
    policy, state = make_scattered_policy("LP_AWAC", no_noise=no_noise), make_batch().state
    torch.manual_seed(1)
    loss = policy.value_loss(state)

    torch.manual_seed(1)
    noise = 0.0 if no_noise else (0.1 * normal(256, LATENTS)).clip(-0.2, 0.2)
    state = state.numpy()
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
    policy, state = make_scattered_policy("LP_AWAC"), make_batch().state
    action = decoded(policy, policy.actor, state.numpy())
    value = formulas.twins(policy.critic, state.numpy(), action)[0]
    close(policy.actor_loss(state), -value.mean())


# Sizes, optimisers and defaults


def shapes(network):
    return [weight.shape for weight, _ in formulas.layers(network)]


def dense(first, *sizes):
    """Shapes of the weights of fully connected layers."""
    return [(following, size) for size, following in zip((first, *sizes), sizes, strict=False)]


def gaussian_shapes(inputs):
    """The heads, for mean and log std, are one layer."""
    return dense(inputs, 256, 256, 2 * ACTIONS)


# K = 8 components; the embedding makes the latent as wide as the state.
CRITIC = 2 * dense(STATES + ACTIONS, 256, 256, 1)
DEEP_CRITIC = 2 * dense(STATES + ACTIONS, 256, 256, 256, 1)
NETWORKS = {
    "DMPO": {
        "actor": [(STATES, 8), *dense(2 * STATES, 256, 256, ACTIONS)],
        "critic": CRITIC,
        "posterior": dense(STATES + ACTIONS, 256, 256, 8),
        "info_posterior": dense(STATES + ACTIONS, 256, 256, 8),
    },
    "DMPO_ant": {
        "actor": [(STATES, 8), *dense(2 * STATES, 256, 256, 256, ACTIONS)],
        "critic": DEEP_CRITIC,
        "posterior": dense(STATES + ACTIONS, 256, 256, 256, 8),
        "info_posterior": dense(STATES + ACTIONS, 256, 256, 256, 8),
        "value": dense(STATES, 256, 256, 256, 1),
    },
    "AWAC": {"actor": gaussian_shapes(STATES), "critic": CRITIC},
    "IQL": {
        "actor": gaussian_shapes(STATES),
        "critic": CRITIC,
        "value": dense(STATES, 256, 256, 1),
    },
    "mixAWAC": {
        "actor": [
            *dense(STATES, 256, 256, 8),
            (STATES, 8),
            *gaussian_shapes(2 * STATES),
        ],
        "critic": CRITIC,
    },
    "LP_AWAC": {
        "cvae": [
            *dense(STATES + ACTIONS, 256, 256, 2 * LATENTS),
            *dense(STATES + LATENTS, 256, 256, ACTIONS),
        ],
        "actor": dense(STATES, 256, 256, LATENTS),
        "critic": CRITIC,
        "value": dense(STATES, 256, 256, 1),
    },
}
TARGETS = {
    "DMPO": {"actor", "critic"},
    "DMPO_ant": {"actor", "critic"},
    "AWAC": {"actor", "critic"},
    "IQL": {"critic"},
    "mixAWAC": {"actor", "critic"},
    "LP_AWAC": {"actor", "critic", "cvae"},
}
# Optimiser: its networks and its learning rate.
MUTUAL_INFORMATION = {"info_optimizer": ({"actor", "info_posterior"}, 5e-7)}
ACTOR_CRITIC = {"critic_optimizer": ({"critic"}, 3e-4), "actor_optimizer": ({"actor"}, 3e-4)}
OPTIMIZERS = {
    "DMPO": {
        "critic_optimizer": ({"critic"}, 3e-4),
        "actor_optimizer": ({"actor", "posterior"}, 3e-4),
        **MUTUAL_INFORMATION,
    },
    "DMPO_ant": {
        "critic_optimizer": ({"critic"}, 2e-4),
        "actor_optimizer": ({"actor", "posterior"}, 2e-4),
        "value_optimizer": ({"value"}, 2e-4),
        **MUTUAL_INFORMATION,
    },
    "AWAC": ACTOR_CRITIC,
    "IQL": ACTOR_CRITIC | {"value_optimizer": ({"value"}, 3e-4)},
    "mixAWAC": ACTOR_CRITIC,
    "LP_AWAC": {
        "critic_optimizer": ({"critic", "value"}, 3e-4),
        "cvae_optimizer": ({"cvae"}, 3e-4),
        "actor_optimizer": ({"actor"}, 3e-4),
    },
}


def make_default_policy(name):
    options = {"info_reg": True} if name in MIXTURES else {}
    hyperparameters = MODULES[name].Hyperparameters(**options)
    return getattr(MODULES[name], name)(STATES, ACTIONS, MAX_ACTION, hyperparameters)


@pytest.mark.parametrize("name", MODULES)
def test_networks_have_the_papers_sizes(name):
    policy = make_default_policy(name)
    expected = dict(NETWORKS[name])
    expected |= {f"{network}_target": expected[network] for network in TARGETS[name]}
    assert {key: shapes(network) for key, network in policy.networks().items()} == expected


@pytest.mark.parametrize("name", MODULES)
def test_networks_start_as_pytorchs_default_ones_and_targets_as_copies(name):
    policy = make_default_policy(name)
    for network in policy.networks().values():
        for weight, bias in formulas.layers(network):
            bound = 1 / math.sqrt(weight.shape[1])
            assert max(np.abs(weight).max(), np.abs(bias).max()) <= bound * (1 + 1e-6)
            if weight.size > 100:
                assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.2)
    for network in TARGETS[name]:
        online, target = getattr(policy, network), getattr(policy, f"{network}_target")
        for first, second in zip(online.parameters(), target.parameters(), strict=True):
            assert torch.equal(first, second)
            assert first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("name", MODULES)
def test_optimisers_are_adam_over_their_networks(name):
    policy = make_default_policy(name)
    optimizers = {
        key: part for key, part in vars(policy).items() if isinstance(part, torch.optim.Optimizer)
    }
    assert optimizers.keys() == OPTIMIZERS[name].keys()
    for key, optimizer in optimizers.items():
        networks, learning_rate = OPTIMIZERS[name][key]
        (group,) = optimizer.param_groups
        parameters = [p for network in networks for p in getattr(policy, network).parameters()]
        assert type(optimizer) is torch.optim.Adam
        assert {id(p) for p in group["params"]} == {id(p) for p in parameters}
        assert group["lr"] == learning_rate
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
        assert not group["weight_decay"]
        assert not group["amsgrad"]


@pytest.mark.parametrize("name", MODULES)
def test_default_hyperparameters_are_the_papers(name):
    expected = {
        "discount": 0.99,
        "tau": 0.005,
        "policy_freq": 2,
        "hidden": (256,) * (3 if name == "DMPO_ant" else 2),
        "learning_rate": 2e-4 if name == "DMPO_ant" else 3e-4,
        "scale": 10.0,
        "weight_type": "",
        "latent_disc_dim": 8,
        "temperature": 0.67,
        "target_noise": 0.2,
        "target_noise_clip": 0.5,
        "kl_weight": 1.0,
        "info_reg": False,
        "ilr": 5e-7,
        "doubleq_min": 0.7,
        "value_range": (0.0, 100.0),
        "score_type": "adv",
        "value_samples": 5,
        "expectile": 0.9,
        "max_timesteps": 1_000_000,
        "max_latent_action": 2.0,
        "no_noise": False,
        "latent_noise": 0.1,
        "latent_noise_clip": 0.2,
    }
    hyperparameters = vars(MODULES[name].Hyperparameters())
    assert hyperparameters == {key: expected[key] for key in hyperparameters}


# Gradients

# Policy, what its update minimises, its optimiser, the networks that move, and the networks that
# a gradient would reach if the optimiser did not choose.
UPDATES = [
    ("DMPO", "critic_loss", "critic_optimizer", {"critic"}, {"critic"}),
    ("DMPO", "actor_loss", "actor_optimizer", {"actor", "posterior"}, {"actor", "posterior"}),
    ("DMPO", "info_loss", "info_optimizer", *[{"actor", "info_posterior"}] * 2),
    ("DMPO_ant", "value_loss", "value_optimizer", {"value"}, {"value"}),
    ("DMPO_ant", "critic_loss", "critic_optimizer", {"critic"}, {"critic"}),
    ("DMPO_ant", "actor_loss", "actor_optimizer", {"actor", "posterior"}, {"actor", "posterior"}),
    ("DMPO_ant", "info_loss", "info_optimizer", *[{"actor", "info_posterior"}] * 2),
    ("AWAC", "critic_loss", "critic_optimizer", {"critic"}, {"critic"}),
    ("AWAC", "actor_loss", "actor_optimizer", {"actor"}, {"actor"}),
    ("IQL", "value_loss", "value_optimizer", {"value"}, {"value"}),
    ("IQL", "critic_loss", "critic_optimizer", {"critic"}, {"critic"}),
    ("IQL", "actor_loss", "actor_optimizer", {"actor"}, {"actor"}),
    ("mixAWAC", "critic_loss", "critic_optimizer", {"critic"}, {"critic"}),
    ("mixAWAC", "actor_loss", "actor_optimizer", {"actor"}, {"actor"}),
    ("LP_AWAC", "critic_loss", "critic_optimizer", {"critic"}, {"critic"}),
    ("LP_AWAC", "value_loss", "critic_optimizer", {"value"}, {"value"}),
    ("LP_AWAC", "cvae_loss", "cvae_optimizer", {"cvae"}, {"cvae"}),
    ("LP_AWAC", "actor_loss", "actor_optimizer", {"actor"}, {"actor"}),
]


def loss_of(policy, name, batch):
    """A policy's loss by its method's name."""
    if name in ("value_loss", "actor_loss") and isinstance(policy, IQL.IQL):
        target_value = policy.target_value(batch.state, batch.action)
        return getattr(policy, name)(batch.state if name == "value_loss" else batch, target_value)
    of_states = name in ("info_loss", "value_loss") or (
        name == "actor_loss" and isinstance(policy, LP_AWAC.LP_AWAC)
    )
    return getattr(policy, name)(batch.state if of_states else batch)


@pytest.mark.parametrize(
    ("name", "loss_name", "optimizer", "moved", "reached"),
    UPDATES,
    ids=[f"{name}-{loss}" for name, loss, *_ in UPDATES],
)
def test_an_update_moves_what_it_should_and_nothing_else(
    name, loss_name, optimizer, moved, reached
):
    options = {"info_reg": True} if name in MIXTURES else {}
    policy = make_scattered_policy(name, **options)
    batch = make_batch()

    loss = loss_of(policy, loss_name, batch)
    trainable = [
        (network, parameter)
        for network, module in policy.networks().items()
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    gradients = torch.autograd.grad(loss, [p for _, p in trainable], allow_unused=True)
    touched = {
        network
        for (network, _), gradient in zip(trainable, gradients, strict=True)
        if gradient is not None
    }
    assert touched == reached

    # What another update has left in .grad must stay as it is.
    own = {id(p) for group in getattr(policy, optimizer).param_groups for p in group["params"]}
    others = [parameter for _, parameter in trainable if id(parameter) not in own]
    for parameter in others:
        parameter.grad = torch.full_like(parameter, 7.0)
    before = parameters_of(policy)
    MODULES[name].minimize(loss_of(policy, loss_name, batch), getattr(policy, optimizer))
    after = parameters_of(policy)
    assert changed(before, after) == moved
    for network in moved:
        for key, parameter in before[network].items():
            assert not torch.equal(parameter, after[network][key]), f"{network}.{key} stays"
    for parameter in others:
        assert (parameter.grad == 7).all()


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_targets_never_have_gradients(name, options):
    policy = make_policy(name, **options)
    train(policy, 4)
    for network in TARGETS[name]:
        for parameter in getattr(policy, f"{network}_target").parameters():
            assert parameter.grad is None
            assert not parameter.requires_grad


# Train steps

# Optimiser by optimiser, what a step minimises: always, and on every policy_freq-th step.
CRITIC_UPDATE = [("critic_optimizer", ["critic_loss"])]
ACTOR_UPDATE = [("actor_optimizer", ["actor_loss"])]
VALUE_UPDATE = [("value_optimizer", ["value_loss"])]
SEQUENCES = {
    "DMPO": (CRITIC_UPDATE, ACTOR_UPDATE),
    "DMPO_ant": (VALUE_UPDATE + CRITIC_UPDATE, ACTOR_UPDATE),
    "AWAC": (CRITIC_UPDATE, ACTOR_UPDATE),
    "IQL": (VALUE_UPDATE + CRITIC_UPDATE, ACTOR_UPDATE),
    "mixAWAC": (CRITIC_UPDATE, ACTOR_UPDATE),
    "LP_AWAC": (
        [
            ("critic_optimizer", ["critic_loss", "value_loss"]),
            ("cvae_optimizer", ["cvae_loss"]),
            *ACTOR_UPDATE,
        ],
        [],
    ),
}


def train_step_by_the_sequence(policy, step, batch):
    """A train step spelt out; the losses' formulas are tested above."""
    name = type(policy).__name__
    always, with_policy = SEQUENCES[name]
    info = [("info_optimizer", ["info_loss"])] if hasattr(policy, "info_optimizer") else []
    is_policy_update = name == "LP_AWAC" or step % 2 == 0
    for optimizer, losses in [*always, *(with_policy + info if is_policy_update else [])]:
        optimizer = getattr(policy, optimizer)
        optimizer.zero_grad()
        sum(loss_of(policy, loss, batch) for loss in losses).backward()
        optimizer.step()
    if is_policy_update:
        if name == "IQL":
            policy.actor_schedule.step()
        for network in TARGETS[name]:
            targets = getattr(policy, f"{network}_target").parameters()
            for target, online in zip(targets, getattr(policy, network).parameters(), strict=True):
                target.data = 0.9 * target.data + 0.1 * online.data


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "options"), [variant for variant in VARIANTS if not variant.values[1]]
)
def test_train_is_the_sequence_of_the_updates(name, options):
    check_sequence(name, options, rtol=1e-7)


@pytest.mark.parametrize("name", MIXTURES)
def test_train_is_the_sequence_of_the_updates_with_mutual_information(name):
    check_sequence(name, {"info_reg": True, "ilr": 1e-2}, rtol=1e-5)


def check_sequence(name, options, rtol):
    if name == "IQL":
        options = options | {"max_timesteps": 8}
    policy, expected = (make_scattered_policy(name, tau=0.1, **options) for _ in range(2))
    torch.manual_seed(1)
    buffer = make_buffer()
    losses = [policy.train(buffer, 16) for _ in range(4)]

    torch.manual_seed(1)
    buffer = make_buffer()
    for step in range(1, 5):
        train_step_by_the_sequence(expected, step, buffer.sample(16))
    for network, tensors in parameters_of(expected).items():
        for key, tensor in tensors.items():
            actual = policy.networks()[network].get_parameter(key)
            torch.testing.assert_close(actual.detach(), tensor, rtol=rtol, atol=rtol)

    assert policy.total_it == 4
    assert losses[-1] == policy.losses["critic"]
    assert losses[-1].shape == ()
    assert not losses[-1].requires_grad


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("policy_freq", [1, 2, 3])
def test_policy_and_targets_move_on_policy_updates_only(name, options, policy_freq):
    tau = 0.1
    if name == "LP_AWAC":
        every = 1
        policy = make_policy(name, tau=tau, **options)
    else:
        every = policy_freq
        policy = make_policy(name, tau=tau, policy_freq=policy_freq, **options)
    targets = {f"{network}_target" for network in TARGETS[name]}
    every_step = {"critic", "value"} & policy.networks().keys()
    buffer = make_buffer()
    before = parameters_of(policy)
    for step in range(1, 7):
        policy.train(buffer, 8)
        after = parameters_of(policy)
        moves = policy.networks().keys() if step % every == 0 else every_step
        assert changed(before, after) == set(moves)
        if step % every == 0:
            for target in targets:
                online = after[target.removesuffix("_target")]
                for key, old in before[target].items():
                    expected = (1 - tau) * old + tau * online[key]
                    torch.testing.assert_close(after[target][key], expected)
        before = after


# Saving and loading


def same(first, second):
    """Whether two nested states are identical to the last bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_loaded_policy_goes_on_as_if_it_had_not_stopped(name, options):
    # An odd number of steps leaves a policy update half due.
    if name == "IQL":
        options = options | {"max_timesteps": 12}
    policy, buffer = make_policy(name, **options), make_buffer()
    train(policy, 7, buffer)
    file = io.BytesIO()
    torch.save(policy.state_dict(), file)
    rng, generator = torch.get_rng_state(), buffer.generator.get_state()
    at_save = copy.deepcopy(policy.state_dict())
    train(policy, 5, buffer)

    loaded, other_buffer = make_policy(name, seed=99, **options), make_buffer(seed=99)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert same(loaded.state_dict(), at_save)
    torch.set_rng_state(rng)
    other_buffer.generator.set_state(generator)
    train(loaded, 5, other_buffer)
    assert loaded.total_it == 12
    assert not same(policy.state_dict(), at_save)
    assert same(loaded.state_dict(), policy.state_dict())


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_state_of_another_policy_or_size_is_refused(name, options):
    policy = make_policy(name, **options)
    wider = make_policy(name, **(options | {"hidden": (9,) * len(policy.hp.hidden)}))
    with pytest.raises((KeyError, RuntimeError, ValueError)):
        policy.load_state_dict(wider.state_dict())
    other = make_policy("LP_AWAC" if name != "LP_AWAC" else "AWAC")
    with pytest.raises((KeyError, RuntimeError, ValueError)):
        policy.load_state_dict(other.state_dict())


# Acting


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("count", [1, 9])
def test_select_action_returns_float32_arrays(name, count):
    policy = make_scattered_policy(name)
    states = np.random.default_rng(0).normal(size=(count, STATES))
    actions = policy.select_action(states)
    assert type(actions) is np.ndarray
    assert actions.dtype == np.float32
    assert actions.shape == (count, ACTIONS)
    # One at a time or all together, an action is the same; and it is drawn from nothing.
    alone = np.concatenate([policy.select_action(state[None]) for state in states])
    np.testing.assert_allclose(alone, actions, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["DMPO", "DMPO_ant", "AWAC", "IQL", "mixAWAC"])
def test_actions_stay_within_one(name):
    policy = make_scattered_policy(name, max_action=1.0)
    states = 100 * np.random.default_rng(0).normal(size=(500, STATES))
    actions = policy.select_action(states)
    assert np.abs(actions).max() <= 1
    assert np.abs(actions).max() > 0.99, "never near the bound: this would show nothing"


def expected_action(policy, state):
    name = type(policy).__name__
    if name in MIXTURES:
        return best_component(policy, policy.actor, state)[0]
    if name == "mixAWAC":
        component = formulas.mlp(policy.actor.gate, state).argmax(axis=-1)
        return formulas.mixture_component(policy.actor, state, one_hot(component))[0]
    if name == "LP_AWAC":
        return decoded(policy, policy.actor, state)
    return formulas.gaussian(policy.actor, state)[0]


@pytest.mark.parametrize("name", MODULES)
def test_acting_is_by_the_online_actor(name):
    policy = make_scattered_policy(name)
    states = np.random.default_rng(0).normal(size=(100, STATES)).astype(np.float32)
    expected = expected_action(policy, states.astype(np.float64))
    np.testing.assert_allclose(policy.select_action(states), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_diagnostics_agree_with_one_pair_at_a_time(name):
    policy = make_scattered_policy(name)
    states, actions = (array[:30] for array in arrays()[:2])
    component, advantage = policy.assign_components(states, actions)
    values = policy.values_of_components(states)
    assert component.shape == advantage.shape == (30,)
    assert component.dtype == np.int64
    assert values.shape == (30, COMPONENTS)
    assert len(set(component)) > 1, "one component takes everything: this would show nothing"

    for i, (state, action) in enumerate(zip(states, actions, strict=True)):
        state, action = state[None], action[None]
        assert component[i] == formulas.mlp(policy.posterior, state, action).argmax()
        expected = expected_advantage(policy, state, action).item()
        assert advantage[i] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        for k in range(COMPONENTS):
            forced = formulas.latent_action(policy.actor, state, one_hot(k)[None])
            chosen = policy.select_action_of(states[i : i + 1], k)
            np.testing.assert_allclose(chosen, forced, rtol=1e-4, atol=1e-5)
            value = TWIN_VALUE[name](formulas.twins(policy.critic, state, forced)).item()
            assert values[i, k] == pytest.approx(value, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_acting_with_a_forced_component_takes_many_states(name):
    policy = make_scattered_policy(name)
    states = arrays()[0]
    by_component = np.stack([policy.select_action_of(states, k) for k in range(COMPONENTS)])
    assert by_component.dtype == np.float32
    assert by_component.shape == (COMPONENTS, 256, ACTIONS)
    best = policy.values_of_components(states).argmax(axis=1)
    np.testing.assert_allclose(
        policy.select_action(states), by_component[best, np.arange(256)], rtol=1e-5, atol=1e-6
    )


# Extremes


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("weight_type", ["", "clamp", "raw"])
def test_fifty_steps_on_constant_rewards_with_one_component_stay_finite(name, options, weight_type):
    if name in (*MIXTURES, "mixAWAC"):
        options = options | {"latent_disc_dim": 1}
    policy = make_policy(name, weight_type=weight_type, **options)
    buffer = make_buffer(rewards=np.ones(256))
    for _ in range(50):
        policy.train(buffer, 16)
        assert all(loss.isfinite() for loss in policy.losses.values())
    for network in policy.networks().values():
        assert all(parameter.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("name", MODULES)
def test_identical_transitions_stay_finite(name):
    # All advantages of a batch are equal, or as good as.
    policy = make_policy(name)
    columns = [np.repeat(column[:1], 256, axis=0) for column in arrays()]
    buffer = ReplayBuffer(*columns)
    train(policy, 20, buffer)
    for network in policy.networks().values():
        assert isinstance(network, nn.Module)
        assert all(parameter.isfinite().all() for parameter in network.parameters())
