"""Train steps on a GPU: captured as CUDA graphs, and one by one.

    python -m benchmarks.gpu [--steps 2000]

Prints a table with the steps per second of both, the kernels of a step and the time that they take
on the GPU, and how far the losses of the first 100 captured steps are from those one by one, from
the same state and draws: the largest relative difference. Batches are drawn from random data.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.train_step import make_buffer, make_policy, refuse
from d4rl_tasks.command_line import Parser
from experiment.options import POLICIES
from speed.checked import Losses
from speed.cuda_graphs import CapturedTraining
from utils import Policy, ReplayBuffer

STEPS_COMPARED = 100
STEPS_PROFILED = 20

Train = Callable[[int], list[Losses]]


def trained_alike(name: str, arguments: argparse.Namespace) -> tuple[Policy, ReplayBuffer]:
    """A policy and a buffer on the GPU; two calls give equal ones, with equal draws."""
    torch.manual_seed(0)
    buffer = make_buffer(arguments.state_dim, arguments.action_dim, "cuda")
    return make_policy(name, arguments, "cuda"), buffer


def one_by_one(policy: Policy, buffer: ReplayBuffer, batch_size: int) -> Train:
    """Trains one step at a call."""
    return lambda most: [policy.train(buffer, batch_size)]


def losses_of(train: Train, steps: int) -> list[Losses]:
    """The losses of so many steps."""
    losses: list[Losses] = []
    while len(losses) < steps:
        losses += train(steps - len(losses))
    return losses


def steps_per_second(train: Train, steps: int) -> float:
    """How many train steps the GPU finishes in a second."""
    losses_of(train, STEPS_PROFILED)
    torch.cuda.synchronize()
    start = time.perf_counter()
    losses_of(train, steps)
    torch.cuda.synchronize()
    return steps / (time.perf_counter() - start)


def kernels(train: Train) -> tuple[float, float]:
    """Kernels of a train step, and the milliseconds that they take."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        losses_of(train, STEPS_PROFILED)
        torch.cuda.synchronize()
    events = profiler.key_averages()
    count = sum(event.count for event in events if event.self_device_time_total)
    microseconds = sum(event.self_device_time_total for event in events)
    return count / STEPS_PROFILED, microseconds / 1e3 / STEPS_PROFILED


def largest_difference(first: list[Losses], second: list[Losses]) -> float:
    """The largest relative difference of two series of losses."""
    pairs: list[tuple[Tensor, Tensor]] = [
        (one[name], other[name]) for one, other in zip(first, second, strict=True) for name in one
    ]
    relative = torch.stack([(a - b).abs() / b.abs().clamp(min=1e-3) for a, b in pairs])
    return relative.max().item()  # NaN if there is one


def measure(name: str, arguments: argparse.Namespace) -> str:
    """A line of the table."""
    policy, buffer = trained_alike(name, arguments)
    single = one_by_one(policy, buffer, arguments.batch_size)
    expected = losses_of(single, STEPS_COMPARED)
    count, busy = kernels(single)
    slow = steps_per_second(single, arguments.steps // 4)
    policy, buffer = trained_alike(name, arguments)
    captured = CapturedTraining(policy, buffer, arguments.batch_size, refuse)
    difference = largest_difference(losses_of(captured, STEPS_COMPARED), expected)
    fast = steps_per_second(captured, arguments.steps)
    return (
        f"| {name} | {slow:.0f} | {fast:.0f} | {fast / slow:.1f} | {count:.0f} | {busy:.2f} "
        f"| {difference:.1g} |"
    )


def main() -> None:
    """Measure every policy and print a Markdown table."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES)
    parser.add_argument("--steps", type=int, default=2_000, help="(default: %(default)s)")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this machine has no GPU that PyTorch can use")
    vars(arguments).update(hidden=256, components=8, state_dim=17, action_dim=6, batch_size=256)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
    print("| policy | one by one, steps/s | captured | ratio | kernels | their ms | difference |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.policies:
        print(measure(name, arguments), flush=True)


if __name__ == "__main__":
    main()
