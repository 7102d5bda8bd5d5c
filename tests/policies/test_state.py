"""Saving and loading: everything that training needs, whatever the policy keeps it in."""

import copy
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ACTIONS, STATES, VARIANTS, make_buffer, make_policy, train

from utils import MLP, Policy, RunSpec, adam, minimize

GUIDE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


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
def test_a_loaded_policy_trains_on_as_if_it_had_not_stopped(name, options):
    # An odd number of steps leaves a policy update half due.
    if name == "IQL":
        options = options | {"train_steps": 12}
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


class Ensemble(Policy):
    """Two actors in a list, and their optimisers in a dict."""

    def __init__(self, spec, hyperparameters, device="cpu"):
        super().__init__(spec, hyperparameters, device)
        sizes = [spec.state_dim], (8,), spec.action_dim
        self.actors = [MLP(*sizes), MLP(*sizes)]
        self.optimizers = {str(i): adam([actor], 1e-2) for i, actor in enumerate(self.actors)}

    def update(self, batch):
        losses = {}
        for i, actor in enumerate(self.actors):
            losses[f"actor{i}"] = (actor(batch.state) - batch.action).square().mean()
            minimize(losses[f"actor{i}"], self.optimizers[str(i)])
        return losses

    def act(self, state):
        return torch.stack([actor(state) for actor in self.actors]).mean(0)


def test_networks_in_a_list_and_optimisers_in_a_dict_are_saved():
    spec, buffer = RunSpec(STATES, ACTIONS), make_buffer()
    policy, loaded = Ensemble(spec, None), Ensemble(spec, None)
    train(policy, 5, buffer)
    assert {"actors.0", "actors.1", "optimizers.0", "optimizers.1"} < policy.state_dict().keys()
    loaded.load_state_dict(copy.deepcopy(policy.state_dict()))
    assert same(loaded.state_dict(), policy.state_dict())
    generator = buffer.generator.get_state()
    train(policy, 3, buffer)
    buffer.generator.set_state(generator)
    train(loaded, 3, buffer)
    assert same(loaded.state_dict(), policy.state_dict())


def test_an_optimiser_of_a_network_that_is_not_saved_is_refused():
    policy = Ensemble(RunSpec(STATES, ACTIONS), None)
    hidden = MLP([STATES], (8,), ACTIONS)
    policy.optimizers["0"] = adam([hidden], 1e-2)
    with pytest.raises(
        ValueError, match=r"Ensemble\.optimizers\.0 trains a parameter of no network"
    ):
        policy.state_dict()


def test_the_policy_of_the_guide_trains():
    """Users copy it, so it is run as it stands there."""
    (block,) = re.findall(r"```python\n((?:(?!```).)*class MyPolicy.*?)```", GUIDE, re.DOTALL)
    module = {"__name__": "MyPolicy"}
    exec(compile(block, "CONTRIBUTING.md", "exec"), module)
    hyperparameters = module["Hyperparameters"](hidden=(32, 32), learning_rate=1e-2)
    policy = module["MyPolicy"](RunSpec(STATES, ACTIONS), hyperparameters)
    buffer = make_buffer()
    losses = [float(next(iter(policy.train(buffer, 64).values()))) for _ in range(200)]
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:20])
    assert policy.select_action(np.zeros((3, STATES))).shape == (3, ACTIONS)
    assert not hasattr(policy.hp, "scale") and policy.total_it == 200
