"""Two runs of one thread each, beside one run of two threads: which gives more steps?

    python -m benchmarks.two_runs

Train steps a second on two cores, each way measured twice, alternately. Every run has a process of
its own.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier

import torch

from benchmarks.train_step import make_buffer, seconds
from d4rl_tasks.command_line import Parser
from experiment.options import POLICIES, policy_class, policy_module
from utils import RunSpec

STATE_DIM, ACTION_DIM, BATCH_SIZE = 17, 6, 256
STEPS = 1_000
START: Barrier


def begin(start: Barrier, threads: int) -> None:
    """Give a process its threads, and the barrier at which it waits for the others."""
    global START
    START = start
    torch.set_num_threads(threads)


def train(policy_name: str) -> float:
    """Train steps a second of one run."""
    hyperparameters = policy_module(policy_name).Hyperparameters()
    policy = policy_class(policy_name)(RunSpec(STATE_DIM, ACTION_DIM), hyperparameters)
    buffer = make_buffer(STATE_DIM, ACTION_DIM)
    seconds(lambda: policy.train(buffer, BATCH_SIZE), STEPS // 10)
    START.wait()
    return 1 / seconds(lambda: policy.train(buffer, BATCH_SIZE), STEPS)


def steps_per_second(policy_name: str, runs: int, threads: int) -> float:
    """Of some runs at once, together."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(runs)
    with ProcessPoolExecutor(runs, context, initializer=begin, initargs=(start, threads)) as pool:
        return sum(pool.map(train, [policy_name] * runs))


def main() -> None:
    """Measure every policy, and print a Markdown table."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=["IQL", "AWAC", "DMPO"])
    arguments = parser.parse_args()
    print("| policy | two processes of one thread, together | one process of two threads |")
    print("|---|---|---|")
    for name in arguments.policies:
        ways = ((2, 1), (1, 2))
        times = [[steps_per_second(name, *way) for way in ways] for _ in range(2)]
        cells = (", ".join(f"{one:.0f}" for one in way) for way in zip(*times, strict=True))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
