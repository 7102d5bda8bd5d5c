"""Sizes, initial weights, optimisers and default hyperparameters of every policy."""

import math

import formulas
import numpy as np
import pytest
import torch
from helpers import ACTIONS, LATENTS, MAX_ACTION, MIXTURES, MODULES, STATES, TARGETS

from utils import RunSpec


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
        "actor": dense(STATES, 256, 256, ACTIONS),  # the mean; one log std is for all states
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
    spec = RunSpec(STATES, ACTIONS, MAX_ACTION)
    return getattr(MODULES[name], name)(spec, hyperparameters)


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


COMMON = {"discount": 0.99, "tau": 0.005, "scale": 10.0, "weight_type": ""}
SHARED = COMMON | {"policy_freq": 2, "hidden": (256, 256), "learning_rate": 3e-4}
NOT_THE_PAPERS = {"weight_floor": 0.0, "advantage_quantile": 0.0, "layer_norm": False}
MIXTURE = {"latent_disc_dim": 8, "temperature": 0.67, "kl_weight": 1.0}
MIXTURE |= {"info_reg": False, "ilr": 5e-7, **NOT_THE_PAPERS}
DEFAULTS = {
    "DMPO": SHARED | MIXTURE | {"target_noise": 0.2, "target_noise_clip": 0.5, "target_clip": ""},
    "DMPO_ant": SHARED
    | MIXTURE
    | {"hidden": (256, 256, 256), "learning_rate": 2e-4, "scale": 5.0, "doubleq_min": 0.7},
    "AWAC": SHARED | {"score_type": "adv", "value_samples": 5},
    "IQL": SHARED | {"expectile": 0.9, "log_std": "global"},
    "mixAWAC": SHARED | {"latent_disc_dim": 8},
    "LP_AWAC": COMMON
    | {"hidden": (256, 256), "learning_rate": 3e-4, "max_latent_action": 2.0, "no_noise": False}
    | {"latent_noise": 0.1, "latent_noise_clip": 0.2},
}


@pytest.mark.parametrize("name", MODULES)
def test_default_hyperparameters_are_the_papers(name):
    assert vars(MODULES[name].Hyperparameters()) == DEFAULTS[name]
