"""Where the time of a whole run goes: train steps, physics, and all the rest.

    python -m benchmarks.run --policy IQL --steps 20000

Runs the main job on a synthetic dataset in a folder of its own, with evaluations, logging, models
and checkpoints as a user has them, and times its parts. "rest" is everything between them.
"""

import contextlib
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import main_training
from d4rl_tasks import LockstepVectorEnv
from d4rl_tasks.command_line import Parser
from d4rl_tasks.synthetic.generate import generate
from experiment.checkpoints import Checkpoints
from experiment.diagnostics import Diagnostics
from experiment.loggers import TolerantLogger
from experiment.losses import LossLog
from experiment.options import POLICIES
from experiment.progress import Progress
from experiment.results import Results
from speed.compiled import CompiledTraining
from speed.cuda_graphs import CapturedTraining
from utils import Policy

TASK = "walker2d-medium-v2"
# The functions that are timed, by the part of a run that they belong to; "run" is the whole.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "run": [(main_training.Training, "train")],
    "train steps": [
        *((Policy, "train"), (CompiledTraining, "__call__"), (CapturedTraining, "__call__")),
    ],
    "physics": [(LockstepVectorEnv, "step"), (LockstepVectorEnv, "reset")],
    "actions": [(Policy, "select_action")],
    "losses": [(LossLog, "add"), (LossLog, "read")],
    "diagnostics": [(Diagnostics, "measure"), (main_training, "check_finite")],
    "results": [(Results, "add_evaluation")],
    "models": [(main_training, "save_model")],
    "checkpoints": [(Checkpoints, "write")],
    "logger": [(TolerantLogger, name) for name in ("evaluated", "finish", "close")],
    "figures": [(main_training.Training, "_figures")],
    "progress": [(Progress, name) for name in ("step", "show_losses", "show_evaluation")],
}
EXPECTED = ("train steps", "physics", "actions")


@contextlib.contextmanager
def timed(seconds: dict[str, float]) -> Iterator[None]:
    """Add each part's time, without that of the parts within it, to `seconds` meanwhile."""
    nested = [0.0]  # of the calls that are open, the time of the parts within

    def wrap(part: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*arguments, **options):
            start = time.perf_counter()
            nested.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                whole = time.perf_counter() - start
                seconds[part] += whole - nested.pop()
                nested[-1] += whole

        return call

    originals = [
        (part, owner, name, vars(owner)[name])
        for part, places in PARTS.items()
        for owner, name in places
    ]
    for part, owner, name, function in originals:
        setattr(owner, name, wrap(part, function))
    try:
        yield
    finally:
        for _, owner, name, function in originals:
            setattr(owner, name, function)


def measure(policy: str, steps: int, folder: Path, transitions: int = 20_000) -> dict[str, float]:
    """Seconds of each part of a run, "rest" included; they add up to `Training.train`'s."""
    dataset = folder / "data.hdf5"
    generate(TASK, dataset, transitions=transitions)
    seconds: dict[str, float] = defaultdict(float)
    argv = ["--policy", policy, "--env", TASK, "--source", str(dataset)]
    with contextlib.chdir(folder), timed(seconds):
        code = main_training.main([*argv, "--max_timesteps", str(steps)])
    if code:
        raise SystemExit(code)
    rest = seconds.pop("run")
    return dict(seconds) | {"rest": rest}


def table(seconds: dict[str, float]) -> str:
    """A Markdown table of the parts, and the share of the unexpected ones."""
    total = sum(seconds.values())
    lines = ["| part | seconds | share |", "|---|---|---|"]
    lines += [f"| {part} | {time:.1f} | {time / total:.1%} |" for part, time in seconds.items()]
    others = sum(time for part, time in seconds.items() if part not in EXPECTED) / total
    return "\n".join([*lines, "", f"except {', '.join(EXPECTED)}: {others:.1%}"])


def main() -> None:
    """Measure one run and print where its time went."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--policy", default="IQL", choices=POLICIES, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20_000, help="(default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(arguments.policy, arguments.steps, Path(folder))
    print(table(seconds))


if __name__ == "__main__":
    main()
