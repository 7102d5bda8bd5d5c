"""Diagnostics: worked out by hand, without a trace in training, and loud when a critic diverges."""

import dataclasses
import math

import formulas
import h5py
import numpy as np
import pytest
import torch
from helpers import TWIN_VALUE
from runs import exit_code_and_errors, make_training, one_file, rows_of, run_command

from d4rl_tasks import load_dataset
from experiment.diagnostics import Diagnostics, effective_share, return_range
from experiment.models import load_policy
from main_training import main

MODEL = "models/*_????????.safetensors"

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


class Rows:
    """Transitions of two episodes: states 0 1 2 | 7 8, the first of them ended by a terminal."""

    observations = np.array([[0.0], [1], [2], [7], [8]])
    next_observations = np.array([[1.0], [2], [3], [8], [9]])
    terminals = np.array([0.0, 0, 1, 0, 0])


def test_the_returns_of_a_dataset_stop_at_the_ends_of_its_episodes():
    rewards = np.array([1.0, 2, 4, -8, 16])
    returns = [1 + 0.5 * (2 + 0.5 * 4), 2 + 0.5 * 4, 4, -8 + 0.5 * 16, 16]
    assert return_range(Rows, rewards, 0.5) == (min(returns), max(returns))
    assert return_range(Rows, rewards, 0.0) == (-8, 16)


class Shuffled:
    observations = Rows.observations[[3, 0, 4, 1, 2]]
    next_observations = Rows.next_observations[[3, 0, 4, 1, 2]]
    terminals = Rows.terminals[[3, 0, 4, 1, 2]]


def test_shuffled_transitions_do_not_show_their_returns():
    assert return_range(Shuffled, np.ones(5), 0.5) == (-math.inf, math.inf)


def test_shuffled_data_bound_no_target_and_no_figure(shuffled):
    code, errors = exit_code_and_errors(
        run_command(shuffled, "--target_clip", "data", policy="DMPO")
    )
    assert code == 2
    assert errors[-1].endswith("are shuffled: give --target_clip rewards")
    assert main(run_command(shuffled, policy="DMPO")) == 0
    assert all("data_return_max" not in row and row["value_bound"] for row in rows_of())
    policy, _ = load_policy(one_file(MODEL))
    assert policy.spec.return_range == (-math.inf, math.inf)


@pytest.fixture
def shuffled(hopper, tmp_path):
    path = tmp_path / "shuffled.hdf5"
    with h5py.File(hopper) as source, h5py.File(path, "w") as target:
        order = np.random.default_rng(0).permutation(len(source["rewards"]) - 1)
        for name in ("observations", "actions", "rewards", "terminals"):
            target[name] = source[name][:][order]
        target["next_observations"] = source["observations"][:][order + 1]
        target["timeouts"] = np.zeros(len(order), bool)
    return path


@pytest.mark.parametrize("policy", ["DMPO", "DMPO_ant", "IQL"])
def test_a_measurement_is_what_its_columns_say_and_changes_no_random_number(hopper, policy):
    pessimistic = TWIN_VALUE.get(policy, formulas.minimum)
    training = make_training(run_command(hopper, policy=policy))
    policy, batch = training.policy, training.diagnostics.batch
    before = torch.get_rng_state()
    measured = training.diagnostics.measure()
    assert torch.equal(torch.get_rng_state(), before)
    assert measured == training.diagnostics.measure()
    action = policy.to_tensor(policy.select_action(policy.to_array(batch.state)))
    with torch.no_grad():
        value, q_data = (
            pessimistic(np.stack([policy.to_array(q) for q in policy.critic(batch.state, one)]))
            for one in (action, batch.action)
        )
    data = load_dataset("hopper-medium-v2", hopper)
    expected = {
        "q_data": q_data.mean(),
        "value_policy": value.mean(),
        "value_max": np.maximum(value, q_data).max(),
        "action_distance": (action - batch.action).square().mean(-1).sqrt().mean(),
        "effective_sample_size": np.mean([share_of(policy, training.buffer, i) for i in range(16)]),
        "data_return_max": return_range(data, data.rewards, 0.99)[1],
        "value_bound": training.buffer.rows[:, -2].max() / (1 - 0.99),
    }
    for name, number in expected.items():
        assert measured[name] == pytest.approx(float(number), rel=1e-4), name
    assert measured["effective_sample_size"] < 0.99


def share_of(policy, buffer, seed):
    """The effective sample size of one of the batches, of the size that `run_command` gives."""
    batch = buffer.fixed_sample(16, seed)
    with torch.no_grad():
        weight = policy.to_array(policy.weight(batch).double())
    assert len(weight) == 16
    return weight.sum() ** 2 / (weight**2).sum() / len(weight)


def test_the_sample_is_1000_transitions_of_the_whole_dataset_whatever_the_seed(hopper):
    sample, other = (
        make_training(run_command(hopper, "--seed", seed)).diagnostics.batch for seed in "12"
    )
    assert all(map(torch.equal, sample, other))
    assert len(sample.state) == 1000
    assert len(torch.cat([sample.state, sample.action], 1).unique(dim=0)) > 600


def test_equal_weights_are_a_full_sample(hopper):
    training = make_training(run_command(hopper, "--scale", "0", policy="AWAC"))
    assert training.diagnostics.measure()["effective_sample_size"] == pytest.approx(1)


@pytest.mark.parametrize("size", [1.0, 1e-20, 1e-38, 1e38])
def test_the_effective_share_is_right_where_squares_leave_float32(size):
    weight = size * torch.tensor([1.0, 1, 0, 0])
    assert float(effective_share(weight)) == pytest.approx(0.5)


def test_no_weight_at_all_is_an_effective_share_of_0():
    assert float(effective_share(torch.zeros(4))) == 0


def test_a_run_resumes_whatever_its_diagnostics_were(hopper, monkeypatch):
    measure = Diagnostics.measure
    diverged = {"q_data": float("inf"), "value_policy": float("nan")}
    monkeypatch.setattr(Diagnostics, "measure", lambda self: measure(self) | diverged)
    assert main(run_command(hopper, policy="DMPO")) == 0
    assert main(run_command(hopper, policy="DMPO", steps=30)) == 0
    assert [row["q_data"] for row in rows_of()] == ["inf"] * 3


def test_a_critic_beyond_all_returns_is_named_once(hopper, capsys):
    training = make_training(run_command(hopper, policy="DMPO"))
    with torch.no_grad():
        for q in (training.policy.critic.q1, training.policy.critic.q2):
            q.rest[-1].bias.fill_(1e6)
    training.train()
    printed = capsys.readouterr().out
    assert printed.count("warning: the critic values an action at 1000") == 1
    assert all(float(row["value_max"]) > float(row["value_bound"]) for row in rows_of())


def test_a_healthy_run_is_not_warned_of(hopper, capsys):
    assert main(run_command(hopper, policy="DMPO")) == 0
    assert one_file("results/DMPO/*.csv")
    assert "the critic values" not in capsys.readouterr().out


@pytest.mark.parametrize("policy", ["DMPO", "DMPO_ant"])
def test_a_terminal_is_a_possible_return_where_all_rewards_are_negative(hopper, policy):
    training = make_training(run_command(hopper, policy=policy))
    spec = dataclasses.replace(training.policy.spec, reward_range=(-2.0, -1.0))
    training.policy.spec = spec
    measured = training.diagnostics.measure()
    assert measured["value_bound"] == -1
    assert training.diagnostics.warning(measured | {"value_max": -0.5}) is None


def test_a_young_critic_on_rewards_below_zero_is_not_warned_of(hopper):
    """On antmaze rewards are -1 and 0, so the bound is 0, which any new critic exceeds."""
    training = make_training(run_command(hopper, policy="AWAC"))
    spec = dataclasses.replace(training.policy.spec, reward_range=(-1.0, 0.0))
    training.policy.spec = spec
    measured = training.diagnostics.measure()
    assert measured["value_bound"] == 0
    assert training.diagnostics.warning(measured | {"value_max": 0.5}) is None
    assert "allow at most 0" in training.diagnostics.warning(measured | {"value_max": 11.0})
