"""Policies that a researcher adds to the six run, or are refused in one line at the start."""

import sys
from dataclasses import dataclass, make_dataclass
from types import ModuleType

import pytest
import torch
from runs import exit_code_and_errors, make_training, rows_of, run_command
from torch import nn

from experiment import models, options
from main_training import main
from utils import MLP, Policy, TwinCritic, adam, minimize

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@dataclass
class Hyperparameters:
    hidden: tuple[int, ...] = (8, 8)
    gamma: float = 0.9


class Own(Policy):
    """Behavioural cloning with a critic of its rewards."""

    def __init__(self, spec, hyperparameters, device="cpu"):
        super().__init__(spec, hyperparameters, device)
        self.actor = MLP([spec.state_dim], self.hp.hidden, spec.action_dim).to(device)
        self.critic = self.make_critic().to(device)
        self.error = nn.MSELoss()  # a module without parameters
        self.optimizer = adam([self.actor, self.critic], 1e-3)

    def make_critic(self):
        return MLP([self.spec.state_dim, self.spec.action_dim], self.hp.hidden, 1)

    def update(self, batch):
        value = self.critic(batch.state, batch.action).squeeze(-1)
        loss = self.error(self.actor(batch.state), batch.action) + self.error(value, batch.reward)
        minimize(loss, self.optimizer)
        return {"actor": loss}

    def act(self, state):
        return self.actor(state)


class WithTwins(Own):
    def make_critic(self):
        return TwinCritic(self.spec.state_dim, self.spec.action_dim, self.hp.hidden)

    def update(self, batch):
        values = torch.stack(self.critic(batch.state, batch.action))
        loss = self.error(self.actor(batch.state), batch.action)
        loss = loss + (values - batch.reward).square().mean()
        minimize(loss, self.optimizer)
        return {"actor": loss}


class WithTemperature(Own):
    """Trains a parameter that is in no network, as SAC's log alpha often is."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.log_alpha = nn.Parameter(torch.zeros(1))
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha])


@pytest.fixture
def add(monkeypatch):
    """Adds a policy as CONTRIBUTING.md says."""

    def add(policy, hyperparameters=Hyperparameters):
        module = ModuleType("Own")
        module.Own, module.Hyperparameters = policy, hyperparameters
        monkeypatch.setitem(sys.modules, "Own", module)
        for place in (options, models):
            monkeypatch.setattr(place, "POLICIES", (*options.POLICIES, "Own"))

    return add


@pytest.mark.parametrize("policy", [Own, WithTwins])
def test_it_is_trained_evaluated_saved_resumed_and_loaded(hopper, add, policy):
    add(policy)
    assert main(run_command(hopper, policy="Own", steps=20)) == 0
    assert main(run_command(hopper, policy="Own", steps=30)) == 0
    rows = rows_of()
    assert [row["step"] for row in rows] == ["10", "20", "30"]
    assert ("q_data" in rows[0]) == (policy is WithTwins)
    assert "value_bound" not in rows[0]  # it names no discount


def test_a_parameter_that_would_not_be_saved_is_named_before_training(hopper, add):
    add(WithTemperature)
    code, errors = exit_code_and_errors(run_command(hopper, policy="Own"))
    assert code == 2
    assert "alpha_optimizer trains a parameter of no network that is saved" in errors[-1]


def test_a_hyperparameter_with_the_name_of_an_option_is_named(hopper, add):
    add(Own, make_dataclass("Hyperparameters", [("seed", int, 1)], bases=(Hyperparameters,)))
    code, errors = exit_code_and_errors(run_command(hopper, policy="Own"))
    assert code == 2
    assert errors == ["error: a policy's hyperparameter seed has the name of an option: rename it"]


@pytest.mark.parametrize("kind", [float | None, list[int], tuple[float | None, ...]])
def test_a_hyperparameter_that_no_option_can_set_is_named(hopper, add, kind):
    add(Own, make_dataclass("Hyperparameters", [("margin", kind, None)], bases=(Hyperparameters,)))
    code, errors = exit_code_and_errors(run_command(hopper, policy="Own"))
    assert code == 2 and len(errors) == 1
    assert errors[0].startswith("error: the hyperparameter margin is annotated as ")


def test_a_whole_number_in_the_source_is_the_same_run_as_on_the_command_line(hopper, add):
    add(Own, make_dataclass("Hyperparameters", [("gamma", float, 1)], bases=(Hyperparameters,)))
    names = {
        make_training(run_command(hopper, *more, policy="Own")).results.run
        for more in ([], ["--gamma", "1"])
    }
    assert len(names) == 1
