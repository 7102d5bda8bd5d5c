"""The cost of one train step of each policy, in G and in steps per second.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --compile

G is the time of one float32 F.linear of (2048, 256) by (256, 256) on the same threads, taken right
before each measurement: "G" is the median of their ratios, "best" the least step over the least G,
which another program's load disturbs less. "products" is the share of a profiled step that matrix
products take; the profiler's own time counts as the rest. Batches are drawn from random data.
"""

import argparse
import dataclasses
import timeit
from collections.abc import Callable
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from d4rl_tasks.command_line import Parser
from experiment.options import POLICIES, policy_class, policy_module
from speed import products
from speed.compiled import CompiledTraining
from utils import Policy, ReplayBuffer, RunSpec

TRANSITIONS = 100_000
STEPS = 8
PRODUCTS = {"mkldnn::_linear_pointwise"} | {
    f"aten::{name}"
    for name in ("mm", "addmm", "_addmm_activation", "bmm", "baddbmm", "mv", "addmv")
}


def make_buffer(state_dim: int, action_dim: int, device: str = "cpu") -> ReplayBuffer:
    """Random transitions."""
    rng = np.random.default_rng(0)
    states, next_states = rng.standard_normal((2, TRANSITIONS, state_dim), np.float32)
    actions = np.tanh(rng.standard_normal((TRANSITIONS, action_dim), np.float32))
    rewards = rng.standard_normal(TRANSITIONS, np.float32)
    return ReplayBuffer(states, actions, next_states, rewards, rewards > 3, device=device)


def make_policy(name: str, arguments: argparse.Namespace, device: str = "cpu") -> Policy:
    """A policy with the sizes asked for; DMPO_ant has a hidden layer more."""
    known = policy_module(name).Hyperparameters
    layers = 3 if name == "DMPO_ant" else 2
    sizes = {"hidden": (arguments.hidden,) * layers, "latent_disc_dim": arguments.components}
    names = {field.name for field in dataclasses.fields(known)}
    hyperparameters = known(**{k: v for k, v in sizes.items() if k in names})
    spec = RunSpec(arguments.state_dim, arguments.action_dim)
    return policy_class(name)(spec, hyperparameters, device)


def make_step(
    policy: Policy, buffer: ReplayBuffer, arguments: argparse.Namespace
) -> Callable[[], object]:
    """A policy's train step; a compiled one is compiled already."""
    if not arguments.compile:
        return lambda: policy.train(buffer, arguments.batch_size)
    training = CompiledTraining(policy, buffer, arguments.batch_size, refuse)
    for _ in range(2 * training.cycle):
        training(1)
    return lambda: training(1)


def refuse(note: str) -> None:
    """End where steps are not made faster, whose time would be taken for that of faster ones."""
    raise SystemExit(note)


def seconds(run: Callable[[], object], count: int) -> float:
    """Mean time of a call over `count` calls."""
    return timeit.timeit(run, number=count) / count


def measure(
    step: Callable[[], object], linear: Callable[[], object], repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of a step and of one G, `repeats` of each by turns."""
    seconds(step, STEPS)
    times = []
    for _ in range(repeats):
        unit = seconds(linear, STEPS)
        times.append((seconds(step, STEPS), unit))
    steps, units = np.array(times).T
    return steps, units


def share_of_products(step: Callable[[], object]) -> float:
    """Share of a step's time that its matrix products take."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        whole = STEPS * seconds(step, STEPS)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return 1e-6 * sum(times.get(name, 0) for name in PRODUCTS) / whole


def main() -> None:
    """Measure every policy and print a Markdown table."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--components", type=int, default=8, help="K of the mixtures")
    parser.add_argument("--hidden", type=int, default=256, help="width of the hidden layers")
    parser.add_argument("--compile", action="store_true", help="compiled steps")
    parser.add_argument(
        "--library",
        choices=get_args(products.Library),
        help="of the products (default: the faster)",
    )
    parser.add_argument("--state_dim", type=int, default=17)
    parser.add_argument("--action_dim", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.library:
        products.use(arguments.library)
    torch.manual_seed(0)
    buffer = make_buffer(arguments.state_dim, arguments.action_dim)
    rows, weight = torch.randn(2048, 256), torch.randn(256, 256)
    print("| policy | G | best | ms | steps/s | products |")
    print("|---|---|---|---|---|---|")
    for name in arguments.policies:
        policy = make_policy(name, arguments)
        step = make_step(policy, buffer, arguments)
        steps, units = measure(step, lambda: F.linear(rows, weight), arguments.repeats)
        time_of_step = np.median(steps)
        print(
            f"| {name} | {np.median(steps / units):.1f} | {steps.min() / units.min():.1f} "
            f"| {time_of_step * 1e3:.1f} | {1 / time_of_step:.0f} "
            f"| {share_of_products(step):.0%} |"
        )


if __name__ == "__main__":
    main()
