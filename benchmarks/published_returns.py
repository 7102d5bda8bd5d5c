"""Returns that others published for their policies, and ours of the same policies.

    python -m benchmarks.published_returns --policies FOLDER [--episodes 100]

The folder holds policies of "Benchmarks for Deep Off-Policy Evaluation" (Fu et al., ICLR 2021,
https://github.com/google-research/deep_ope), which D4RL's authors trained and evaluated on MuJoCo
2.0: `<robot>_<snapshot>.npz` with the arrays named in `behaviours/README.md`, and
`published_returns.json`, which maps `<robot>_online_<snapshot>` (walker for walker2d) to
`return_mean` and `return_std`.
Actions are sampled, as theirs were. Prints a Markdown table.
"""

import contextlib
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import d4rl_tasks
from d4rl_tasks import D4RLTaskError
from d4rl_tasks.command_line import Parser, number, run_program
from d4rl_tasks.files import read_errors, read_small
from d4rl_tasks.robots import task_sizes
from d4rl_tasks.synthetic.policy_files import read_policy
from d4rl_tasks.synthetic.train_behaviour import returns_of

PUBLISHED = "published_returns.json"
THEIR_NAMES = {"walker2d": "walker"}


@dataclass(frozen=True)
class Comparison:
    """A policy's published return, mean and std, and the returns of our episodes, (n,)."""

    policy: str
    published_mean: float
    published_std: float
    returns: np.ndarray

    @property
    def error(self) -> float:
        """Standard error of our mean."""
        return float(self.returns.std(ddof=1) / math.sqrt(len(self.returns)))

    @property
    def distance(self) -> float:
        """Ours minus the published mean, in standard errors of ours."""
        return float((self.returns.mean() - self.published_mean) / self.error)


def compare(folder: Path, episodes: int) -> list[Comparison]:
    """Roll out every policy of a folder.

    Raises:
        D4RLTaskError: the folder has no policies or no published returns of one.
    """
    files = [path for path in folder.glob("*.npz") if re.fullmatch(r"[a-z0-9]+_\d+", path.stem)]
    if not files:
        raise D4RLTaskError(f"{folder} has no files <robot>_<snapshot>.npz: give another folder")
    published = _read_published(folder / PUBLISHED)
    return [
        _compare(path, published, episodes)
        for path in tqdm(sorted(files, key=_order), desc="policies", disable=None)
    ]


def _order(path: Path) -> tuple[str, int]:
    robot, snapshot = path.stem.split("_")
    return robot, int(snapshot)


def _read_published(path: Path) -> dict[str, tuple[float, float]]:
    try:
        with read_errors(path):
            entries = json.loads(read_small(path, 1 << 20))
        return {
            name: (float(entry["return_mean"]), float(entry["return_std"]))
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise D4RLTaskError(f"{path} is not a table of published returns ({error!r})") from error


def _compare(path: Path, published: dict, episodes: int) -> Comparison:
    robot, snapshot = _order(path)
    name = f"{THEIR_NAMES.get(robot, robot)}_online_{snapshot}"
    if name not in published:
        raise D4RLTaskError(f"{PUBLISHED} has no entry {name!r}, the policy of {path.name}")
    task = d4rl_tasks.get_task(f"{robot}-medium-v2")
    policy = read_policy(path, *task_sizes(task))
    with contextlib.closing(d4rl_tasks.make_vec(task.name, episodes)) as environment:
        returns = returns_of(environment, policy, sampled=True)
    return Comparison(path.stem, *published[name], returns)


def table(comparisons: list[Comparison]) -> str:
    """Markdown: a line for every policy."""
    lines = [
        "| policy | published | ours | standard error of ours | difference in standard errors |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.policy} | {one.published_mean:.0f} ± {one.published_std:.0f} "
        f"| {one.returns.mean():.0f} ± {one.returns.std(ddof=1):.0f} | {one.error:.0f} "
        f"| {one.distance:+.1f} |"
        for one in comparisons
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = Parser(
        prog="python -m benchmarks.published_returns", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--policies", type=Path, required=True, help="the folder")
    parser.add_argument(
        "--episodes", type=number(int, 2), default=100, help="of each policy; default: %(default)s"
    )
    options = parser.parse_args(arguments)
    return run_program(lambda: print(table(compare(options.policies, options.episodes)), end=""))


if __name__ == "__main__":
    sys.exit(main())
