"""Updates: whom a loss moves, in which order, how often."""

import dataclasses

import pytest
import torch
from helpers import (
    MIXTURES,
    MODULES,
    TARGETS,
    VARIANTS,
    changed,
    loss_of,
    make_batch,
    make_buffer,
    make_policy,
    make_scattered_policy,
    other_value,
    parameters_of,
    train,
)

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

    # Gradients that another update has left in .grad must stay as they are.
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


HYPERPARAMETERS = [
    (name, field.name, other_value(field.name, field.default))
    for name, module in MODULES.items()
    for field in dataclasses.fields(module.Hyperparameters)
    if field.name != "hidden"  # the sizes of networks differ visibly
]
# What lets a hyperparameter matter.
CONDITIONS = {"ilr": {"info_reg": True}, "target_clip": {"return_range": (-0.1, 0.1)}}


@pytest.mark.parametrize(("name", "field", "value"), HYPERPARAMETERS)
def test_every_hyperparameter_matters(name, field, value):
    conditions = CONDITIONS.get(field, {})
    usual, other = (make_policy(name, **conditions, **more) for more in ({}, {field: value}))
    for policy in (usual, other):
        torch.manual_seed(1)
        train(policy, 4)
    before, after = parameters_of(usual), parameters_of(other)
    names, other_names = ({n: set(p) for n, p in one.items()} for one in (before, after))
    assert names != other_names or changed(before, after)


@pytest.mark.parametrize("name", MODULES)
def test_optimisers_have_the_learning_rates_of_the_hyperparameters(name):
    info = {"info_reg": True, "ilr": 3e-6} if name in MIXTURES else {}
    policy = make_policy(name, learning_rate=2e-3, **info)
    for key, optimizer in vars(policy).items():
        if isinstance(optimizer, torch.optim.Optimizer):
            rates = {group["lr"] for group in optimizer.param_groups}
            assert rates == {3e-6 if key == "info_optimizer" else 2e-3}, key


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_targets_never_have_gradients(name, options):
    policy = make_policy(name, **options)
    train(policy, 4)
    for network in TARGETS[name]:
        for parameter in getattr(policy, f"{network}_target").parameters():
            assert parameter.grad is None
            assert not parameter.requires_grad


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
        options = options | {"train_steps": 8}
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
    assert losses[0].keys() < losses[1].keys() or name == "LP_AWAC"
    for loss in losses[-1].values():
        assert loss.shape == () and not loss.requires_grad


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
