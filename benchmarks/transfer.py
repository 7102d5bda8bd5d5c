"""How much D4RL's physics matters: our behaviours on it and on gymnasium's, as it comes.

    python -m benchmarks.transfer [--episodes 100] [--out docs]

Every behaviour of halfcheetah, hopper and walker2d, trained on D4RL's physics, acts by its mean
from 100 seeded starts on three environments: ours, and gymnasium's -v4 and -v5 as they come, whose
capsules are heavier and whose contact margins are doubled. Writes `transfer.md`, all behaviours in
a table, and `transfer.png` (which needs matplotlib). It takes nine minutes of one
core.
"""

import contextlib
import math
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import gymnasium
import numpy as np
from tqdm import tqdm

import d4rl_tasks
from d4rl_tasks.command_line import Parser
from d4rl_tasks.environments import available_cores
from d4rl_tasks.files import atomic_path
from d4rl_tasks.synthetic.behaviours import Behaviour, load_behaviour, read_manifest
from d4rl_tasks.synthetic.train_behaviour import returns_of

ROBOTS = {"halfcheetah": "HalfCheetah", "hopper": "Hopper", "walker2d": "Walker2d"}
# Colours that differ in brightness too, and for every kind of colour vision.
PHYSICS = {"D4RL": "#0072b2", "-v4": "#e69f00", "-v5": "#cc79a7"}
MARKERS = {"D4RL": "o-", "-v4": "s-", "-v5": "^--"}  # -v5 often covers -v4


@dataclass(frozen=True)
class Measurement:
    """A behaviour's normalised score on one physics, times 100, and its standard error."""

    robot: str
    training_steps: int
    role: str
    physics: str
    mean: float
    error: float


def returns_on_d4rl(robot: str, behaviour: Behaviour, episodes: int) -> np.ndarray:
    """(episodes,) undiscounted returns in our environment."""
    name = f"{robot}-expert-v2"
    with contextlib.closing(d4rl_tasks.make_vec(name, episodes, threads=1)) as environment:
        return returns_of(environment, behaviour, sampled=False)


def returns_on_gymnasium(name: str, behaviour: Behaviour, episodes: int) -> np.ndarray:
    """(episodes,) undiscounted returns in one of gymnasium's environments."""
    warnings.filterwarnings("ignore", message=".*out of date.*")
    environment = gymnasium.make(name, disable_env_checker=True)
    returns = np.zeros(episodes)
    for episode in range(episodes):
        observation, _ = environment.reset(seed=episode)
        over = False
        while not over:
            action = behaviour.mean_action(observation[None])[0]
            observation, reward, terminated, truncated, _ = environment.step(action)
            returns[episode] += reward
            over = terminated or truncated
    environment.close()
    return returns


def measure(robot: str, entry: dict, physics: str, episodes: int) -> Measurement:
    """One behaviour on one physics."""
    behaviour = load_behaviour(entry["file"])
    if physics == "D4RL":
        returns = returns_on_d4rl(robot, behaviour, episodes)
    else:
        returns = returns_on_gymnasium(ROBOTS[robot] + physics, behaviour, episodes)
    scores = 100 * d4rl_tasks.normalized_score(f"{robot}-expert-v2", returns)
    error = scores.std(ddof=1) / math.sqrt(episodes)
    role = entry.get("role", "")
    return Measurement(robot, entry["training_steps"], role, physics, scores.mean(), error)


def measure_all(episodes: int) -> list[Measurement]:
    """All behaviours on all physics, on all cores."""
    jobs = [
        (robot, entry, physics, episodes)
        for robot in ROBOTS
        for entry, physics in product(read_manifest()[robot], PHYSICS)
    ]
    with ProcessPoolExecutor(available_cores()) as pool:
        futures = [pool.submit(measure, *job) for job in jobs]
        return [future.result() for future in tqdm(futures, desc="transfer", unit="run")]


def table(measurements: list[Measurement]) -> str:
    """Markdown: a line for every behaviour."""
    lines = [
        "| behaviour | training steps | D4RL's physics | gymnasium -v4 | gymnasium -v5 |",
        "|---|---|---|---|---|",
    ]
    behaviours: dict[tuple, dict[str, str]] = {}
    for one in measurements:
        label = f"{one.robot} {one.role}".strip()
        cells = behaviours.setdefault((label, one.training_steps), {})
        cells[one.physics] = f"{one.mean:.1f} ± {one.error:.1f}"
    for (label, steps), cells in behaviours.items():
        lines.append(f"| {label} | {steps:,} | " + " | ".join(cells[p] for p in PHYSICS) + " |")
    return "\n".join(lines) + "\n"


def draw(measurements: list[Measurement], path: Path) -> None:
    """A panel for every robot: score against training steps, a line for every physics."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(ROBOTS), figsize=(12, 3.8), layout="constrained")
    for axis, robot in zip(axes, ROBOTS, strict=True):
        for physics, color in PHYSICS.items():
            ours = [one for one in measurements if (one.robot, one.physics) == (robot, physics)]
            axis.errorbar(
                [one.training_steps / 1_000 for one in ours],
                [one.mean for one in ours],
                yerr=[one.error for one in ours],
                fmt=MARKERS[physics],
                color=color,
                markersize=4,
                capsize=2,
                label="D4RL's physics" if physics == "D4RL" else f"gymnasium {physics}",
            )
        axis.set_title(robot)
        axis.set_xlabel("training steps of the behaviour (thousands)")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("normalised score (100: expert)")
    axes[0].legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def main() -> None:
    """Measure, print and write the table, draw the figure."""
    parser = Parser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--episodes", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="default: %(default)s")
    arguments = parser.parse_args()
    measurements = measure_all(arguments.episodes)
    text = table(measurements)
    print(text)
    with atomic_path(arguments.out / "transfer.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    draw(measurements, arguments.out / "transfer.png")


if __name__ == "__main__":
    main()
