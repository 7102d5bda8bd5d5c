"""The replay buffer, the weights and the layers that the policies share."""

import numpy as np
import pytest
import torch
from formulas import advantage_weight as expected_weight
from formulas import gaussian
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

import utils
from utils import MLP, ConcatLinear, GaussianActor, ReplayBuffer, TwinCritic, ValueFunction

STATES, ACTIONS = 3, 2
WEIGHT_TYPES = ["", "adapt", "clamp", "raw"]
MEAN_ONE = ["", "adapt", "raw"]

# Draws of a sound generator fail a chi-square test at this level once in a million seeds.
SIGNIFICANCE = 1e-6


def transitions(count, seed=0):
    """States, actions, next states, rewards and terminals, none equal to another."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(5, 2, (count, STATES)),
        rng.uniform(-1, 1, (count, ACTIONS)),
        rng.normal(-3, 4, (count, STATES)),
        rng.normal(size=count),
        (rng.random(count) < 0.3).astype(np.float64),
    )


def numbered(count, seed=0):
    """A buffer in which transition i is made of i alone."""
    i = np.arange(count, dtype=np.float32)
    columns = np.tile(i[:, None], (1, STATES))
    return ReplayBuffer(columns, 0.5 + columns[:, :ACTIONS], -columns, 2 * i, i % 2, seed=seed)


# The replay buffer


def test_sampled_transitions_are_the_ones_put_in():
    states, actions, next_states, rewards, terminals = transitions(200)
    buffer = ReplayBuffer(states, actions, next_states, rewards, terminals)
    batch = buffer.sample(1_000)
    # Rewards are all different, so that they tell which transition a sample is.
    index = np.array([np.abs(rewards - reward.item()).argmin() for reward in batch.reward])
    assert len(buffer) == 200
    for sampled, column in [
        (batch.state, states),
        (batch.action, actions),
        (batch.next_state, next_states),
        (batch.reward, rewards),
        (batch.not_done, 1 - terminals),
    ]:
        assert sampled.dtype == torch.float32
        assert sampled.shape == column[index].shape
        np.testing.assert_allclose(sampled.numpy(), column[index], rtol=1e-6)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_terminals_of_any_kind_become_not_done(kind):
    states, actions, next_states, rewards, _ = transitions(4)
    terminals = np.array([0, 1, 1, 0]).astype(kind)
    buffer = ReplayBuffer(states, actions, next_states, rewards, terminals)
    batch = buffer.sample(100)
    for reward, not_done in zip(batch.reward, batch.not_done, strict=True):
        assert not_done == 1 - float(terminals[np.abs(rewards - reward.item()).argmin()])


def test_states_and_next_states_are_normalised_by_the_states_statistics():
    states, actions, next_states, rewards, terminals = transitions(500)
    states[:, 1] = 7  # a constant dimension must not divide by zero
    buffer = ReplayBuffer(states, actions, next_states, rewards, terminals)
    mean, scale = buffer.normalize_states()
    expected_scale = states.std(0) + 1e-3
    np.testing.assert_allclose(mean, states.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-5)
    assert mean.dtype == scale.dtype == np.float32

    batch = buffer.sample(300)
    index = np.array([np.abs(rewards - reward.item()).argmin() for reward in batch.reward])
    for sampled, column in [(batch.state, states), (batch.next_state, next_states)]:
        expected = (column[index] - states.mean(0)) / expected_scale
        np.testing.assert_allclose(sampled.numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch.action.numpy(), actions[index], rtol=1e-6)
    np.testing.assert_allclose(batch.reward.numpy(), rewards[index], rtol=1e-6)


def test_normalisation_survives_a_large_offset():
    states, *rest = transitions(100_000)
    states[:, 0] += 1e3
    buffer = ReplayBuffer(states, *rest)
    mean, scale = buffer.normalize_states()
    np.testing.assert_allclose(mean, states.mean(0), rtol=1e-5)
    np.testing.assert_allclose(scale, states.std(0) + 1e-3, rtol=1e-3)


def test_sampling_is_uniform():
    count, draws = 50, 50_000
    index = numbered(count).sample(draws).state[:, 0].long().numpy()
    frequencies = np.bincount(index, minlength=count)
    assert len(frequencies) == count
    assert stats.chisquare(frequencies).pvalue > SIGNIFICANCE


def test_sampling_depends_on_its_own_seed_only():
    def draw(seed, torch_seed):
        torch.manual_seed(torch_seed)
        buffer = numbered(1_000, seed)
        return torch.cat([buffer.sample(100).reward for _ in range(3)])

    assert torch.equal(draw(1, 0), draw(1, 99))
    assert not torch.equal(draw(1, 0), draw(2, 0))

    torch.manual_seed(0)
    undisturbed = torch.rand(5)
    torch.manual_seed(0)
    numbered(1_000).sample(100)
    assert torch.equal(torch.rand(5), undisturbed)


def test_successive_batches_differ():
    buffer = numbered(1_000)
    assert not torch.equal(buffer.sample(100).reward, buffer.sample(100).reward)


def test_a_million_transitions_take_less_than_200_mb():
    count, state_dim, action_dim = 1_000_000, 17, 6
    state, action, scalar = (np.zeros(size, np.float32) for size in (state_dim, action_dim, 1))
    rows = [np.tile(column, (count, 1)) for column in (state, action, state)]
    buffer = ReplayBuffer(*rows, *np.tile(scalar, (2, count)))
    assert len(buffer) == count
    assert buffer.rows.nbytes < 200e6
    tensors = [value for value in vars(buffer).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) == buffer.rows.nbytes


# Advantage weights

ADVANTAGES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=20)
SCALES = st.floats(0, 100)


def tensor(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@given(advantages=ADVANTAGES, scale=SCALES)
@settings(deadline=None)
def test_weights_are_the_formulas(weight_type, advantages, scale):
    weight = utils.advantage_weight(tensor(advantages), scale, weight_type)
    expected = expected_weight(np.array(advantages), scale, weight_type)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-9, atol=1e-300)


def test_weights_of_a_batch_worked_out_by_hand():
    advantages, e = [0.0, 1.0, 4.0], np.exp
    for weight_type, raw in [
        ("", [e(-2), e(-1.5), 1]),
        ("adapt", [e(-2), e(-1.5), 1]),
        ("raw", [e(-8), e(-6), 1]),
    ]:
        weight = utils.advantage_weight(tensor(advantages), 2.0, weight_type)
        np.testing.assert_allclose(weight.numpy(), np.array(raw) / np.mean(raw))
    clamped = utils.advantage_weight(tensor(advantages), 2.0, "clamp")
    np.testing.assert_allclose(clamped.numpy(), [1, e(2), 100])


@pytest.mark.parametrize("weight_type", MEAN_ONE)
@given(advantages=ADVANTAGES, scale=st.sampled_from([0.0, 1.0, 10.0, 1e4]))
@settings(deadline=None)
def test_weights_have_mean_one_and_keep_the_order(weight_type, advantages, scale):
    # In float32, as in training.
    advantage = tensor(advantages, torch.float32)
    weight = utils.advantage_weight(advantage, scale, weight_type)
    assert weight.isfinite().all()
    assert (weight >= 0).all()
    assert weight.mean().item() == pytest.approx(1, rel=1e-5)
    assert (weight[advantage.argsort()].diff() >= 0).all()


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@given(advantages=ADVANTAGES, floor=st.floats(0, 1), scale=st.sampled_from([0.0, 1.0, 10.0]))
@settings(deadline=None)
def test_no_weight_is_below_the_floor_and_the_larger_ones_keep_their_ratios(
    weight_type, advantages, floor, scale
):
    without = utils.advantage_weight(tensor(advantages), scale, weight_type)
    weight = utils.advantage_weight(tensor(advantages), scale, weight_type, floor)
    expected = without.clamp(min=floor * without.max()) / without.max()
    torch.testing.assert_close(weight / weight.max(), expected, equal_nan=True)  # of no weight


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@given(advantages=ADVANTAGES, quantile=st.floats(0.01, 0.5), scale=st.sampled_from([1.0, 10.0]))
@settings(deadline=None)
def test_advantages_in_the_tails_count_as_the_quantiles(weight_type, advantages, quantile, scale):
    low, high = np.quantile(advantages, [quantile, 1 - quantile])
    weight = utils.advantage_weight(tensor(advantages), scale, weight_type, quantile=quantile)
    cut = tensor(np.clip(advantages, low, max(low, high)))
    torch.testing.assert_close(weight, utils.advantage_weight(cut, scale, weight_type))


@given(advantages=ADVANTAGES, scale=st.sampled_from([0.0, 1.0, 10.0, 1e4]))
@settings(deadline=None)
def test_clamped_weights_stay_in_range(advantages, scale):
    weight = utils.advantage_weight(tensor(advantages, torch.float32), scale, "clamp")
    assert ((weight >= 0) & (weight <= 100)).all()


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
@given(advantages=ADVANTAGES)
@settings(deadline=None)
def test_scale_zero_is_plain_regression(weight_type, advantages):
    weight = utils.advantage_weight(tensor(advantages, torch.float32), 0.0, weight_type)
    assert (weight == 1).all()


@pytest.mark.parametrize("weight_type", MEAN_ONE)
@given(advantage=st.floats(-(2.0**100), 2.0**100, width=32), count=st.integers(1, 300))
@settings(deadline=None)
def test_equal_advantages_have_weight_one(weight_type, advantage, count):
    weight = utils.advantage_weight(torch.full((count,), advantage), 10.0, weight_type)
    assert (weight == 1).all()


# Layers


@pytest.mark.parametrize("sizes", [(4,), (3, 2), (2, 3, 4)])
def test_concat_linear_is_linear_on_the_concatenation(sizes):
    torch.manual_seed(0)
    layer = ConcatLinear(sizes, 6).double()
    plain = nn.Linear(sum(sizes), 6).double()
    plain.load_state_dict(layer.state_dict())
    inputs = [torch.randn(7, size, dtype=torch.float64) for size in sizes]
    torch.testing.assert_close(layer(*inputs), plain(torch.cat(inputs, -1)))


def test_concat_linear_broadcasts():
    torch.manual_seed(0)
    layer = ConcatLinear([STATES, 4], 6).double()
    plain = nn.Linear(STATES + 4, 6).double()
    plain.load_state_dict(layer.state_dict())
    state = torch.randn(7, STATES, dtype=torch.float64)
    latent = torch.randn(5, 1, 4, dtype=torch.float64)
    output = layer(state, latent)
    assert output.shape == (5, 7, 6)
    for k in range(5):
        concatenated = torch.cat([state, latent[k].expand(7, 4)], -1)
        torch.testing.assert_close(output[k], plain(concatenated))


def test_layers_start_as_pytorchs_default_linear_ones():
    # Uniform within 1 / sqrt(fan in), the fan in being that of the whole concatenation.
    torch.manual_seed(0)
    network = MLP([60, 40], (100, 100), 100)
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 3
    for layer in linears:
        assert layer.weight.shape == (100, 100)
        for parameter in (layer.weight, layer.bias):
            scaled = parameter.detach().flatten().double().numpy() * 10
            assert stats.kstest(scaled, stats.uniform(-1, 2).cdf).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("hidden", [(8,), (8, 7), (8, 7, 6)])
def test_mlp_has_relu_between_its_layers_and_a_linear_end(hidden):
    torch.manual_seed(0)
    network = MLP([STATES, ACTIONS], hidden, 4).double()
    x = torch.randn(20, STATES + ACTIONS, dtype=torch.float64)
    parameters = list(network.parameters())
    assert [tuple(p.shape) for p in parameters[1::2]] == [(size,) for size in (*hidden, 4)]
    expected = x
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        expected = (expected @ weight.T + bias).clamp(min=0)
    expected = expected @ parameters[-2].T + parameters[-1]
    torch.testing.assert_close(network(x[:, :STATES], x[:, STATES:]), expected)


def test_value_function_and_critics_have_no_trailing_dimension():
    torch.manual_seed(0)
    state, action = torch.randn(7, STATES), torch.randn(5, 7, ACTIONS)
    assert ValueFunction(STATES, (8,))(state).shape == (7,)
    critic = TwinCritic(STATES, ACTIONS, (8,))
    first, second = critic(state, action)
    assert first.shape == second.shape == (5, 7)
    torch.testing.assert_close(first, critic.q1(state, action).squeeze(-1))
    torch.testing.assert_close(second, critic.q2(state, action).squeeze(-1))


def test_twin_critics_start_apart():
    torch.manual_seed(0)
    critic = TwinCritic(STATES, ACTIONS, (8, 8))
    for first, second in zip(critic.q1.parameters(), critic.q2.parameters(), strict=True):
        assert not torch.equal(first, second)


@pytest.mark.parametrize("gain", [1.0, 100.0])
def test_gaussian_actor_is_bounded_and_as_the_formula(gain):
    torch.manual_seed(0)
    actor = GaussianActor([STATES], ACTIONS, (8, 7), max_action=0.8).double()
    for parameter in actor.parameters():
        parameter.data *= gain
    state = torch.randn(200, STATES, dtype=torch.float64)
    policy = actor(state)
    mean, std = gaussian(actor, state.numpy())
    np.testing.assert_allclose(policy.mean.detach(), mean, rtol=1e-9)
    np.testing.assert_allclose(policy.stddev.detach(), std, rtol=1e-9)
    assert policy.mean.abs().max() <= 0.8
    # tanh is applied twice, so that the range [-5, 0] is never reached.
    bound = 2.5 * np.tanh(1)
    assert (policy.stddev.log() >= -2.5 - bound - 1e-9).all()
    assert (policy.stddev.log() <= -2.5 + bound + 1e-9).all()


def test_log_prob_is_torchs_of_independent_normals():
    torch.manual_seed(0)
    mean, std, action = torch.randn(3, 7, ACTIONS).unbind()
    policy = torch.distributions.Normal(mean, std.exp())
    expected = torch.distributions.Independent(policy, 1).log_prob(action)
    torch.testing.assert_close(utils.log_prob(policy, action), expected)


# Learning


def test_td_loss_sums_the_twins_mean_squared_errors():
    values, target = torch.randn(2, 9), torch.randn(9)
    expected = nn.MSELoss()(values[0], target) + nn.MSELoss()(values[1], target)
    torch.testing.assert_close(utils.td_loss(values, target), expected)


def test_minimize_moves_only_its_optimisers_parameters():
    torch.manual_seed(0)
    moved, other = nn.Linear(2, 2), nn.Linear(2, 2)
    before = [other.weight.clone(), moved.weight.clone()]
    optimizer = utils.adam([moved], 0.1)
    for _ in range(2):
        utils.minimize(other(moved(torch.ones(1, 2))).sum(), optimizer)
    assert torch.equal(other.weight, before[0])
    assert other.weight.grad is None
    # Adam's first steps have the learning rate's size; stale gradients would not change it,
    # but they would change the gradient itself.
    expected = other.weight.sum(0)[:, None].expand(2, 2)
    torch.testing.assert_close(moved.weight.grad, expected.detach())
    np.testing.assert_allclose((moved.weight - before[1]).abs().detach(), 0.2, rtol=1e-4)


def test_polyak_update_moves_by_tau():
    torch.manual_seed(0)
    network, target = MLP([2], (5,), 3), MLP([2], (5,), 3)
    old = [parameter.clone() for parameter in target.parameters()]
    kept = [parameter.clone() for parameter in network.parameters()]
    utils.polyak_update(network, target, 0.25)
    for new, before, online, same in zip(
        target.parameters(), old, network.parameters(), kept, strict=True
    ):
        torch.testing.assert_close(new, 0.75 * before + 0.25 * online)
        assert torch.equal(online, same)


def test_a_target_is_a_copy_that_no_gradient_reaches():
    torch.manual_seed(0)
    network = MLP([2], (5,), 3)
    target = utils.make_target(network)
    for copied, parameter in zip(target.parameters(), network.parameters(), strict=True):
        assert torch.equal(copied, parameter)
        assert copied.data_ptr() != parameter.data_ptr()
        assert not copied.requires_grad
        assert parameter.requires_grad


def test_sampled_actions_carry_no_gradient():
    policy = GaussianActor([3], 2, (8,), 1.0)(torch.zeros(4, 3))
    assert policy.mean.requires_grad and not utils.sample(policy, (5,)).requires_grad
