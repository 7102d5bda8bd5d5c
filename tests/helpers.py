"""Small policies, batches and draws that the tests of policies start from."""

import math

import formulas
import numpy as np
import pytest
import torch

import AWAC
import DMPO
import DMPO_ant
import IQL
import LP_AWAC
import mixAWAC
from utils import Batch, ReplayBuffer, RunSpec

MODULES = {module.__name__: module for module in (DMPO, DMPO_ant, AWAC, IQL, mixAWAC, LP_AWAC)}
MIXTURES = ["DMPO", "DMPO_ant"]
# With the mutual information, DMPO and DMPO_ant have one more network and optimiser.
VARIANTS = [
    pytest.param(name, {"info_reg": True} if info else {}, id=f"{name}-info" if info else name)
    for name in MODULES
    for info in ([False, True] if name in MIXTURES else [False])
]
TARGETS = {
    "DMPO": {"actor", "critic"},
    "DMPO_ant": {"actor", "critic"},
    "AWAC": {"actor", "critic"},
    "IQL": {"critic"},
    "mixAWAC": {"actor", "critic"},
    "LP_AWAC": {"actor", "critic", "cvae"},
}

STATES, ACTIONS, COMPONENTS, LATENTS = 4, 2, 5, 4
MAX_ACTION = 0.8
DISCOUNT, TEMPERATURE = 0.9, 0.5  # not the defaults, which a policy may not take for granted

# Draws of the right distribution fail a chi-square test at this level once in a million seeds.
SIGNIFICANCE = 1e-6
SPEC_FIELDS = set(RunSpec.__dataclass_fields__)


def make_policy(name, seed=0, **options):
    """A small policy as it is before training; fields of RunSpec are options, too."""
    torch.manual_seed(seed)
    usual = {"hidden": (16, 14, 12) if name == "DMPO_ant" else (16, 14), "discount": DISCOUNT}
    if name in (*MIXTURES, "mixAWAC"):
        usual["latent_disc_dim"] = COMPONENTS
    if name in MIXTURES:
        usual["temperature"] = TEMPERATURE
    spec = {"state_dim": STATES, "action_dim": ACTIONS, "max_action": MAX_ACTION}
    spec |= {key: value for key, value in options.items() if key in SPEC_FIELDS}
    own = {key: value for key, value in options.items() if key not in SPEC_FIELDS}
    hyperparameters = MODULES[name].Hyperparameters(**(usual | own))
    return getattr(MODULES[name], name)(RunSpec(**spec), hyperparameters)


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


OTHER_CHOICES = {
    "weight_type": "raw",
    "score_type": "q",
    "target_clip": "data",
    "log_std": "state",
}


def other_value(name, value):
    """A value of the same kind as a hyperparameter's default, and not equal to it."""
    if name in OTHER_CHOICES:
        return OTHER_CHOICES[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (16, 8, 4, 2)
    return value + 1 if isinstance(value, int) else value / 2 + 0.2


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


def close(tensor, expected, rtol=1e-9):
    np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=rtol, atol=1e-12)


# The noise of a policy, drawn again from the same seed.


def gumbel(*shape):
    return -torch.empty(*shape).exponential_().log().numpy()


def normal(*shape):
    return torch.randn(*shape).numpy()


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


def capture_latents(embedding, run):
    """The 2-d latents that enter an actor while `run()`."""
    seen = []
    hook = embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    run()
    hook.remove()
    return [latent for latent in seen if latent.ndim == 2]


def train(policy, steps, buffer=None):
    buffer = buffer or make_buffer()
    for _ in range(steps):
        policy.train(buffer, 8)


def loss_of(policy, name, batch):
    """A policy's loss by its method's name."""
    if name in ("value_loss", "actor_loss") and isinstance(policy, IQL.IQL):
        return getattr(policy, name)(batch, policy.target_value(batch))
    return getattr(policy, name)(batch)


def decoded(policy, actor, state, noise=0.0):
    latent = policy.hp.max_latent_action * np.tanh(formulas.mlp(actor, state)) + noise
    return formulas.mlp(policy.cvae_target.decoder, state, latent)


def is_finite(policy):
    """Whether every parameter is."""
    networks = policy.networks().values()
    return all(p.isfinite().all() for network in networks for p in network.parameters())
