"""How like D4RL's own datasets are the synthetic ones?

    python -m benchmarks.likeness [--tasks walker2d-expert-v2 ...]

Generates the synthetic dataset of each task where it is not there yet, and compares it with what is
known of D4RL's file: its observations' mean and standard deviation (`d4rl_observations.json`, as
Decision Transformer's checkpoints have them), its episodes and their returns.

"offset" is the distance of the means in D4RL's standard deviations, root mean square over the
coordinates; "spread" is the ratio of the standard deviations, ours to D4RL's, the median of the
coordinates and in brackets the least and the greatest.
"""

import json
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from d4rl_tasks.command_line import Parser
from d4rl_tasks.datasets import load_dataset
from d4rl_tasks.synthetic.generate import default_transitions
from d4rl_tasks.tasks import get_task, normalized_score

OBSERVATIONS = json.loads(Path(__file__).with_name("d4rl_observations.json").read_text())
# Episodes of D4RL's v2 files, and their mean return where it is known.
EPISODES = {
    "halfcheetah-medium-v2": 1_000,
    "halfcheetah-expert-v2": 1_000,
    "halfcheetah-medium-replay-v2": 202,
    "halfcheetah-medium-expert-v2": 2_000,
    "hopper-medium-v2": 2_186,
    "hopper-medium-replay-v2": 2_040,
    "hopper-expert-v2": 1_030,
    "walker2d-medium-v2": 1_190,
    "walker2d-medium-replay-v2": 1_090,
    "walker2d-expert-v2": 1_000,
}
RETURNS = {"hopper-medium-v2": 1_422, "hopper-medium-replay-v2": 467}


class Likeness(NamedTuple):
    """A synthetic dataset beside D4RL's.

    Attributes:
        offset, spread: see the module's docstring; the spread of each coordinate, (S,).
        length: mean steps of an episode, of which the file's lanes cut the last ones short.
        score: normalised, of the mean return of these episodes.
    """

    task: str
    rows: int
    offset: float
    spread: np.ndarray
    length: float
    score: float


def compare(task: str, path: Path) -> Likeness:
    """Compare a file with D4RL's of that task."""
    theirs = OBSERVATIONS[task]
    with h5py.File(path, "r") as file:
        observations = file["observations"][:].astype(np.float64)
        ends = np.flatnonzero(file["terminals"][:] | file["timeouts"][:])
        rewards = file["rewards"][:].astype(np.float64)
    bounds = np.concatenate([[0], ends + 1])
    totals = np.add.reduceat(rewards, bounds[:-1])
    distance = (observations.mean(0) - theirs["mean"]) / theirs["std"]
    return Likeness(
        task,
        len(observations),
        float(np.sqrt(np.square(distance).mean())),
        observations.std(0) / theirs["std"],
        float(np.diff(bounds).mean()),
        float(normalized_score(task, totals.mean())),
    )


def line(one: Likeness) -> str:
    """A line of the table."""
    episodes, known = EPISODES.get(one.task), RETURNS.get(one.task)
    length = f"{default_transitions(get_task(one.task)) / episodes:.0f}" if episodes else ""
    score = f"{normalized_score(one.task, known):.2f}" if known else ""
    low, middle, high = np.quantile(one.spread, [0, 0.5, 1])
    return (
        f"| {one.task} | {one.rows:,} | {one.offset:.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) "
        f"| {one.length:.0f} | {length} | {one.score:.2f} | {score} |"
    )


def main() -> None:
    """Compare the tasks and print a Markdown table."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tasks", nargs="+", default=list(OBSERVATIONS), choices=OBSERVATIONS)
    arguments = parser.parse_args()
    print("| task | rows | offset | spread | episode, steps | D4RL's | score | D4RL's |")
    print("|---|---|---|---|---|---|---|---|")
    for task in arguments.tasks:
        print(line(compare(task, load_dataset(task, "synthetic").path)), flush=True)


if __name__ == "__main__":
    main()
