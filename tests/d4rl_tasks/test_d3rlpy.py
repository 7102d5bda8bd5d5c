"""d3rlpy, a second implementation of offline RL, reads a generated file and has our losses."""

import math

import h5py
import numpy as np
import pytest
import torch

import AWAC
import d4rl_tasks
import IQL
from d4rl_tasks.synthetic.generate import generate
from utils import Batch, RunSpec

d3rlpy = pytest.importorskip("d3rlpy", exc_type=ImportError)


@pytest.fixture(scope="module", params=["hopper-medium-v2", "antmaze-umaze-v0"])
def generated(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("flat") / "flat.hdf5"
    generate(request.param, path, 1_500)
    return request.param, path


@pytest.fixture(scope="module")
def buffer(generated):
    """d3rlpy's dataset, from the arrays that its own `get_d4rl` takes from a flat file."""
    keys = ("observations", "actions", "rewards", "terminals", "timeouts")
    with h5py.File(generated[1]) as file:
        return d3rlpy.dataset.MDPDataset(**{key: file[key][()] for key in keys})


def all_transitions(buffer):
    return [
        buffer.transition_picker(episode, index)
        for episode in buffer.episodes
        for index in range(episode.transition_count)
    ]


def test_d3rlpy_makes_the_same_transitions(generated, buffer):
    ours = d4rl_tasks.load_dataset(*generated)
    theirs = all_transitions(buffer)
    terminals = np.array([one.terminal for one in theirs])
    # d3rlpy keeps the last row of a file if it is a terminal, D4RL's loader never does.
    theirs, terminals = theirs[: len(ours.rewards)], terminals[: len(ours.rewards)]
    np.testing.assert_array_equal(terminals, ours.terminals)
    for key, attribute in {"observations": "observation", "actions": "action"}.items():
        values = [getattr(one, attribute) for one in theirs]
        np.testing.assert_array_equal(values, getattr(ours, key), err_msg=key)
    np.testing.assert_array_equal([one.reward[0] for one in theirs], ours.rewards)
    # Behind a terminal d3rlpy puts zeros, D4RL's loader the next row; no method looks there.
    for one, expected, terminal in zip(theirs, ours.next_observations, terminals, strict=True):
        if not terminal:
            np.testing.assert_array_equal(one.next_observation, expected)


def test_d3rlpy_trains_on_it(buffer):
    algorithm = d3rlpy.algos.IQLConfig(batch_size=16).create(device="cpu")
    log = d3rlpy.logging.NoopAdapterFactory()
    ((_, metrics),) = algorithm.fit(
        buffer, n_steps=5, n_steps_per_epoch=5, show_progress=False, logger_adapter=log
    )
    assert np.isfinite(metrics["critic_loss"]) and np.isfinite(metrics["actor_loss"])


STATE_DIM, ACTION_DIM, BATCH_SIZE = 11, 3, 64
LOG_STD = -2.5


@pytest.fixture
def batches():
    """One batch, with terminals, for us and for d3rlpy."""
    torch.manual_seed(0)
    state, next_state = torch.randn(2, BATCH_SIZE, STATE_DIM)
    action = 2 * torch.rand(BATCH_SIZE, ACTION_DIM) - 1
    reward = torch.randn(BATCH_SIZE)
    terminal = (torch.arange(BATCH_SIZE) % 4 == 0).float()
    theirs = d3rlpy.torch_utility.TorchMiniBatch(
        observations=state,
        actions=action,
        rewards=reward[:, None],
        next_observations=next_state,
        next_actions=action,
        returns_to_go=reward[:, None],
        terminals=terminal[:, None],
        intervals=torch.ones(BATCH_SIZE, 1),
        device="cpu",
    )
    return Batch(state, action, next_state, reward, 1 - terminal), theirs


@torch.no_grad()
def give(source, target):
    """Copy the parameters of one network into those of another, in their order."""
    for ours, theirs in zip(source, target, strict=True):
        assert ours.shape == theirs.shape
        theirs.copy_(ours)


@torch.no_grad()
def give_actor_and_critics(ours, theirs, log_std_range):
    """All parameters; a log std of each state becomes LOG_STD, as d3rlpy's is one for all."""
    for parameter in ours.critic_target.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))  # else it is the critic
    for name, twins in {"q_funcs": ours.critic, "targ_q_funcs": ours.critic_target}.items():
        for twin, network in zip((twins.q1, twins.q2), getattr(theirs, name), strict=True):
            give(twin.parameters(), network.parameters())
    *hidden, weight, bias = ours.actor.network.parameters()
    log_std, *others = theirs.policy.parameters()
    if ours.actor.kind == "global":
        own = ours.actor.log_std.normal_()
        give([own[None], *hidden, weight, bias], [log_std, *others])
        return
    give([*hidden, weight.chunk(2)[0], bias.chunk(2)[0]], others)
    for parameter in (weight, bias):
        parameter.chunk(2)[1].zero_()
    low, high = log_std_range
    log_std.fill_(math.log((LOG_STD - low) / (high - LOG_STD)))


@pytest.mark.parametrize("kind", ["global", "state"])
def test_iql_has_the_same_losses(batches, kind):
    batch, their_batch = batches
    hyperparameters = IQL.Hyperparameters(
        scale=3.0, weight_type="clamp", expectile=0.9, log_std=kind
    )
    ours = IQL.IQL(RunSpec(STATE_DIM, ACTION_DIM), hyperparameters)
    config = d3rlpy.algos.IQLConfig(weight_temp=3.0, max_weight=100.0, expectile=0.9)
    algorithm = config.create("cpu")
    algorithm.create_impl((STATE_DIM,), ACTION_DIM)
    theirs = algorithm.impl
    give_actor_and_critics(ours, theirs.modules, (-5, 2))
    give(ours.value.parameters(), theirs.modules.value_func.parameters())

    target_value = ours.target_value(batch)
    critic = theirs.compute_critic_loss(their_batch, theirs.compute_target(their_batch))
    actor = theirs.compute_actor_loss(their_batch, theirs.modules.policy(batch.state))
    torch.testing.assert_close(ours.value_loss(batch, target_value), critic.v_loss)
    torch.testing.assert_close(ours.critic_loss(batch), critic.q_loss)
    torch.testing.assert_close(ours.actor_loss(batch, target_value), actor.actor_loss)


def test_awac_has_the_same_losses(batches):
    batch, their_batch = batches
    hyperparameters = AWAC.Hyperparameters(scale=3.0, weight_type="raw", value_samples=5)
    ours = AWAC.AWAC(RunSpec(STATE_DIM, ACTION_DIM), hyperparameters)
    algorithm = d3rlpy.algos.AWACConfig(lam=1 / 3, n_action_samples=5).create("cpu")
    algorithm.create_impl((STATE_DIM,), ACTION_DIM)
    theirs = algorithm.impl
    give_actor_and_critics(ours, theirs.modules, (-6, 0))
    give(ours.actor.parameters(), ours.actor_target.parameters())

    torch.manual_seed(1)
    actor_loss = ours.actor_loss(batch)
    torch.manual_seed(1)  # the same sampled actions
    actor = theirs.compute_actor_loss(their_batch, theirs.modules.policy(batch.state))
    # d3rlpy sums over the batch, which to Adam is the same.
    torch.testing.assert_close(BATCH_SIZE * actor_loss, actor.actor_loss)

    # d3rlpy's targets hold an entropy, as SAC's do, and sample tanh(Normal), not Normal(tanh).
    torch.nn.init.constant_(next(theirs.modules.log_temp.parameters()), -math.inf)
    torch.manual_seed(1)
    critic_loss = ours.critic_loss(batch)
    torch.manual_seed(1)
    critic = theirs.compute_critic_loss(their_batch, theirs.compute_target(their_batch))
    torch.testing.assert_close(critic_loss, critic.critic_loss, rtol=1e-3, atol=0)
