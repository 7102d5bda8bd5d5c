"""How the cost of a train step grows with batch size, components and hidden width.

    python -m benchmarks.scale [--threads 1] [--out docs]

One size at a time is changed, the others stay at batch 256, K = 8, hidden 256 (state 17, action 6).
Next to the time of a step stands its arithmetic, the floating-point operations of the matrix
products as PyTorch counts them: both relative to the smallest size. Times are the least of several
repeats and of processor time, which other programs disturb little. Writes `scale.md` and
`scale.png` (which needs matplotlib).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train_step import make_buffer, make_policy
from d4rl_tasks.command_line import Parser
from d4rl_tasks.files import atomic_path

STATES, ACTIONS = 17, 6
USUAL = {"batch_size": 256, "components": 8, "hidden": 256}
SIZES = {
    "batch_size": (64, 128, 256, 512, 1024),
    "components": (1, 2, 4, 8, 16, 32),
    "hidden": (64, 128, 256, 512, 1024),
}
LABELS = {"batch_size": "batch size", "components": "components K", "hidden": "hidden width"}
POLICIES = {"DMPO": tuple(SIZES), "AWAC": ("batch_size", "hidden")}
REPEATS = 7
SECONDS = 0.3  # of a repeat


@dataclass(frozen=True)
class Point:
    """A step of a policy at one size: milliseconds of processor time and 1e9 operations."""

    policy: str
    changed: str
    size: int
    milliseconds: float
    gflop: float


def seconds_of(step: Callable[[], object]) -> float:
    """Least mean processor time of a call."""
    start = time.process_time()
    step()
    count = max(2, int(SECONDS / max(time.process_time() - start, 1e-4)))
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        for _ in range(count):
            step()
        times.append((time.process_time() - start) / count)
    return min(times)


def operations(step: Callable[[], object], steps: int) -> float:
    """Floating-point operations of a call, the mean over `steps` calls."""
    # oneDNN's products are not among those that PyTorch counts.
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        for _ in range(steps):
            step()
    return counter.get_total_flops() / steps


def measure(policy: str, changed: str, size: int) -> Point:
    """One point, on random data."""
    sizes = USUAL | {changed: size}
    torch.manual_seed(0)
    buffer = make_buffer(STATES, ACTIONS)
    trained = make_policy(policy, SimpleNamespace(state_dim=STATES, action_dim=ACTIONS, **sizes))
    pair = lambda: [trained.train(buffer, sizes["batch_size"]) for _ in range(2)]  # noqa: E731
    pair()
    seconds, flop = seconds_of(pair) / 2, operations(pair, 1) / 2
    return Point(policy, changed, size, 1e3 * seconds, flop / 1e9)


def growth(points: list[Point]) -> list[tuple[float, float]]:
    """Time and arithmetic of each point, relative to the first."""
    first = points[0]
    return [(p.milliseconds / first.milliseconds, p.gflop / first.gflop) for p in points]


def table(series: list[list[Point]]) -> str:
    """Markdown."""
    lines = ["| policy | changed | ms | 1e9 operations | time grows by | arithmetic grows by |"]
    lines.append("|---" * 6 + "|")
    for points in series:
        for point, (time_growth, flop_growth) in zip(points, growth(points), strict=True):
            lines.append(
                f"| {point.policy} | {LABELS[point.changed]} {point.size} "
                f"| {point.milliseconds:.2f} | {point.gflop:.3f} "
                f"| {time_growth:.1f} | {flop_growth:.1f} |"
            )
    return "\n".join(lines) + "\n"


def draw(series: list[list[Point]], path: Path) -> None:
    """A panel for each size that is changed: time solid, arithmetic dashed, both axes logs."""
    import matplotlib
    from matplotlib.figure import Figure

    from reports.style import RC, policy_colour

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        for axis, changed in zip(figure.subplots(1, 3), SIZES, strict=True):
            for points in series:
                if points[0].changed != changed:
                    continue
                sizes, colour = [p.size for p in points], policy_colour(points[0].policy)
                times, flops = zip(*growth(points), strict=True)
                name = points[0].policy
                axis.plot(sizes, times, "o-", color=colour, label=f"{name}, time")
                axis.plot(sizes, flops, "--", color=colour, label=f"{name}, arithmetic")
            axis.set_xscale("log", base=2)
            axis.set_yscale("log", base=2)
            axis.set_xticks(SIZES[changed], [str(size) for size in SIZES[changed]])
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.minorticks_off()
            axis.set_xlabel(LABELS[changed])
            axis.legend(fontsize=7)
        figure.axes[0].set_ylabel("a train step, relative to the smallest size")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})


def main() -> None:
    """Measure, print, write."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    series = [
        [measure(policy, changed, size) for size in SIZES[changed]]
        for policy, changes in POLICIES.items()
        for changed in changes
    ]
    print(table(series))
    with atomic_path(arguments.out / "scale.md") as temporary:
        temporary.write_text(table(series))
    draw(series, arguments.out / "scale.png")


if __name__ == "__main__":
    main()
