"""Train steps are few kernels, never read back, and have one result on every path."""

import importlib
import itertools
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import utils
from IQL import IQL
from LP_AWAC import LP_AWAC
from speed import products
from utils import MLP, ReplayBuffer, RunSpec, TwinCritic

STATES, ACTIONS = 17, 6
POLICIES = ["DMPO", "DMPO_ant", "AWAC", "IQL", "mixAWAC", "LP_AWAC"]
VARIANTS = [(name, {}) for name in POLICIES]
VARIANTS += [(name, {"info_reg": True}) for name in ("DMPO", "DMPO_ant")]

# Kernels of a train step, the mean over policy_freq steps. DMPO_ant has a layer more in every
# network, LP_AWAC updates five networks and three targets on every step.
MOST_KERNELS = {
    "DMPO": 150,
    "DMPO_ant": 195,
    "AWAC": 150,
    "IQL": 150,
    "mixAWAC": 150,
    "LP_AWAC": 230,
}

# These only look at memory, or reserve it: they start no kernel.
VIEWS = {
    "alias",
    "as_strided",
    "detach",
    "empty",
    "empty_like",
    "expand",
    "permute",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
    "_unsafe_view",
}
READ_BACK = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select"}


class Dispatched(TorchDispatchMode):
    """Counts the operators that are dispatched while it is active, by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        namespace, name = function.overloadpacket._qualified_op_name.split("::")
        if namespace != "profiler":
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def make_policy(name, seed=0, width=32, **options):
    torch.manual_seed(seed)
    module = importlib.import_module(name)
    hidden = (width,) * (3 if name == "DMPO_ant" else 2)
    hyperparameters = module.Hyperparameters(hidden=hidden, **options)
    # So short that IQL's learning rate falls within a test.
    return getattr(module, name)(RunSpec(STATES, ACTIONS, train_steps=60), hyperparameters)


def make_buffer(count=500, device="cpu"):
    rng = np.random.default_rng(0)
    return ReplayBuffer(
        rng.normal(size=(count, STATES)),
        rng.uniform(-1, 1, (count, ACTIONS)),
        rng.normal(size=(count, STATES)),
        rng.normal(size=count),
        (rng.random(count) < 0.1).astype(np.float64),
        device,
    )


def count_operators(policy, steps, batch_size=32):
    """Operators of `steps` train steps, after two that make the optimisers' state."""
    buffer = make_buffer()
    for _ in range(2):
        policy.train(buffer, batch_size)
    with Dispatched() as dispatched:
        for _ in range(steps):
            policy.train(buffer, batch_size)
    return dispatched.counts


LIBRARIES = get_args(products.Library)


@pytest.fixture(params=LIBRARIES)
def library(request, monkeypatch):
    """The library of matrix products, for one test, of small ones too."""
    monkeypatch.setattr(products, "_library", request.param)
    monkeypatch.setattr(products, "FEW_MULTIPLICATIONS", 0)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", POLICIES)
def test_a_train_step_starts_few_kernels(name):
    counts = count_operators(make_policy(name, width=256), steps=2, batch_size=256)
    kernels = sum(count for operator, count in counts.items() if operator not in VIEWS) / 2
    assert 50 < kernels <= MOST_KERNELS[name], counts


def test_the_count_sees_kernels_and_not_views():
    x = torch.ones(3, 4)
    with Dispatched() as dispatched:
        (x.t() @ x).relu_().sum().item()
    kernels = {name for name in dispatched.counts if name not in VIEWS}
    assert kernels == {"mm", "relu_", "sum", "_local_scalar_dense"}


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_hundred_train_steps_never_read_a_tensor_back(name, options):
    counts = count_operators(make_policy(name, **options), steps=100)
    assert counts.total() > 5_000
    assert not READ_BACK & counts.keys()
    # A copy to another device would be one of these.
    assert not {"_to_copy", "_copy_from"} & counts.keys()


def parents(event):
    """The operators around a profiled one, from the inside out."""
    while (event := event.cpu_parent) is not None:
        yield event.name


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_no_operator_of_a_train_step_reads_back_from_within(name, options):
    policy, buffer = make_policy(name, **options), make_buffer()
    for _ in range(2):
        policy.train(buffer, 32)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(2):
            policy.train(buffer, 32)
    read = [event for event in profiler.events() if event.name == "aten::_local_scalar_dense"]
    # Adam's count of its steps, which is a tensor of the CPU only where the parameters are.
    adams = [event for event in read if "aten::_fused_adam_" in parents(event)]
    assert len(adams) == len(read) > 0


def test_the_profiler_sees_what_an_operator_reads_back_from_within():
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.normal(torch.zeros(3), torch.ones(3))
    assert "aten::_local_scalar_dense" in {event.name for event in profiler.events()}


# oneDNN's path against PyTorch's own layers


def onednn(test):
    """A test that needs oneDNN, and turns it off for a while (which warns of TF32)."""
    is_missing = not torch.backends.mkldnn.is_available()
    test = pytest.mark.skipif(is_missing, reason="no oneDNN in this PyTorch")(test)
    return pytest.mark.filterwarnings("ignore:TF32")(test)


NETWORKS = {
    "mlp": (lambda: MLP([STATES, ACTIONS], (32, 24), 5), [(64, STATES), (64, ACTIONS)]),
    "one hidden layer": (lambda: MLP([STATES], (32,), 1), [(64, STATES)]),
    "components": (lambda: MLP([STATES, 8], (32, 24), 5), [(64, STATES), (8, 1, 8)]),
    "one hidden layer of components": (
        lambda: MLP([STATES, 8], (32,), 5),
        [(64, STATES), (8, 1, 8)],
    ),
    "actions of components": (
        lambda: TwinCritic(STATES, ACTIONS, (32, 24)),
        [(64, STATES), (8, 64, ACTIONS)],
    ),
    "single state": (lambda: TwinCritic(STATES, ACTIONS, (32, 24)), [(1, STATES), (1, ACTIONS)]),
}


def output_of(network, inputs):
    output = network(*inputs)
    return torch.stack(output) if isinstance(output, tuple) else output


@pytest.mark.parametrize(
    ("blas", "onednn", "expected"),
    [(1.0, 1.0, "BLAS"), (1.2, 1.0, "BLAS"), (2.0, 1.0, "oneDNN"), (1.0, 2.0, "BLAS")],
)
def test_the_products_are_onednns_where_it_is_clearly_faster(monkeypatch, blas, onednn, expected):
    seconds = itertools.cycle([blas, onednn, 7.0, 9.0])  # another program disturbs every other one
    monkeypatch.setattr(products, "_seconds", lambda run: next(seconds))
    monkeypatch.setattr(products, "_library", None)
    assert products.library() == products.library() == expected


def test_without_onednn_the_products_are_those_of_pytorchs_layers(monkeypatch):
    monkeypatch.setattr(products, "_library", None)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert products.library() == "BLAS"
    monkeypatch.setattr(products, "_library", "oneDNN")  # as a checkpoint may say
    assert not products.applies_to(torch.ones(2))


def test_a_measurement_leaves_the_number_of_threads():
    torch.set_num_threads(2)
    try:
        assert products._faster_library() in LIBRARIES
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@onednn
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize(("make", "shapes"), NETWORKS.values(), ids=NETWORKS)
def test_onednn_gives_the_values_and_gradients_of_pytorchs_layers(make, shapes, gaps):
    torch.manual_seed(0)
    network = make()
    # Columns of a batch, as the replay buffer gives them, have gaps between their rows.
    inputs = [torch.randn(*shape[:-1], shape[-1] + 3 * gaps)[..., : shape[-1]] for shape in shapes]
    for part in inputs:
        part.requires_grad_()
    targets = [*inputs, *network.parameters()]

    def run():
        output = output_of(network, inputs)
        # Squares, so that every output has a gradient of its own.
        return output, *torch.autograd.grad(output.square().sum(), targets)

    fast = run()
    with torch.no_grad():
        without_graph = output_of(network, inputs)
    with torch.backends.mkldnn.flags(enabled=False):
        expected = run()
    for actual, wanted in zip(fast, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(without_graph, expected[0], rtol=1e-4, atol=1e-5)


@onednn
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("make", "shapes"), NETWORKS.values(), ids=NETWORKS)
def test_second_derivatives_are_those_of_pytorchs_layers(make, shapes):
    torch.manual_seed(0)
    network = make()
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]

    def gradients():
        penalty = output_of(network, inputs).square().sum()  # and that of its gradients, WGAN-GP's
        for gradient in torch.autograd.grad(penalty, inputs, create_graph=True):
            penalty = penalty + (gradient.norm(dim=-1) - 1).square().sum()
        return torch.autograd.grad(penalty, [*inputs, *network.parameters()])

    fast = gradients()
    with torch.backends.mkldnn.flags(enabled=False):
        expected = gradients()
    for actual, wanted in zip(fast, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-4)


@onednn
@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_parameter_alone_has_no_gradient(frozen):
    torch.manual_seed(0)
    network, x = MLP([3], (8, 8), 2), torch.randn(5, 3)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.endswith(frozen))
    network(x).sum().backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.endswith(frozen)


def test_a_network_works_under_transforms_of_functions():
    torch.manual_seed(0)
    network, x = MLP([3], (8,), 2), torch.randn(5, 3)
    torch.testing.assert_close(torch.vmap(network)(x), network(x))
    jacobian = torch.func.vmap(torch.func.jacrev(network))(x)
    (expected,) = torch.autograd.grad(network(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(jacobian.sum(1), expected)


def test_hooks_on_layers_run_and_change_what_they_change():
    torch.manual_seed(0)
    network, x = MLP([3], (8,), 2), torch.randn(5, 3)
    seen = []
    network.rest[0].register_forward_hook(lambda layer, inputs, output: seen.append(output))
    network(x)
    assert len(seen) == 1
    network = MLP([3], (8,), 2)
    nn.utils.spectral_norm(network.first)
    network(x).sum().backward()
    assert network.first.weight_orig.grad is not None


def test_layers_replaced_later_are_used():
    torch.manual_seed(0)
    network, x = MLP([3], (8,), 2), torch.randn(5, 3)
    network.rest[1] = nn.Linear(8, 4)
    torch.testing.assert_close(network(x), network.rest(network.first(x)))
    network.rest[0] = nn.Tanh()
    torch.testing.assert_close(network(x), network.rest[1](network.first(x).tanh()))


@pytest.mark.parametrize("activation", ["nn.Tanh()", "nn.Identity()", "nn.Linear(8, 8)"])
def test_other_layers_that_a_researcher_writes_into_the_network_are_used(monkeypatch, activation):
    source = Path(utils.__file__).read_text()
    assert "nn.ReLU(inplace=True)" in source
    edited = ModuleType("edited")
    monkeypatch.setitem(sys.modules, "edited", edited)  # where dataclasses look their module up
    exec(source.replace("nn.ReLU(inplace=True)", activation), vars(edited))
    network, x = edited.MLP([3], (8,), 2), torch.randn(5, 3)
    between, last = network.rest
    hidden = between(F.linear(x, network.first.weight, network.first.bias))
    torch.testing.assert_close(network(x), F.linear(hidden, last.weight, last.bias))


@onednn
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", POLICIES)
def test_training_by_onednn_is_training_by_pytorchs_layers(name):
    weights = []
    for enabled in (True, False):
        policy = make_policy(name)
        buffer = make_buffer()
        torch.manual_seed(1)
        with torch.backends.mkldnn.flags(enabled=enabled):
            for _ in range(4):
                policy.train(buffer, 64)
        weights.append(dict(policy.critic.named_parameters()))
    for key, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][key], rtol=1e-3, atol=1e-4)


def test_a_frozen_call_passes_gradients_to_its_inputs_only():
    torch.manual_seed(0)
    network, x = MLP([3], (8,), 2), torch.randn(5, 3, requires_grad=True)
    output = utils.call_frozen(network, x)
    torch.testing.assert_close(output, network(x))
    output.sum().backward()
    (expected,) = torch.autograd.grad(network(x).sum(), x)
    torch.testing.assert_close(x.grad, expected)
    assert all(parameter.grad is None for parameter in network.parameters())


def losses_of(policy, batch):
    """All losses of a train step."""
    if isinstance(policy, IQL):
        target_value = policy.target_value(batch)
        value_loss = policy.value_loss(batch, target_value)
        return value_loss, policy.critic_loss(batch), policy.actor_loss(batch, target_value)
    losses = [policy.critic_loss(batch), policy.actor_loss(batch)]
    if hasattr(policy, "value"):
        losses.append(policy.value_loss(batch))
    if hasattr(policy, "info_posterior"):
        losses.append(policy.info_loss(batch))
    if isinstance(policy, LP_AWAC):
        losses.append(policy.cvae_loss(batch))
    return tuple(losses)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_the_losses_trace_without_a_graph_break(name, options):
    policy, batch = make_policy(name, **options), make_buffer().sample(32)
    torch.compiler.reset()
    traced = torch.compile(losses_of, fullgraph=True, backend="eager")
    torch.manual_seed(1)
    actual = traced(policy, batch)
    torch.manual_seed(1)
    expected = losses_of(policy, batch)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
